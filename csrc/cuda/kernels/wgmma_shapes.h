// The instances of the WGMMA data kernel. columns x w_planes x blocks / 2 sums per thread, at most
// 128: larger products share their operands better, smaller ones fit where memory is short. Results
// that leave through shared memory need more registers: there four blocks of 128 sums would spill.
#pragma once

#include "wgmma_data_sizes.h"

namespace convt3d {

struct WgmmaShape {
  int columns, w_planes, blocks;
};

constexpr WgmmaShape kWgmmaShapesChannelsLast[] = {
    {16, 1, 2}, {16, 1, 4}, {32, 1, 1}, {32, 1, 2}, {32, 1, 4},  {48, 1, 1},
    {48, 1, 2}, {64, 1, 1}, {64, 1, 2}, {64, 1, 4}, {128, 1, 1}, {128, 1, 2}};

// Stride 2 and 4 along w keep all their residues in a tile: lines of the result stay whole.
constexpr WgmmaShape kWgmmaShapesContiguous[] = {
    {16, 1, 2}, {16, 1, 4}, {32, 1, 1},  {32, 1, 2},  {32, 1, 4}, {48, 1, 1}, {48, 1, 2},
    {64, 1, 1}, {64, 1, 2}, {128, 1, 1}, {128, 1, 2}, {16, 2, 2}, {16, 2, 4}, {32, 2, 1},
    {32, 2, 2}, {64, 2, 1}, {64, 2, 2},  {16, 4, 1},  {16, 4, 2}};

// Whether there is an instance: float32 results would spill where four blocks have 128 sums.
constexpr bool exists(const WgmmaShape& shape, int unit_elements) {
  return unit_elements == 8 || shape.blocks < 4 || shape.columns < 64;
}

constexpr bool matches(const WgmmaShape& shape, const WgmmaDataPlan& plan) {
  return shape.columns == plan.columns && shape.w_planes == plan.w_planes &&
         shape.blocks == plan.blocks;
}

}  // namespace convt3d

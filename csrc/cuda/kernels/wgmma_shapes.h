// The instances of the WGMMA data kernel. kColumns x kPlanes x kBlocks / 2 sums per thread, at most
// 128; more columns and blocks per product of shared-memory reads, fewer where tiles are small.
#pragma once

#include "wgmma_data.h"

namespace convt3d {

struct WgmmaShape {
  int columns, w_planes, blocks;
};

constexpr WgmmaShape kWgmmaShapesChannelsLast[] = {
    {16, 1, 2}, {16, 1, 4}, {32, 1, 1}, {32, 1, 2}, {32, 1, 4},  {48, 1, 1},
    {48, 1, 2}, {64, 1, 1}, {64, 1, 2}, {64, 1, 4}, {128, 1, 1}, {128, 1, 2}};

// Stride 2 and 4 along w keep all their residues in a tile: lines of the result stay whole.
constexpr WgmmaShape kWgmmaShapesContiguous[] = {
    {16, 1, 2}, {16, 1, 4}, {32, 1, 1}, {32, 1, 2},  {32, 1, 4},  {48, 1, 1}, {48, 1, 2},
    {64, 1, 1}, {64, 1, 2}, {64, 1, 4}, {128, 1, 1}, {128, 1, 2}, {16, 2, 2}, {16, 2, 4},
    {32, 2, 1}, {32, 2, 2}, {32, 2, 4}, {64, 2, 1},  {64, 2, 2},  {16, 4, 1}, {16, 4, 2}};

constexpr bool matches(const WgmmaShape& shape, const WgmmaDataPlan& plan) {
  return shape.columns == plan.columns && shape.w_planes == plan.w_planes &&
         shape.blocks == plan.blocks;
}

}  // namespace convt3d

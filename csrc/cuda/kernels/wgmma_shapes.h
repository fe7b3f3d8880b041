// The instances of the WGMMA data kernel. Sums per thread: columns x w_planes x blocks / 2, with
// merged taps columns x merged_taps x blocks / 2; at most 128: larger products share their operands
// better, smaller ones fit where memory is short. Results that leave through shared memory need
// more registers: there four blocks of 128 sums would spill.
#pragma once

#include "wgmma_data_sizes.h"

namespace convt3d {

struct WgmmaShape {
  int columns, w_planes, blocks, merged_taps;
  int h_planes = 1;
  int warpgroups = 2;
};

constexpr WgmmaShape kWgmmaShapesChannelsLast[] = {
    {16, 1, 2, 0},
    {16, 1, 4, 0},
    {32, 1, 1, 0},
    {32, 1, 2, 0},
    {32, 1, 4, 0},
    {48, 1, 2, 0},
    {64, 1, 1, 0},
    {64, 1, 2, 0},
    {64, 1, 4, 0},
    {128, 1, 1, 0},
    {128, 1, 2, 0},
    {16, 2, 2, 0},
    {16, 2, 4, 0},
    {32, 2, 1, 0},
    {32, 2, 2, 0},
    {64, 2, 1, 0},
    {64, 2, 2, 0},
    {128, 2, 1, 0},
    // Few channels: the taps of stride 1, 2 and 4 along w side by side.
    {16, 1, 4, 3},
    {24, 1, 2, 3},
    {16, 1, 2, 7},
    {8, 2, 4, 3},
    {8, 2, 2, 4},
    {16, 2, 4, 3},
    {32, 2, 2, 3},
    {8, 4, 1, 4},
    // Patches of 4 x 4, with the taps along h.
    {8, 4, 1, 16, 4},
    // Three warpgroups: more of the latencies of parts and stores are hidden. Only where 160
    // registers of a thread are enough.
    {32, 1, 2, 0, 1, 3},
    {32, 1, 4, 0, 1, 3},
    {48, 1, 2, 0, 1, 3},
    {64, 1, 2, 0, 1, 3},
    {128, 1, 1, 0, 1, 3},
    {16, 1, 2, 7, 1, 3},
    {24, 1, 2, 3, 1, 3},
    {8, 2, 4, 3, 1, 3}};

// Stride 2 and 4 along w keep all their residues in a tile: lines of the result stay whole.
constexpr WgmmaShape kWgmmaShapesContiguous[] = {
    {16, 1, 2, 0},
    {16, 1, 4, 0},
    {32, 1, 1, 0},
    {32, 1, 2, 0},
    {32, 1, 4, 0},
    {48, 1, 2, 0},
    {64, 1, 1, 0},
    {64, 1, 2, 0},
    {128, 1, 1, 0},
    {128, 1, 2, 0},
    {16, 2, 4, 0},
    {32, 2, 1, 0},
    {32, 2, 2, 0},
    {64, 2, 1, 0},
    {64, 2, 2, 0},
    {16, 4, 2, 0},
    // Few channels, as above; groups of eight can only be read here.
    {16, 1, 4, 3},
    {24, 1, 2, 3},
    {16, 1, 2, 7},
    {8, 2, 4, 3},
    {8, 2, 2, 4},
    {8, 2, 4, 7},
    {8, 4, 1, 4},
    {8, 4, 1, 16, 4}};

// Whether there is an instance. Float32 results would spill where four blocks have 128 sums; and of
// merged taps only the commonest, three, four and patches, are worth their compilation.
constexpr bool exists(const WgmmaShape& shape, int unit_elements) {
  if (unit_elements == 8) return true;
  if (shape.h_planes > 1) return true;
  if (shape.merged_taps > 0) return shape.merged_taps <= 4 && shape.w_planes < 4;
  return shape.blocks < 4 || shape.columns * shape.w_planes < 64;
}

constexpr bool matches(const WgmmaShape& shape, const WgmmaDataPlan& plan) {
  return shape.columns == plan.columns && shape.w_planes == plan.w_planes &&
         shape.h_planes == wgmma_h_planes(plan) && shape.blocks == plan.blocks &&
         shape.merged_taps == plan.merged_taps && shape.warpgroups == plan.warpgroups;
}

}  // namespace convt3d

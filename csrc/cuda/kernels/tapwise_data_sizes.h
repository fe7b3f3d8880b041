// The plan of tapwise_data and what follows from it. No CUDA headers: plans are made without a GPU.
#pragma once

#include "tensors.h"
#include "wgmma_data_sizes.h"

namespace convt3d {

constexpr int kTapwiseWarps = 8;  // that multiply
constexpr int kTapwiseRowBytes = 128;
constexpr int kTapwiseUnits = kTapwiseRowBytes / kWgmmaUnitBytes;  // of operand channels in a step

// What the plan decides. A work item is a tile of positions in (batch, d, h, w) and a column tile:
// `columns` result channels of one result plane. A step is one tap of 128 bytes of operand
// channels; the sums of all steps are those of `segments` parts of them, one added to the other.
struct TapwisePlan {
  WindowAxis axes[3];
  int unit_elements;  // of 16 bytes: 8, or 4 for float32
  int columns;        // 64 or 128
  int blocks;         // of 64 positions, for each of the two multiplying warpgroups: 1 or 2
  int tile[4];        // positions: samples, d, h, w
  int segments;
  bool split;  // segments are work items of their own
  int stages;  // in shared memory: the operands of a step each
};

CONVT3D_HOST_DEVICE constexpr int tapwise_rows(const TapwisePlan& plan) {
  return 2 * 64 * plan.blocks;
}

// The segment's first step, of so many.
CONVT3D_HOST_DEVICE constexpr int segment_begin(int segment, int segments, int steps) {
  return static_cast<int>(int64_t{segment} * steps / segments);
}

struct TapwiseSizes {
  int chunks;                                    // of operand channels per group
  int channel_tiles;                             // of result channels per group
  int planes;                                    // of the result
  int tiles[4];                                  // of positions, along samples, d, h, w
  int box_rows;                                  // positions of a tile
  int operand_bytes, weight_bytes, stage_bytes;  // of a step
  int barriers_at, shared_bytes;
  int64_t items;
  int counters;             // of warps of split tiles
  int64_t workspace_bytes;  // counters, then sums of segments
};
TapwiseSizes tapwise_sizes(const Problem& problem, Pass pass, const TapwisePlan& plan);

// What is multiplied at once, in registers.
struct TapwiseShape {
  int columns, blocks;
};
constexpr TapwiseShape kTapwiseShapes[] = {{64, 1}, {64, 2}, {128, 1}, {128, 2}};
// With 128 sums of a thread no registers are left for those of the segments before.
constexpr bool adds_segments(int columns, int blocks) { return columns * blocks <= 128; }
// Whether there is an instance: of float32, ptxas would have such products wait for each other.
constexpr bool exists(const TapwiseShape& shape, int unit_elements) {
  return unit_elements == 8 || adds_segments(shape.columns, shape.blocks);
}

}  // namespace convt3d

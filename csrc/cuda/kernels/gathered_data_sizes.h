// The plan of gathered_data and what follows from it. No CUDA headers: plans are made without a
// GPU.
#pragma once

#include "tensors.h"
#include "wgmma_data_sizes.h"

namespace convt3d {

constexpr int kGatheredStepBytes = 32;  // of operand channels, in a step of products
constexpr int kGatheredStageSteps = 4;  // in a weight stage; of float32 sums between additions
constexpr int kGatheredDataWarps = 8;   // that multiply

// What the plan decides. A work item is a tile of positions of one sample and a column tile:
// `columns` result channels of one result plane. A box is what all taps of the tile read of 32
// bytes of operand channels; a step is one tap of a box.
struct GatheredDataPlan {
  WindowAxis axes[3];
  int element_bytes;
  bool exact;  // float32: products of float32, not of TF32 values
  int columns;
  int blocks;             // of 64 positions, for each of the two multiplying warpgroups: 1 or 2
  int tile[3];            // positions: d, h, w
  int box_slots, stages;  // in shared memory; a stage holds the weights of kGatheredStageSteps
};

CONVT3D_HOST_DEVICE constexpr int gathered_rows(const GatheredDataPlan& plan) {
  return 2 * 64 * plan.blocks;
}

struct GatheredDataSizes {
  int chunks;         // of operand channels per group: boxes of a tile
  int channel_tiles;  // of result channels per group
  int planes;         // of the result
  int tiles[3];       // of positions
  int shift;          // elements from a box's beginning, on a 16-byte boundary, to its first read
  int lines_d, lines_h, pitch;  // of a box: per channel lines of so many elements
  int load_conflicts;           // ways in which a warp's loads meet the same bank
  int plane_bytes, box_bytes;
  int step_bytes, stage_bytes;  // of weights; exact: their high parts, then their low parts
  int plane_stages;             // of a column tile, at most
  int stages_at, taps_at, barriers_at, shared_bytes;
  int64_t items, packed_bytes;
};
GatheredDataSizes gathered_data_sizes(const Problem& problem, Pass pass,
                                      const GatheredDataPlan& plan);

// What is multiplied at once, in registers. Exact sums have no room for two blocks.
struct GatheredShape {
  int columns, blocks;
};
constexpr GatheredShape kGatheredShapes[] = {{32, 1}, {64, 1}, {128, 1}, {32, 2}, {64, 2}};
constexpr bool exists(const GatheredShape& shape, bool exact) {
  return !exact || shape.blocks == 1;
}

}  // namespace convt3d

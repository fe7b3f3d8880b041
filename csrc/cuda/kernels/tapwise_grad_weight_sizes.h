// The plan of tapwise_grad_weight and what follows from it. No CUDA headers: plans are made without
// a GPU.
#pragma once

#include "tapwise_data_sizes.h"
#include "wgmma_grad_weight_geometry.h"

namespace convt3d {

constexpr int kChunkChannels = 64;   // 128 bytes of 16-bit channels
constexpr int kChunkPositions = 64;  // at most, of a step
constexpr int kChunkBytes = kChunkPositions * kTapwiseRowBytes;

// What the plan decides. A work item is a tile of weights and a part of its steps ("split"): rows
// are input channels, columns are pairs of (tap, output channel), in chunks of 64 of one tap each.
// A step is a box of input positions.
struct TapwiseGradWeightPlan {
  WindowAxis axes[3];  // of grad_input: grad_output moves
  int columns;         // 64, 128 or 256
  int blocks;          // of 64 rows, for each of the two multiplying warpgroups: 1 or 2
  int tile[4];         // positions of a step: samples, d, h, w
  int splits;
  int stages;  // in shared memory: the operands of a step each
};

CONVT3D_HOST_DEVICE constexpr int row_chunks(const TapwiseGradWeightPlan& plan) {
  return 2 * plan.blocks;
}
CONVT3D_HOST_DEVICE constexpr int column_chunks(const TapwiseGradWeightPlan& plan) {
  return plan.columns / kChunkChannels;
}

struct TapwiseGradWeightSizes {
  int box_rows;                  // positions of a step
  int channel_chunks;            // of output channels per group
  int row_tiles;                 // per group
  int column_tiles;              // the same
  int sample_tiles;              // of steps
  int stage_bytes, barriers_at;  // of shared memory
  int shared_bytes;
  int64_t tiles, items;
  int64_t workspace_bytes;  // sums of splits
};
TapwiseGradWeightSizes tapwise_grad_weight_sizes(const Problem& problem,
                                                 const TapwiseGradWeightPlan& plan);

// The taps of an axis, those with most positions first, and these positions.
struct TapOrder {
  int16_t place[kMostWindowTaps];  // in the window axis
  PositionRange positions[kMostWindowTaps];
};
TapOrder tap_order(const WindowAxis& axis);

constexpr TapwiseShape kTapwiseGradWeightShapes[] = {
    {64, 1}, {64, 2}, {128, 1}, {128, 2}, {256, 1}};

}  // namespace convt3d

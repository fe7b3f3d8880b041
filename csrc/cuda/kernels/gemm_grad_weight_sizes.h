// The plan of gemm_grad_weight and what follows from it. No CUDA headers: plans are made without a
// GPU.
#pragma once

#include "gemm_grad_weight_geometry.h"
#include "tensors.h"

namespace convt3d {

constexpr int kGradWeightWarps = 12;  // most per block, see most_warps
// Fragments that a warp stages at once when it writes results, and bytes of one's sums.
constexpr int kStagedFragments = 4;
constexpr int64_t fragment_bytes(DataType type) {
  return 16 * 8 * (type == DataType::kFloat64 ? 8 : 4);
}

// How an operand's tile gets into shared memory.
enum class TileFill {
  kAsync,     // 16-byte cp.async: channels side by side, aligned
  kElements,  // one element after the other: any strides
  kPairs,     // two neighbours along w per load
  kQuads,     // four neighbours along w per load
};

// Positions that one load brings.
constexpr int vector_of(TileFill fill) {
  return fill == TileFill::kPairs ? 2 : fill == TileFill::kQuads ? 4 : 1;
}

// What the plan decides. A block owns a slice of channels of either operand and a box of taps, and
// walks over its share of the position tiles; each of its warps owns `taps` taps of the box, all
// channels of both slices, and every position_warps-th k-step.
struct GemmGradWeightPlan {
  ContractionAxis axes[3];
  bool mirrored;         // grad_output is still and the input moves
  int still_fragments;   // 16-channel fragments of the still operand's slice: 1 to 4
  int moving_fragments;  // 8-channel fragments of the moving operand's slice: 1, 2, 3, 4 or 8
  int taps;              // per warp: fixed by the fragments, see taps_per_warp
  int tap_warps;         // warps that share the box of taps
  int position_warps;    // warps that share the positions of a tile
  TileFill still_fill, moving_fill;
  bool warp_roles;  // four more warps only fill the next tile; else all fill, then multiply
  int stages;       // buffered tiles: 2 where fills overlap products
  int splits;       // shares of the position tiles
};

// Taps whose sums fit a warp's registers beside its working set; 0: no such kernel. `wide`: float32
// keeps two sets of sums, float64 takes two registers for each. Three fragments take 7 taps: with 8
// they would spill, and four warps' 7 cover the 27 taps of the commonest kernel. Not all shapes of
// tiles are worth their compilation: others stand in for them, with the roles of the operands
// exchanged or in more slices. By the cost model, the last two left out would make 25 of 1,500
// random layers more than 3 % faster.
constexpr int taps_per_warp(bool wide, int still_fragments, int moving_fragments) {
  if (still_fragments == 1 && moving_fragments > 2) return 0;
  if (still_fragments == 2 && moving_fragments > 4) return 0;
  if (still_fragments == 3 && moving_fragments != 1 && moving_fragments != 3) return 0;
  const int fragments = still_fragments * moving_fragments;
  const int taps = (wide ? 16 : 32) / fragments;
  return taps <= 8 ? taps : fragments == 3 ? 7 : 8;
}

// Warps of a block: with most sums a thread needs up to 255 registers, with fewer 168; with 24
// fragments a few more on some GPUs.
constexpr int most_warps(bool wide, int fragments) {
  return wide || fragments > 27 || fragments == 24 ? 8 : kGradWeightWarps;
}

// Whether there is a kernel with warp roles: of float32, because where 16 bits would gain by them
// wgmma_grad_weight takes the problem; larger ones would spill.
constexpr bool fits_warp_roles(bool single, int still_fragments, int moving_fragments) {
  return single && still_fragments * moving_fragments < 16;
}

// Facts that follow from a problem and a plan.
struct GemmGradWeightSizes {
  int still_channels, moving_channels;  // per group
  int still_slices, moving_slices;      // per group
  int64_t jobs;                         // blocks per split
  int64_t tiles;                        // position tiles, batch included
  int still_rows;                       // positions per tile, rounded up to whole k-steps
  int moving_rows;
  int still_items, moving_items;  // rows, or vectors along w, that a fill walks over
  int still_items_per_line, moving_items_per_line;
  int still_pitch, moving_pitch;  // bytes
  // Shared memory: tiles of all stages, then the tables; offsets in bytes.
  int moving_at;  // in a stage
  int stage_bytes;
  int still_items_at, moving_items_at, axis_tables_at, position_rows_at, tap_offsets_at;
  int shared_bytes;
  int64_t slots;            // partial results per weight
  int64_t workspace_bytes;  // 0: results are written directly
};
GemmGradWeightSizes gemm_grad_weight_sizes(const Problem& problem, DataType type,
                                           const GemmGradWeightPlan& plan);

// How tiles of an operand can be filled, whatever the plan: the widest way that its memory allows.
TileFill widest_fill(const TensorPointer& operand, const std::array<int64_t, 5>& size,
                     int64_t channels_per_group, DataType type);
// Whether offsets inside one tile fit the kernel's 32 bits for tensors of these strides.
bool grad_weight_offsets_fit(const GemmGradWeightPlan& plan, DataType type,
                             const TensorPointer& grad_output, const TensorPointer& input);

}  // namespace convt3d

// What a block of the gathering grad_weight kernel (gathered_grad_weight.cuh) works on, its shared
// memory, and where its tiles and boxes begin.
#pragma once

#include "gathered_grad_weight.h"
#include "mma.cuh"
#include "wgmma.cuh"

namespace convt3d {

constexpr int kGatherFillWarps = 7;
constexpr int kGatherThreads = 2 * kWarpgroupThreads + 32 * (1 + kGatherFillWarps);

struct GatheredGradWeightArguments {
  GatheredGradWeightPlan plan;
  GatheredGradWeightSizes sizes;
  CUtensorMap maps[2];  // of grad_output and the input, where the copy engine brings them
  TensorPointer grad_output, input;
  // From a row's channel to the next, and from a column's.
  int64_t result_group_stride, result_row_stride, result_column_stride, result_tap_stride[3];
  void* result;
  float* workspace;  // null: one partial result
};

// What a block computes.
struct GatherJob {
  int row_block, output_slice, input_slice, group;

  __device__ GatherJob(const GatheredGradWeightArguments& args, unsigned index) {
    const auto next = [&index](int count) {
      const int value = static_cast<int>(index % count);
      index /= count;
      return value;
    };
    row_block = next(args.plan.row_blocks);
    output_slice = next(args.sizes.output_slices);
    input_slice = next(args.sizes.input_slices);
    group = static_cast<int>(index);
  }
  // Channels of the slices, and the first among those of all groups.
  __device__ int output_channels(const GatheredGradWeightArguments& args) const {
    return min(args.sizes.out_channels - output_slice * args.plan.slice, args.plan.slice);
  }
  __device__ int input_channels(const GatheredGradWeightArguments& args) const {
    return min(args.sizes.in_channels - input_slice * args.plan.columns, args.plan.columns);
  }
  __device__ int first_output(const GatheredGradWeightArguments& args) const {
    return group * args.sizes.out_channels + output_slice * args.plan.slice;
  }
  __device__ int first_input(const GatheredGradWeightArguments& args) const {
    return group * args.sizes.in_channels + input_slice * args.plan.columns;
  }
};

// A line of the box, among its coordinates' firsts.
struct GatherLine {
  uint32_t packed;
  uint32_t box_at;  // bytes

  __device__ GatherLine(const GatherBox& box, const GatheredGradWeightPlan& plan, int index) {
    const int h = index % box.span[1], sample = index / box.span[1] % plan.samples;
    const int d = index / box.span[1] / plan.samples;
    packed = static_cast<uint32_t>(sample | h << 10 | d << 20);
    box_at = 4 * (d * box.plane_pitch + (sample * box.span[1] + h) * box.line_pitch);
  }
  __device__ int sample() const { return static_cast<int>(packed & 1023); }
  __device__ int h() const { return static_cast<int>(packed >> 10 & 1023); }
  __device__ int d() const { return static_cast<int>(packed >> 20); }
};

// Shared memory.
struct GatherShared {
  char* stages;         // of each: the right operand, then the box
  int* steps;           // by k-step: positions' offsets in the box, bytes
  uint32_t* positions;  // packed: sample, d, h, w from the lowest byte on
  GatherLine* lines;    // of the box, where warps copy it
  uint32_t barriers;

  __device__ GatherShared(char* base, const GatheredGradWeightArguments& args)
      : stages(base),
        steps(reinterpret_cast<int*>(base + args.sizes.steps_at)),
        positions(reinterpret_cast<uint32_t*>(base + args.sizes.positions_at)),
        lines(reinterpret_cast<GatherLine*>(base + args.sizes.lines_at)),
        barriers(shared_address(base + args.sizes.barriers_at)) {}
  __device__ uint32_t full(int stage) const { return barriers + kGatherBarrierBytes * stage; }
  __device__ uint32_t empty(int stage) const { return full(stage) + 8; }
  // One operand's tile stands in the order of memory; it has been read.
  __device__ uint32_t staged(int stage) const { return full(stage) + 16; }
  __device__ uint32_t unstaged(int stage) const { return full(stage) + 24; }
};

// Who fills.
__device__ __forceinline__ bool fills_by_copies(const GatheredGradWeightPlan& plan) {
  return plan.output_fill != GatherFill::kElements || plan.input_fill != GatherFill::kElements;
}
__device__ __forceinline__ bool fills_by_warps(const GatheredGradWeightPlan& plan) {
  return plan.output_fill != GatherFill::kCopyEngine || plan.input_fill != GatherFill::kCopyEngine;
}
// Whether a copy counts for the stage as a whole.
__device__ __forceinline__ bool fills_stage_by_copies(const GatheredGradWeightPlan& plan) {
  return plan.output_fill == GatherFill::kCopyEngine || plan.input_fill == GatherFill::kCopyEngine;
}

// The first position of a block's index-th tile.
__device__ __forceinline__ GatherPosition first_of_tile(const GatheredGradWeightArguments& args,
                                                        int index) {
  const GatheredGradWeightPlan& plan = args.plan;
  const auto next = [&index](int count, int size) {
    const int value = index % count * size;
    index /= count;
    return value;
  };
  const int (&counts)[4] = args.sizes.counts;
  GatherPosition first;
  first.w = next(counts[3], plan.tile[2]);
  first.h = next(counts[2], plan.tile[1]);
  first.d = next(counts[1], plan.tile[0]);
  first.sample = index * plan.samples;
  return first;
}

// Where a tile's box begins in grad_output, without what leads its lines.
__device__ __forceinline__ GatherPosition first_of_box(const GatherAxis (&axes)[3],
                                                       const TapRange& taps,
                                                       const GatherPosition& tile) {
  return {tile.sample, axes[0].stride * tile.d - axes[0].padding + axes[0].dilation * taps.first,
          axes[1].stride * tile.h - axes[1].padding, axes[2].stride * tile.w - axes[2].padding};
}

}  // namespace convt3d

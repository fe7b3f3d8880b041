// The producing warps of the gathering grad_weight kernel (gathered_grad_weight.cuh): one thread
// has the copy engine bring what it can, seven warps do the rest.
#pragma once

#include "gathered_grad_weight_elements.cuh"
#include "gathered_grad_weight_staged.cuh"

namespace convt3d {

// ---- The copy engine: one thread ---------------------------------------------------------------
template <typename T>
__device__ inline void gather_by_copies(const GatheredGradWeightArguments& args,
                                        const GatherJob& job, const TapRange& taps,
                                        const GatherBox& box, const GatherShared& shared, int first,
                                        int last) {
  constexpr bool shifted = sizeof(T) == 2;  // copies of pairs are made of what comes
  const GatheredGradWeightPlan& plan = args.plan;
  const GatheredGradWeightSizes& sizes = args.sizes;
  const GatherAxis& w = sizes.axes[2];
  const bool output = !shifted && plan.output_fill == GatherFill::kCopyEngine;
  const bool input = shifted || plan.input_fill == GatherFill::kCopyEngine;
  // Words that stand in memory order have residues of the stride side by side.
  const int line_words = shifted ? w.stride : 1;
  const int plane_bytes = plan.samples * box.span[1] * box.line_pitch * line_words * 4;
  const int box_at = shifted && w.stride > 1 ? sizes.staged_at : sizes.columns_bytes;
  const int copied = (output ? box.span[0] * plane_bytes : 0) +
                     (input ? sizes.positions / plan.word_positions * plan.columns * 4 : 0);
  const int first_output = job.first_output(args), first_input = job.first_input(args);
  // What is staged in the order of memory comes a tile ahead: it is read before the products begin.
  const bool stages_output = shifted && w.stride > 1;
  const auto copy_output = [&](int index, int stage, uint32_t barrier) {
    const GatherPosition from = first_of_box(sizes.axes, taps, first_of_tile(args, index));
    const uint32_t target = shared_address(shared.stages) + stage * sizes.stage_bytes + box_at;
    const int x = from.w - box.lead;
    const bool channels_first = !shifted && plan.output_channels_last;
    if (shifted) barrier_expect(barrier, box.span[0] * plane_bytes);
#pragma unroll 1
    for (int d = 0; d < box.span[0]; ++d)
      copy_tensor(target + d * box.plane_pitch * line_words * 4, &args.maps[0], barrier,
                  channels_first ? first_output : x, channels_first ? x : first_output, from.h,
                  from.d + d, from.sample);
  };
  int stage = 0;
  uint32_t parity = 1;  // a new barrier counts as having completed the phase before its first
  if (stages_output && first < last) copy_output(first, 0, shared.staged(0));
#pragma unroll 1
  for (int index = first; index < last; ++index) {
    const GatherPosition tile = first_of_tile(args, index);
    const uint32_t full = shared.full(stage), staged = shared.staged(stage);
    const uint32_t target = shared_address(shared.stages) + stage * sizes.stage_bytes;
    if (stages_output && index + 1 < last) {
      const bool wraps = stage + 1 == plan.stages;
      const int next = wraps ? 0 : stage + 1;
      barrier_wait(shared.unstaged(next), wraps ? parity ^ 1 : parity);
      copy_output(index + 1, next, shared.staged(next));
    }
    barrier_wait(shared.empty(stage), parity);
    if (!shifted && plan.input_fill == GatherFill::kTransposed) {
      barrier_expect(staged, sizes.positions * staged_pitch(plan) * 4);
      copy_tensor(target + sizes.staged_at, &args.maps[1], staged, first_input, tile.w, tile.h,
                  tile.d, tile.sample);
    }
    if (copied > 0) barrier_expect(full, copied);
    if (output || (shifted && !stages_output)) copy_output(index, stage, shifted ? staged : full);
    if (input) {
      const int side = plan.row_positions();
      const int row_bytes = plan.row_words * plan.columns * 4;
      if (plan.whole_lines) {
        const int plane = plan.tile[1] * plan.tile[2];
        uint32_t to = target;
#pragma unroll 1
        for (int index = 0; index < sizes.positions; index += side, to += row_bytes) {
          const int d = index / plane % plan.tile[0], sample = index / plane / plan.tile[0];
          copy_tensor(to, &args.maps[1], full, tile.h * plan.tile[2] + index % plane, first_input,
                      tile.d + d, tile.sample + sample, 0);
        }
      } else {
        const int lines = sizes.positions / plan.tile[2];
#pragma unroll 1
        for (int first_w = 0; first_w < plan.tile[2]; first_w += side)
          copy_tensor(target + first_w / side * lines * row_bytes, &args.maps[1], full,
                      tile.w + first_w, first_input, tile.h, tile.d, tile.sample);
      }
    }
    if (++stage == plan.stages) {
      stage = 0;
      parity ^= 1;
    }
  }
}

// ---- Warps -------------------------------------------------------------------------------------
template <typename T>
__device__ inline void gather_by_warps(const GatheredGradWeightArguments& args,
                                       const GatherJob& job, const TapRange& taps,
                                       const GatherBox& box, const GatherShared& shared, int first,
                                       int last, int warp) {
  constexpr bool kPairs = sizeof(T) == 2;
  const GatheredGradWeightPlan& plan = args.plan;
  const GatheredGradWeightSizes& sizes = args.sizes;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const bool output = !kPairs && plan.output_fill == GatherFill::kElements;
  const bool input = !kPairs && plan.input_fill == GatherFill::kElements;
  const auto target_of = [&](int stage) {
    return shared_address(shared.stages) + stage * sizes.stage_bytes;
  };
  int pending = -1;  // stage that has been copied to
  uint32_t pending_parity = 0;
  const auto finish = [&] {
    const uint32_t target = target_of(pending), box_at = target + sizes.columns_bytes;
    if constexpr (kPairs) {
      const int stride = sizes.axes[2].stride;
      barrier_wait(shared.staged(pending), pending_parity);
      shift_staged(box, stride, stride > 1 ? target + sizes.staged_at : box_at, box_at, warp, lane);
      barrier_arrive(shared.unstaged(pending));
    } else {
      if (output)
        gather_box_elements<GatherPass::kRound>(args, job, taps, box, shared, box_at, {}, warp,
                                                lane);
      if (input)
        gather_column_elements<GatherPass::kRound>(args, job, shared, target, {}, warp, lane);
      if (plan.input_fill == GatherFill::kTransposed) {
        barrier_wait(shared.staged(pending), pending_parity);
        transpose_staged(args, job, target + sizes.staged_at, target, warp, lane);
      }
    }
    fence_for_wgmma();
    barrier_arrive(shared.full(pending));
  };
  int stage = 0;
  uint32_t parity = 1;
#pragma unroll 1
  for (int index = first; index < last; ++index) {
    const uint32_t empty = shared.empty(stage);
    // What has been copied is finished while there is nothing to copy to.
    if (pending >= 0 && __any_sync(0xffffffffu, !barrier_test(empty, parity))) {
      copy_async_wait<0>();
      finish();
      pending = -1;
    }
    barrier_wait(empty, parity);
    const GatherPosition tile = first_of_tile(args, index);
    if constexpr (!kPairs) {
      if (output)
        gather_box_elements<GatherPass::kCopy>(
            args, job, taps, box, shared, target_of(stage) + sizes.columns_bytes, tile, warp, lane);
      if (input)
        gather_column_elements<GatherPass::kCopy>(args, job, shared, target_of(stage), tile, warp,
                                                  lane);
    }
    copy_async_commit();
    if (pending >= 0) {
      copy_async_wait<1>();
      finish();
    }
    pending = stage;
    pending_parity = parity ^ 1;
    if (++stage == plan.stages) {
      stage = 0;
      parity ^= 1;
    }
  }
  if (pending >= 0) {
    copy_async_wait<0>();
    finish();
  }
}

}  // namespace convt3d

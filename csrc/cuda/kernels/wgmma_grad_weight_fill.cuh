// The producing warps of the WGMMA grad_weight kernel (wgmma_grad_weight.cuh): tiles of both
// operands through the copy engine by one thread, or by four warps, which read along w and
// transpose.
#pragma once

#include "transposed_fill.cuh"
#include "wgmma_grad_weight_tables.cuh"

namespace convt3d {

// The positions of a block's index-th tile.
struct ContractionTile {
  int w, h, d, n;

  __device__ ContractionTile(const WgmmaGradWeightArguments& args, const PositionRange& range,
                             int index) {
    const WgmmaGradWeightPlan& plan = args.plan;
    w = index % args.sizes.tiles_w * plan.tile_w;
    index /= args.sizes.tiles_w;
    h = index % args.sizes.tiles_h * plan.tile_h;
    index /= args.sizes.tiles_h;
    d = range.first + index % (range.last - range.first);
    n = index / (range.last - range.first) * plan.samples;
  }
};

// ---- The copy engine: one thread ---------------------------------------------------------------
__device__ inline void fill_by_copies(const WgmmaGradWeightArguments& args,
                                      const ContractionJob& job, const ContractionShared& shared,
                                      const PositionRange& range, int first, int last) {
  const WgmmaGradWeightPlan& plan = args.plan;
  const WgmmaGradWeightSizes& sizes = args.sizes;
  const WindowAxis &d = plan.axes[0], &h = plan.axes[1], &w = plan.axes[2];
  const ContractionBox &still = sizes.still, &moving = sizes.moving;
  const int plane_d = job.plane_d(d);
  const PlanePairs pairs(plan, job);
  const int copied = (pairs.last - pairs.first + 1) * still.blocks * still.width * 16 *
                         still.lines * still.pitch * plan.samples +
                     moving.blocks * moving.width * 16 * moving.lines * moving.pitch * plan.samples;
  int stage = 0;
  uint32_t parity = 1;  // a new barrier counts as having completed the phase before its first
  for (int index = first; index < last; ++index) {
    const ContractionTile tile(args, range, index);
    barrier_wait(shared.empty(stage), parity);
    const uint32_t full = shared.full(stage);
    barrier_expect(full, copied);
    uint32_t box = shared.stages + stage * sizes.stage_bytes;
    for (int pair = pairs.first; pair <= pairs.last; ++pair) {
      for (int block = 0; block < still.blocks; ++block) {
        copy_tensor(
            box, &args.still_map, full,
            job.group * still.channels + job.still_slice * still.slice + block * still.width * 8,
            w.result_step * tile.w + pair % w.planes, h.result_step * tile.h + pair / w.planes,
            d.result_step * tile.d + plane_d, tile.n);
        box += still.block_bytes();
      }
    }
    box = shared.stages + stage * sizes.stage_bytes + sizes.moving_at;
    for (int block = 0; block < moving.blocks; ++block) {
      copy_tensor(
          box, &args.moving_map, full,
          job.group * moving.channels + job.moving_slice * moving.slice + block * moving.width * 8,
          tile.w + w.origin, tile.h + h.origin,
          d.operand_step * tile.d + d.origin + d.offset[job.place_d], tile.n);
      box += moving.block_bytes();
    }
    if (++stage == plan.stages) {
      stage = 0;
      parity ^= 1;
    }
  }
}

// ---- Four warps --------------------------------------------------------------------------------
template <typename T>
using ContractionCopies = TransposedFill<T, kContractFillThreads / 32, kContractFillDepth>;

// Fills the boxes of one operand: runs are on their way then, elements are stored.
template <typename T, int kRun>
__device__ __forceinline__ void fill_boxes_of(const WgmmaGradWeightArguments& args,
                                              const ContractionShared& shared,
                                              ContractionCopies<T>& copies, int stage,
                                              uint32_t parity, const ContractionTile& tile,
                                              int moves, int thread) {
  const ContractionFill& fill = args.fills[moves];
  const FilledOperand& operand = shared.operands[moves];
  const FilledLine* const table = shared.lines + (moves ? args.sizes.still.most_lines : 0);
  const T* const source = static_cast<const T*>(fill.tensor.data) + operand.first +
                          tile.n * fill.tensor.stride[0] +
                          tile.d * fill.step_d * fill.tensor.stride[2];
  const int y = fill.lines.step_h * tile.h + fill.origin_h;
  const int samples = args.batch - tile.n;
  const FilledLines lines{operand.lines,     fill.lines.step_w * tile.w + fill.origin_w,
                          fill.lines.span(), fill.extent_w,
                          fill.units,        operand.channels};
  const SwizzledRows rows{shared.stages + stage * args.sizes.stage_bytes + fill.boxes_at,
                          fill.width, fill.block_bytes};
  const auto line_source = [&](int index) {
    const FilledLine line = table[index];
    const bool inside = line.sample < samples &&
                        static_cast<unsigned>(y + line.y) < static_cast<unsigned>(fill.extent_h);
    return LineSource<T>{source + (inside ? line.sample * fill.tensor.stride[0] +
                                                (y + line.y) * fill.tensor.stride[3]
                                          : 0),
                         inside};
  };
  const auto row_of = [&](int index, int column) {
    const int row = table[index].row + fill.lines.rows_to(column);
    return row < operand.rows ? row : -1;
  };
  const auto stride_w = static_cast<int>(fill.tensor.stride[4]);
  const uint32_t empty = shared.empty(stage);
  if constexpr (copies_runs(kRun, sizeof(T))) {
    copies.template fill<kRun>(lines, rows, fill.tensor.stride[1], stride_w, stage, empty, parity,
                               line_source, row_of);
  } else {
    copies.flush();
    barrier_wait(empty, parity);
    fill_elements<4, T>(lines, rows, fill.tensor.stride[1], stride_w, thread, kContractFillThreads,
                        line_source, row_of);
  }
}

template <typename T>
__device__ inline void fill_by_warps(const WgmmaGradWeightArguments& args,
                                     const ContractionShared& shared, const PositionRange& range,
                                     int first, int last, int thread) {
  ContractionCopies<T> copies(shared.fill_staging, thread / 32, kFillUnits);
  int stage = 0;
  uint32_t parity = 1;
#pragma unroll 1
  for (int index = first; index < last; ++index) {
    const ContractionTile tile(args, range, index);
#pragma unroll 1
    for (int moves = 0; moves < 2; ++moves) {
      switch (args.fills[moves].run) {
        case 8:
          fill_boxes_of<T, 8>(args, shared, copies, stage, parity, tile, moves, thread);
          break;
        case 2:
          fill_boxes_of<T, 2>(args, shared, copies, stage, parity, tile, moves, thread);
          break;
        default:
          fill_boxes_of<T, 1>(args, shared, copies, stage, parity, tile, moves, thread);
          break;
      }
    }
    copies.end_box(shared.empty(stage), parity);
    if (++stage == args.plan.stages) {
      stage = 0;
      parity ^= 1;
    }
  }
  copies.flush();
}

}  // namespace convt3d

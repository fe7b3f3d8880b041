// The producing warps of the WGMMA grad_weight kernel (wgmma_grad_weight.cuh): tiles of both
// operands through the copy engine by one thread, or by eight warps: some have lines staged and the
// others transpose them, or all load elements.
#pragma once

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
            box, &args.maps[0], full,
            job.group * still.channels + job.still_slice * still.slice + block * still.width * 8,
            w.result_step * tile.w + pair % w.planes, h.result_step * tile.h + pair / w.planes,
            d.result_step * tile.d + plane_d, tile.n);
        box += still.block_bytes();
      }
    }
    box = shared.stages + stage * sizes.stage_bytes + sizes.moving_at;
    for (int block = 0; block < moving.blocks; ++block) {
      copy_tensor(
          box, &args.maps[1], full,
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

// ---- Warps -------------------------------------------------------------------------------------
// A line of a tile: in the table, and where it lies in the tensor.
struct ContractionLine {
  const FilledLine& line;
  int y;
  bool inside;

  __device__ __forceinline__ ContractionLine(const WgmmaGradWeightArguments& args,
                                             const ContractionShared& shared,
                                             const ContractionTile& tile, int moves, int index)
      : line(shared.lines[(moves ? args.sizes.still.most_lines : 0) + index]),
        y(args.fills[moves].lines.step_h * tile.h + args.fills[moves].origin_h + line.y),
        inside(line.sample < args.batch - tile.n &&
               static_cast<unsigned>(y) < static_cast<unsigned>(args.fills[moves].extent_h)) {}

  // Of the sample.
  __device__ __forceinline__ int first_position(const ContractionFill& fill, int z, int x) const {
    return (z * fill.extent_h + y) * fill.extent_w + x;
  }
};

// Along w, of a tile's lines in the tensor.
__device__ __forceinline__ int first_column(const ContractionFill& fill,
                                            const ContractionTile& tile) {
  return fill.lines.step_w * tile.w + fill.origin_w;
}

// One of the warps that have lines staged.
__device__ inline void stage_contractions(const WgmmaGradWeightArguments& args,
                                          const ContractionShared& shared,
                                          const PositionRange& range, int first, int last,
                                          int warp) {
  LineLoader<kContractTransposers, kContractLineDepth, kContractLoaders> loader(shared.line_rings,
                                                                                warp);
  int stage = 0;
#pragma unroll 1
  for (int index = first; index < last; ++index) {
    const ContractionTile tile(args, range, index);
#pragma unroll
    for (int moves = 0; moves < 2; ++moves) {
      const ContractionFill& fill = args.fills[moves];
      const FilledOperand& operand = shared.operands[moves];
      const int z = fill.step_d * tile.d + operand.d, x = first_column(fill, tile);
      loader.load(fill.line_staging, args.maps[moves], operand.lines, stage, operand.group_slots,
                  operand.channel, [&](int i) {
                    const ContractionLine at(args, shared, tile, moves, i);
                    return at.inside
                               ? LinePlace{at.first_position(fill, z, x), tile.n + at.line.sample}
                               : kNoLine;
                  });
    }
    if (++stage == args.plan.stages) stage = 0;
  }
}

// The others, or all; `thread` counts theirs.
template <typename T, bool kTransposed>
__device__ inline void fill_by_warps(const WgmmaGradWeightArguments& args,
                                     const ContractionShared& shared, const PositionRange& range,
                                     int first, int last, int thread) {
  LineTransposer<kContractTransposers, kContractLineDepth> transposer(shared.line_rings,
                                                                      thread / 32);
  int stage = 0;
  uint32_t parity = 1;
#pragma unroll 1
  for (int index = first; index < last; ++index) {
    const ContractionTile tile(args, range, index);
    barrier_wait(shared.empty(stage), parity);
#pragma unroll  // so that an operand's facts are constants of the code
    for (int moves = 0; moves < 2; ++moves) {
      const ContractionFill& fill = args.fills[moves];
      const FilledOperand& operand = shared.operands[moves];
      const FilledLine* const table = shared.lines + (moves ? args.sizes.still.most_lines : 0);
      const FilledLines lines{operand.lines,     first_column(fill, tile),
                              fill.lines.span(), fill.extent_w,
                              fill.units,        operand.channels};
      const SwizzledRows rows{shared.stages + stage * args.sizes.stage_bytes + fill.boxes_at,
                              fill.width, fill.block_bytes};
      const auto row_of = [&](int line, int column) {
        const int row = table[line].row + fill.lines.rows_to(column);
        return row < operand.rows ? row : -1;
      };
      if constexpr (kTransposed) {
        const int z = fill.step_d * tile.d + operand.d;
        transposer.fill(
            fill.line_staging, lines, rows, stage, operand.group_slots, row_of, [&](int i) {
              return ContractionLine(args, shared, tile, moves, i).first_position(fill, z, lines.x);
            });
      } else {
        const auto& stride = fill.tensor.stride;
        const T* const source = static_cast<const T*>(fill.tensor.data) + operand.first +
                                tile.n * stride[0] + tile.d * fill.step_d * stride[2];
        fill_elements<4, T>(
            lines, rows, stride[1], static_cast<int>(stride[4]), thread, 32 * kContractFillWarps,
            [&](int i) {
              const ContractionLine at(args, shared, tile, moves, i);
              const int64_t line = at.line.sample * stride[0] + at.y * stride[3];
              return LineSource<T>{source + (at.inside ? line : 0), at.inside};
            },
            row_of);
      }
    }
    fence_for_wgmma();
    __syncwarp();
    if (thread % 32 == 0) barrier_arrive(shared.full(stage));
    if (++stage == args.plan.stages) {
      stage = 0;
      parity ^= 1;
    }
  }
}

}  // namespace convt3d

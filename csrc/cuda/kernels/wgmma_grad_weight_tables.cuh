// What a block of the WGMMA grad_weight kernel (wgmma_grad_weight.cuh) works on, and the tables in
// shared memory that follow from it.
#pragma once

#include "mma.cuh"
#include "staged_lines.cuh"
#include "wgmma.cuh"
#include "wgmma_grad_weight.h"

namespace convt3d {

constexpr int kContractThreads = 4 * kWarpgroupThreads;  // two warpgroups multiply

// An operand that warps fill boxes with.
struct ContractionFill {
  TensorPointer tensor;
  BoxLines lines;
  LineStaging line_staging;
  int units;
  int channels, slice;             // per group
  int extent_h, extent_w, step_d;  // of the tensor, from a position to the next
  int origin_h, origin_w;          // coordinates of position 0
  int boxes_at, width, block_bytes;
};

struct WgmmaGradWeightArguments {
  WgmmaGradWeightPlan plan;
  WgmmaGradWeightSizes sizes;
  CUtensorMap maps[2];       // still, moving: of boxes or lines, if the copy engine brings them
  ContractionFill fills[2];  // by warps
  int groups, batch;
  int64_t result_group_stride, result_row_stride, result_column_stride, result_tap_stride[3];
  void* result;
  float* workspace;  // null: one partial result
};

// What a block computes.
struct ContractionJob {
  int place_d;  // tap along d, in its table
  int group, still_slice, moving_slice;
  int first_tile, tiles;  // tap tiles

  __device__ ContractionJob(const WgmmaGradWeightArguments& args, unsigned index) {
    const WgmmaGradWeightSizes& sizes = args.sizes;
    const auto next = [&index](int count) {
      const int value = static_cast<int>(index % count);
      index /= count;
      return value;
    };
    const int tap_group = next(args.plan.tap_groups);
    place_d = next(args.plan.axes[0].taps());
    still_slice = next(sizes.still.slices);
    moving_slice = next(sizes.moving.slices);
    group = static_cast<int>(index);
    first_tile = tap_group * sizes.tiles_per_group;
    tiles = min(sizes.tiles_per_group, sizes.tap_tiles - first_tile);
  }
  // The plane of the still operand that the tap along d meets.
  __device__ int plane_d(const WindowAxis& d) const {
    int plane = 0;
    while (d.plane_begin[plane + 1] <= place_d) ++plane;
    return plane;
  }
};

// Pairs of planes (h, w) in the order of tap tiles: a block needs the still boxes from that of its
// first tile to that of its last.
__device__ __forceinline__ int plane_pair(const WindowAxis& w, const TapTile& tile) {
  return tile.plane_h * w.planes + tile.plane_w;
}

// What warps fill for a block's job of one operand; in shared memory, because registers are short
// where it is needed.
struct FilledOperand {
  int64_t first;   // element: first channel, position 0 of the taps along d
  int channel, d;  // the same
  int channels;    // present
  int lines;
  int rows;         // of all boxes
  int group_slots;  // of staged lines
};
struct FilledLine {
  int row;
  uint16_t sample, y;
};
static_assert(sizeof(FilledOperand) == kFilledOperandBytes &&
              sizeof(FilledLine) == kFilledLineBytes);

struct ContractionShared {
  uint32_t stages, barriers;
  unsigned* steps;          // rows of a k-step in 16-byte units: moving << 16 | still
  unsigned* offsets;        // the same of a tap tile
  FilledOperand* operands;  // still, moving
  FilledLine* lines;        // of the still one, then of the moving one
  LineRings<kContractTransposers, kContractLineDepth> line_rings;

  __device__ ContractionShared(char* base, const WgmmaGradWeightArguments& args)
      : stages(shared_address(base)),
        barriers(stages + args.sizes.barriers_at),
        steps(reinterpret_cast<unsigned*>(base + args.sizes.tables_at)),
        offsets(steps + args.sizes.steps),
        operands(reinterpret_cast<FilledOperand*>(base + args.sizes.lines_at)),
        lines(reinterpret_cast<FilledLine*>(operands + 2)),
        line_rings{base + args.sizes.line_rings_at, args.sizes.line_slot_bytes,
                   barriers + 16 * args.plan.stages} {}
  __device__ uint32_t full(int stage) const { return barriers + 16 * stage; }
  __device__ uint32_t empty(int stage) const { return barriers + 16 * stage + 8; }
};

// Of the still operand, first and last that a block needs.
struct PlanePairs {
  int first, last;

  __device__ PlanePairs(const WgmmaGradWeightPlan& plan, const ContractionJob& job) {
    const WindowAxis &h = plan.axes[1], &w = plan.axes[2];
    first = plane_pair(w, tap_tile_at(h, w, plan.merged, job.first_tile));
    last = plane_pair(w, tap_tile_at(h, w, plan.merged, job.first_tile + job.tiles - 1));
  }
};

__device__ inline void write_contraction_tables(const WgmmaGradWeightArguments& args,
                                                const ContractionJob& job,
                                                const ContractionShared& shared) {
  const WgmmaGradWeightPlan& plan = args.plan;
  const WgmmaGradWeightSizes& sizes = args.sizes;
  const WindowAxis &h = plan.axes[1], &w = plan.axes[2];
  const auto packed = [&sizes](int still_row, int moving_row, int still_box) {
    const int still = still_row * sizes.still.width +
                      still_box * sizes.still.blocks * sizes.still.block_bytes() / 16;
    return static_cast<unsigned>(moving_row * sizes.moving.width) << 16 |
           static_cast<unsigned>(still);
  };
  for (int i = threadIdx.x; i < sizes.steps; i += kContractThreads) {
    int row = 16 * i, column = 0;
    if (!plan.flattened) {
      // Two runs of eight: neighbours, or one line apart where a line has an odd number of them.
      const int runs = plan.tile_w / 8, per_line = runs % 2 == 0 ? runs / 2 : runs;
      column = i % per_line * (runs % 2 == 0 ? 16 : 8);
      row = i / per_line * (runs % 2 == 0 ? 1 : 2);
      shared.steps[i] =
          packed(row * sizes.still.pitch + column, row * sizes.moving.pitch + column, 0);
    } else {
      shared.steps[i] = packed(row, row, 0);
    }
  }
  const PlanePairs pairs(plan, job);
  for (int i = threadIdx.x; i < 2 * plan.tiles; i += kContractThreads) {
    const TapTile tile = tap_tile_at(h, w, plan.merged, job.first_tile + min(i, job.tiles - 1));
    shared.offsets[i] = packed(0, tile.offset_h * sizes.moving.pitch + tile.offset_w,
                               plane_pair(w, tile) - pairs.first);
  }
  if (plan.fill == OperandFill::kCopyEngine) return;
  const WindowAxis& d = plan.axes[0];
  FilledLine* table = shared.lines;
  for (int moves = 0; moves < 2; ++moves) {
    const ContractionFill& fill = args.fills[moves];
    const int slice = moves ? job.moving_slice : job.still_slice;
    const int first_pair = moves ? 0 : pairs.first, last_pair = moves ? 0 : pairs.last;
    const int lines = fill.lines.count(first_pair, last_pair);
    if (threadIdx.x == 0) {
      const int channel = job.group * fill.channels + slice * fill.slice;
      const int first_d = moves ? d.origin + d.offset[job.place_d] : job.plane_d(d);
      shared.operands[moves] = {
          channel * fill.tensor.stride[1] + first_d * fill.tensor.stride[2],
          channel,
          first_d,
          min(fill.channels - slice * fill.slice, fill.slice),
          lines,
          (last_pair - first_pair + 1) * fill.lines.area,
          plan.fill == OperandFill::kLines ? fill.line_staging.group_slots(lines) : 0};
    }
    for (int i = threadIdx.x; i < lines; i += kContractThreads) {
      const BoxLines::Line line = fill.lines.line_at(first_pair, i);
      table[i] = {line.row, static_cast<uint16_t>(line.sample), static_cast<uint16_t>(line.y)};
    }
    table += args.sizes.still.most_lines;
  }
}

}  // namespace convt3d

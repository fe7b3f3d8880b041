// What all roles of the WGMMA data kernel (wgmma_data.cuh) share: its arguments, the order of taps,
// the sequence of work, and tables in shared memory that spare the inner loops their divisions.
#pragma once

#include <cuda.h>

#include <type_traits>

#include "divisor.h"
#include "mma.cuh"
#include "ring_cursor.cuh"
#include "scalar.cuh"
#include "wgmma.cuh"
#include "wgmma_data.h"

namespace convt3d {

template <typename T>
constexpr int kWgmmaUnitElements = kWgmmaUnitBytes / static_cast<int>(sizeof(T));
// Neighbouring channels-last results that a thread has sums of, as a power of two: 16 bytes.
template <typename T>
constexpr int kOwnedBits = sizeof(T) == 2 ? 3 : 2;
constexpr int wgmma_threads(int warpgroups) {
  return warpgroups * kWarpgroupThreads + 32 * (fill_warps(warpgroups) + 1);
}
// Of a thread; together 128 times the threads. Contiguous operands are filled with more loads under
// way.
constexpr int producer_registers(int warpgroups, bool channels_last) {
  return warpgroups == 3 ? 32 : channels_last ? 64 : 80;
}
constexpr int consumer_registers(int warpgroups, bool channels_last) {
  return warpgroups == 3 ? 160 : 256 - producer_registers(warpgroups, channels_last);
}

// Taps along w, merged ones as one.
CONVT3D_HOST_DEVICE inline int listed_taps(const WgmmaDataPlan& plan) {
  return plan.merged_taps > 0 ? 1 : plan.axes[2].taps();
}

// What indices are divided by, and rows that would take divisions to find: before the first product
// a kernel waits for its instructions, so that fewer of them are a shorter wait.
struct WgmmaIndices {
  Divisor tiles_w, tiles_h, column_parts, segments, groups;  // of work items
  Divisor planes_w, planes_h, planes_d;                      // of column tiles
  Divisor taps_w, taps_h, tap_parts;                         // of the list of taps
  Divisor halo_w, sample_rows;                               // of a box, rows
  Divisor line_span, operand_w;                              // of what is filled
  Divisor channels;                                          // of a group's column tiles, padded
  int tiles_per_part;                                        // column tiles
  int tap_step;  // units between the parts of a tap in a box
  // Positions of the result that have this plane.
  int positions_h[kMostWindowPlanes]{}, positions_w[kMostWindowPlanes]{};
  int tap_rows_h[kMostWindowTaps]{}, tap_rows_w[kMostWindowTaps]{};  // of a box, where taps begin

  WgmmaIndices() = default;
  WgmmaIndices(const WgmmaDataPlan& plan, const WgmmaDataSizes& sizes, int groups)
      : tiles_w(sizes.tiles_w),
        tiles_h(sizes.tiles_h),
        column_parts(plan.column_parts),
        segments(sizes.segments),
        groups(groups),
        planes_w(plan.w_planes > 1 ? 1 : plan.axes[2].planes),
        planes_h(plan.axes[1].planes),
        planes_d(plan.axes[0].planes),
        taps_w(listed_taps(plan)),
        taps_h(plan.axes[1].taps()),
        tap_parts(sizes.tap_parts),
        halo_w(sizes.box.halo_w),
        sample_rows(sizes.box.sample_rows),
        line_span(sizes.lines.span),
        operand_w(plan.axes[2].operand_extent),
        channels(sizes.channel_tiles * plan.columns),
        tiles_per_part((sizes.column_tiles + plan.column_parts - 1) / plan.column_parts),
        tap_step(plan.stage_units * sizes.box.rows) {
    const WindowAxis &h = plan.axes[1], &w = plan.axes[2];
    const auto positions = [](const WindowAxis& axis, int plane) {
      return (axis.result_extent - plane + axis.result_step - 1) / axis.result_step;
    };
    for (int plane = 0; plane < h.result_step; ++plane) positions_h[plane] = positions(h, plane);
    for (int plane = 0; plane < w.result_step; ++plane) positions_w[plane] = positions(w, plane);
    for (int tap = 0; tap < h.taps(); ++tap) tap_rows_h[tap] = sizes.box.row_h(h, h.offset[tap]);
    for (int tap = 0; tap < listed_taps(plan); ++tap)
      tap_rows_w[tap] = plan.merged_taps > 0 ? 0 : sizes.box.row_w(w, w.offset[tap]);
  }
};

struct WgmmaDataArguments {
  WgmmaDataPlan plan;
  WgmmaDataSizes sizes;
  WgmmaIndices indices;
  CUtensorMap operand_map;  // if plan.fill_run == 0
  int batch, groups;
  int operand_channels, result_channels;  // per group
  TensorPointer operand, weight, result;
  int64_t weight_group_stride, weight_operand_stride, weight_result_stride;
  VectorPointer bias;
  char* packed;
  bool result_in_vectors;  // 16-byte stores
};

// ---- The order of taps -----------------------------------------------------------------------
// Listed taps along w of a column tile of this plane.
__device__ __forceinline__ int listed_taps_of(const WgmmaDataPlan& plan, int plane_w) {
  return plan.merged_taps > 0 || plan.w_planes > 1 ? listed_taps(plan)
                                                   : plan.axes[2].taps_of(plane_w);
}

// Taps of a group before those of (slice, planes, chunk): slices, then planes, then chunks.
__device__ __forceinline__ int first_tap(const WgmmaDataPlan& plan, int slice, int plane_d,
                                         int plane_h, int plane_w, int chunks, int chunk) {
  const WindowAxis &d = plan.axes[0], &h = plan.axes[1], &w = plan.axes[2];
  const int all_w = listed_taps(plan), taps_w = listed_taps_of(plan, plane_w);
  const int before_w = taps_w == all_w ? 0 : w.plane_begin[plane_w];
  const int of_planes = d.taps_of(plane_d) * h.taps_of(plane_h);
  const int before = d.plane_begin[plane_d] * h.taps() * all_w +
                     d.taps_of(plane_d) * h.plane_begin[plane_h] * all_w + of_planes * before_w;
  return (slice * d.taps() * h.taps() * all_w + before) * chunks + chunk * of_planes * taps_w;
}

// A listed tap by its places in the three axes' tables, and where it stands among those of its
// planes.
struct TapPlanes {
  int tap_d, tap_h, tap_w;
  int plane_d, plane_h, plane_w;
  int rank;

  __device__ TapPlanes(const WgmmaDataArguments& args, int index) {
    const WgmmaDataPlan& plan = args.plan;
    const WindowAxis &d = plan.axes[0], &h = plan.axes[1], &w = plan.axes[2];
    const int all_w = listed_taps(plan);
    tap_d = index;
    tap_w = args.indices.taps_w.take(tap_d);
    tap_h = args.indices.taps_h.take(tap_d);
    plane_d = plane_of(d, tap_d);
    plane_h = plane_of(h, tap_h);
    plane_w = plan.merged_taps > 0 || plan.w_planes > 1 ? 0 : plane_of(w, tap_w);
    const int taps_w = listed_taps_of(plan, plane_w);
    const int first_w = taps_w == all_w ? 0 : w.plane_begin[plane_w];
    rank =
        ((tap_d - d.plane_begin[plane_d]) * h.taps_of(plane_h) + tap_h - h.plane_begin[plane_h]) *
            taps_w +
        tap_w - first_w;
  }
  static __device__ int plane_of(const WindowAxis& axis, int tap) {
    int plane = 0;
    while (axis.plane_begin[plane + 1] <= tap) ++plane;
    return plane;
  }
};

// ---- The sequence of work --------------------------------------------------------------------
struct WorkItem {
  int n, samples;  // first, and how many of the tile's are in the batch
  int group;
  int h, w;             // first positions
  int first_d, last_d;  // positions
  int first_column, last_column;

  __device__ WorkItem(const WgmmaDataArguments& args, int index) {
    const WgmmaDataPlan& plan = args.plan;
    const WgmmaIndices& indices = args.indices;
    w = indices.tiles_w.take(index) * plan.tile_w;
    h = indices.tiles_h.take(index) * plan.tile_h;
    const int part = indices.column_parts.take(index);
    first_d = indices.segments.take(index) * plan.segment;
    last_d = min(first_d + plan.segment, plan.axes[0].positions);
    group = indices.groups.take(index);
    n = index * plan.samples;
    samples = min(plan.samples, args.batch - n);
    first_column = part * indices.tiles_per_part;
    last_column = min(first_column + indices.tiles_per_part, args.sizes.column_tiles);
  }
};

// Boxes that the next position along d needs anew: as many as the last one frees.
__device__ __forceinline__ int box_advance(const WindowAxis& d) {
  return min(d.window, d.operand_step);
}

// ---- Tables in shared memory -----------------------------------------------------------------
struct alignas(16) ColumnPlace {  // a column tile
  int first_tap;                  // in the list of taps
  // Taps are multiplied in rounds: those of a box each where boxes come one by one, else all of a
  // chunk in one. No rounds where a plane has no tap.
  short rounds, chunk_rounds;  // of all chunks, of one
  short lines, taps;           // of a round: (d, h) pairs of taps, and all taps
  unsigned char d, h, w, slice;
};
struct WgmmaShared {
  uint32_t boxes, weights, barriers;
  char *staging, *fill_staging;
  ColumnPlace* columns;
  WorkItem* items;  // one per filling warp, then per multiplying one
  TileRow* rows;
  int* places;     // row of a box per column of each line it is filled by, or kNoRow
  unsigned* taps;  // units from a round's first box to a tap's rows, in the order of first_tap,
                   // and two more
  float* bias;     // of all channels, tiles padded; zeros for none
  int box_slots, weight_slots;

  __device__ WgmmaShared(char* base, const WgmmaDataArguments& args)
      : boxes(shared_address(base)),
        weights(boxes + args.sizes.weights_at),
        barriers(boxes + args.sizes.barriers_at),
        staging(base + args.sizes.staging_at),
        fill_staging(base + args.sizes.fill_staging_at),
        columns(reinterpret_cast<ColumnPlace*>(base + args.sizes.columns_at)),
        items(reinterpret_cast<WorkItem*>(base + args.sizes.items_at)),
        rows(reinterpret_cast<TileRow*>(base + args.sizes.rows_at)),
        places(reinterpret_cast<int*>(base + args.sizes.places_at)),
        taps(reinterpret_cast<unsigned*>(base + args.sizes.taps_at)),
        bias(reinterpret_cast<float*>(base + args.sizes.bias_at)),
        box_slots(args.plan.box_slots),
        weight_slots(args.plan.weight_slots) {}

  // In one load.
  __device__ ColumnPlace column(int index) const {
    const uint4 words = *reinterpret_cast<const uint4*>(columns + index);
    ColumnPlace place;
    __builtin_memcpy(&place, &words, sizeof(place));
    return place;
  }
  __device__ uint32_t box_full(int slot) const { return barriers + 16 * slot; }
  __device__ uint32_t box_empty(int slot) const { return barriers + 16 * slot + 8; }
  __device__ uint32_t weight_full(int slot) const { return barriers + 8 * (2 * box_slots + slot); }
  __device__ uint32_t weight_empty(int slot) const {
    return barriers + 8 * (2 * box_slots + weight_slots + slot);
  }
};

static_assert(sizeof(ColumnPlace) == kColumnPlaceBytes && sizeof(WorkItem) == kWorkItemBytes);

// Each table is written by warps of its own, all at the same time: what runs once waits for
// instructions and arguments to come from memory, and this way for all of them together. Entries
// are written by `threads` threads, of which this is number `thread`.
__device__ inline void write_columns(const WgmmaDataArguments& args, const WgmmaShared& shared,
                                     int thread, int threads) {
  const WgmmaDataPlan& plan = args.plan;
  const WgmmaDataSizes& sizes = args.sizes;
  const WindowAxis &d = plan.axes[0], &h = plan.axes[1];
  for (int i = thread; i < sizes.column_tiles; i += threads) {
    int slice = i;
    ColumnPlace place{};
    place.w = args.indices.planes_w.take(slice);
    place.h = args.indices.planes_h.take(slice);
    place.d = args.indices.planes_d.take(slice);
    place.slice = slice;
    place.first_tap = first_tap(plan, 0, place.d, place.h, place.w, 1, 0);
    const int taps_d = d.taps_of(place.d), taps_w = listed_taps_of(plan, place.w);
    place.lines = (sizes.one_by_one ? 1 : taps_d) * h.taps_of(place.h);
    place.taps = place.lines * taps_w;
    place.chunk_rounds = place.taps == 0 ? 0 : sizes.one_by_one ? taps_d : 1;
    place.rounds = place.chunk_rounds * sizes.chunks;
    shared.columns[i] = place;
  }
}

// Rows that are eight apart in a block of 64 begin runs, one behind the other (flattened) or one h
// apart (squares), which its blocks fill: a warp's sums are of two runs of 8 * blocks rows.
template <int kBlocks, int kWarpgroups>
__device__ __forceinline__ void write_rows(const WgmmaDataArguments& args,
                                           const WgmmaShared& shared, int thread, int threads) {
  const WgmmaDataPlan& plan = args.plan;
  const int run_rows = wgmma_run_rows(plan);
  for (int i = thread; i < kWarpgroups * 64 * kBlocks; i += threads) {
    const int run = i / (8 * kBlocks), in_run = i % (8 * kBlocks);
    TilePosition at{};
    if (plan.flattened) {
      at = BoxShape::position_at(run * run_rows + in_run, args.indices.sample_rows,
                                 args.indices.halo_w);
    } else {
      const int warpgroup = run / 8;
      at.h = warpgroup / plan.beside * 8 + run % 8;
      at.w = warpgroup % plan.beside * run_rows + in_run;
    }
    const bool exists =
        in_run < run_rows && at.sample < plan.samples && at.h < plan.tile_h && at.w < plan.tile_w;
    TileRow row{kNoPosition, 0};
    if (exists) {
      const TensorPointer& result = args.result;
      row.position = pack_position(at);
      row.offset = at.sample * static_cast<int>(result.stride[0]) +
                   plan.axes[1].result_step * at.h * static_cast<int>(result.stride[3]) +
                   plan.axes[2].result_step * at.w * static_cast<int>(result.stride[4]);
    }
    shared.rows[i] = row;
  }
}

constexpr int kNoRow = -1;

__device__ inline void write_places(const WgmmaDataArguments& args, const WgmmaShared& shared,
                                    int thread, int threads) {
  const BoxShape& box = args.sizes.box;
  const LinesToFill& lines = args.sizes.lines;
  const WindowAxis &h = args.plan.axes[1], &w = args.plan.axes[2];
  for (int i = thread; i < lines.count * lines.span; i += threads) {
    int line = i;
    const int column = args.indices.line_span.take(line);
    const TilePosition at =
        lines.position_at(line, column, args.plan.fill_by, args.indices.operand_w);
    const bool exists = inside_extent(at.h, box.span_h) && inside_extent(at.w, box.span_w);
    shared.places[i] =
        exists ? at.sample * box.sample_rows + box.row_h(h, at.h) + box.row_w(w, at.w) : kNoRow;
  }
}

__device__ inline void write_taps(const WgmmaDataArguments& args, const WgmmaShared& shared,
                                  int thread, int threads) {
  const WgmmaDataPlan& plan = args.plan;
  const WgmmaDataSizes& sizes = args.sizes;
  for (int i = thread; i < sizes.taps; i += threads) {
    const TapPlanes tap(args, i);
    const int at = first_tap(plan, 0, tap.plane_d, tap.plane_h, tap.plane_w, 1, 0) + tap.rank;
    const int box_of_round = sizes.one_by_one ? 0 : plan.axes[0].offset[tap.tap_d];
    const int row = args.indices.tap_rows_h[tap.tap_h] + args.indices.tap_rows_w[tap.tap_w];
    shared.taps[at] = box_of_round * (sizes.box_bytes / kWgmmaUnitBytes) + row * sizes.box.width;
  }
}

template <typename T>
__device__ void write_bias(const WgmmaDataArguments& args, const WgmmaShared& shared, int thread,
                           int threads) {
  const Divisor& channels = args.indices.channels;
  for (int i = thread; i < args.groups * channels.value(); i += threads) {
    int group = i;
    const int channel = channels.take(group);
    shared.bias[i] =
        args.bias.data != nullptr && channel < args.result_channels
            ? Convert<float>::from(static_cast<const T*>(
                  args.bias.data)[(group * args.result_channels + channel) * args.bias.stride])
            : 0.f;
  }
}

// By the consumers.
template <typename T, int kBlocks, int kWarpgroups>
__device__ __forceinline__ void write_consumers_tables(const WgmmaDataArguments& args,
                                                       const WgmmaShared& shared) {
  constexpr int kThreads = kWarpgroups * kWarpgroupThreads / 4;
  const int table = static_cast<int>(uniform(threadIdx.x / kThreads));
  const int thread = threadIdx.x % kThreads;
  if (table == 0)
    write_columns(args, shared, thread, kThreads);
  else if (table == 1)
    write_rows<kBlocks, kWarpgroups>(args, shared, thread, kThreads);
  else if (table == 2)
    write_taps(args, shared, thread, kThreads);
  else
    write_bias<T>(args, shared, thread, kThreads);
}

}  // namespace convt3d

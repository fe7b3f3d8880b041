// The producing warps of the WGMMA data kernel (wgmma_data.cuh): packed weights through bulk
// copies, operand boxes through the copy engine by one thread, or by seven warps, which read along
// w and transpose.
#pragma once

#include "transposed_fill.cuh"
#include "wgmma_data_tables.cuh"

namespace convt3d {

// ---- Weights: one warp, of which one thread copies -------------------------------------------
__device__ inline void load_weights(const WgmmaDataArguments& args, const WgmmaShared& shared) {
  const WgmmaDataSizes& sizes = args.sizes;
  if (threadIdx.x % 32 != 0) return;
  RingCursor cursor;
  for (unsigned index = blockIdx.x; index < sizes.items; index += gridDim.x) {
    const WorkItem item(args, static_cast<int>(index));
    wait_for_previous_kernel();  // pack_wgmma_weights; nothing else depends on it
    const char* packed = args.packed + item.group * sizes.parts * sizes.part_bytes;
    const int steps = sizes.resident ? 1 : item.last_d - item.first_d;
    for (int step = 0; step < steps; ++step) {
      for (int column = item.first_column; column < item.last_column; ++column) {
        const ColumnPlace& tile = shared.columns[column];
        // The parts of all chunks of a column tile follow each other.
        const int64_t begin =
            static_cast<int64_t>(tile.slice * sizes.taps + tile.first_tap) * sizes.chunks;
        const char* source = packed + begin * sizes.tap_parts * sizes.part_bytes;
        const int chunk_bytes = tile.chunk_rounds * tile.taps * sizes.tap_parts * sizes.part_bytes;
        for (int chunk = 0; chunk < sizes.chunks; ++chunk) {
          for (int left = chunk_bytes; left > 0; left -= sizes.stage_bytes) {
            const int bytes = min(left, sizes.stage_bytes);
            barrier_wait(shared.weight_empty(cursor.slot), cursor.parity ^ 1);
            const uint32_t full = shared.weight_full(cursor.slot);
            barrier_expect(full, bytes);
            copy_bulk(shared.weights + cursor.slot * sizes.stage_bytes, source, bytes, full);
            source += bytes;
            cursor.advance(shared.weight_slots);
          }
        }
      }
    }
    if (sizes.resident) return;  // once for good
  }
}

// ---- Operand ---------------------------------------------------------------------------------
// Zeros in the rows of every box that are never filled, once for good: those behind the filled
// ones, or, where a box has zeros around the operand, all.
__device__ inline void clear_boxes(const WgmmaDataArguments& args, const WgmmaShared& shared,
                                   int thread, int threads) {
  const BoxShape& shape = args.sizes.box;
  const int row_bytes = shape.width * kWgmmaUnitBytes;
  const int ends = (shape.reached - shape.filled) * shape.width;
  if (args.plan.fill_by != FillBy::kBoxLines) {
    const uint32_t end = shared.boxes + args.plan.box_slots * args.sizes.box_bytes;
    for (uint32_t at = shared.boxes + thread * kWgmmaUnitBytes; at < end;
         at += threads * kWgmmaUnitBytes)
      store_shared(at, {0, 0, 0, 0});
  } else if (ends > 0) {
    const int areas = args.plan.box_slots * (args.sizes.box_bytes / (shape.area * row_bytes));
    for (int i = thread; i < areas * ends; i += threads)
      store_shared(shared.boxes + (i / ends * shape.area + shape.filled) * row_bytes +
                       i % ends * kWgmmaUnitBytes,
                   {0, 0, 0, 0});
  }
  fence_for_wgmma();
}

// By the copy engine: one thread starts a copy per residue pair and `width` units of channels;
// what lies outside the tensor becomes zeros.
__device__ __forceinline__ void fill_box_tensor(const WgmmaDataArguments& args, uint32_t box,
                                                uint32_t full, int channel, int x, int y, int z,
                                                int n) {
  const BoxShape& shape = args.sizes.box;
  const WindowAxis &h = args.plan.axes[1], &w = args.plan.axes[2];
  const int row_bytes = shape.width * kWgmmaUnitBytes;
  const int copies = args.plan.chunk_units / shape.width;
  barrier_expect(full, copies * h.operand_step * w.operand_step * shape.filled * row_bytes);
  for (int copy = 0; copy < copies; ++copy) {
    for (int residue_h = 0; residue_h < h.operand_step; ++residue_h) {
      for (int residue_w = 0; residue_w < w.operand_step; ++residue_w) {
        copy_tensor(box, &args.operand_map, full, channel, x + residue_w, y + residue_h, z, n);
        box += shape.area * row_bytes;
      }
    }
    channel += shape.width * args.plan.unit_elements;
  }
}

// What warps fill one box from: the plane of the tensor at `source` (position (0, 0) of the first
// sample, first channel of the chunk).
template <typename T>
struct BoxSource {
  const T* source;
  int y, x;      // coordinates of the first line's beginning
  int channels;  // present in the chunk
  int samples;   // present; none where the plane lies outside the tensor
};

// Calls `fill` with the lines of a box, where they begin and where their rows lie.
template <typename T, typename Fill>
__device__ __forceinline__ void fill_box_lines(const WgmmaDataArguments& args,
                                               const WgmmaShared& shared, uint32_t box,
                                               const BoxSource<T>& from, const Fill& fill) {
  const BoxShape& shape = args.sizes.box;
  const LinesToFill& lines = args.sizes.lines;
  const int stride_n = static_cast<int>(args.operand.stride[0]);
  const int stride_h = static_cast<int>(args.operand.stride[3]);
  fill(
      FilledLines{lines.count, from.x, lines.span, lines.extent, args.plan.chunk_units,
                  from.channels},
      SwizzledRows{box, shape.width, shape.bytes()},
      [&](int line) {
        const int sample = lines.sample_of(line);
        const int y = from.y + line - sample * lines.of_sample;
        const bool inside =
            sample < from.samples && inside_extent(y, args.plan.axes[1].operand_extent);
        return LineSource<T>{from.source + (inside ? sample * stride_n + y * stride_h : 0), inside};
      },
      [&](int line, int column) { return shared.places[line * lines.span + column]; });
}

// The boxes of a block's first position, where they hold all channels: nothing is to be waited for.
__device__ __forceinline__ void begin_boxes(const WgmmaDataArguments& args,
                                            const WgmmaShared& shared) {
  const WindowAxis &d = args.plan.axes[0], &h = args.plan.axes[1], &w = args.plan.axes[2];
  const WorkItem item(args, static_cast<int>(blockIdx.x));
  for (int box = 0; box < d.window; ++box)
    fill_box_tensor(args, shared.boxes + box * args.sizes.box_bytes, shared.box_full(box),
                    item.group * args.operand_channels, w.operand_step * item.w + w.origin,
                    h.operand_step * item.h + h.origin,
                    d.operand_step * item.first_d + d.origin + box, item.n);
}

enum class BoxFill { kCopyEngine, kRuns, kElements };

// Fills boxes in the order in which the consumers take them up: one thread through the copy engine,
// or seven warps, by elements with so many units at once. The first `begun` of a block are already
// on their way.
template <typename T, BoxFill kFill, int kElementUnits = 1>
__device__ void fill_boxes(const WgmmaDataArguments& args, const WgmmaShared& shared, int thread,
                           int begun = 0) {
  const WgmmaDataPlan& plan = args.plan;
  const WgmmaDataSizes& sizes = args.sizes;
  const WindowAxis &d = plan.axes[0], &h = plan.axes[1], &w = plan.axes[2];
  const int fresh = box_advance(d);
  constexpr bool kByWarps = kFill != BoxFill::kCopyEngine;
  constexpr bool kCopies = kFill == BoxFill::kRuns;
  constexpr int kFillWarps = fill_warps(2);  // otherwise the copy engine fills
  TransposedFill<T, kFillWarps, kFillDepth> copies(shared.fill_staging, thread / 32,
                                                   plan.chunk_units, sizes.box);
  RingCursor cursor;
  for (int box = 0; box < begun; ++box) cursor.advance(plan.box_slots);
  for (unsigned index = blockIdx.x; index < sizes.items; index += gridDim.x) {
    // In shared memory, because registers are short here.
    const WorkItem& item = shared.items[thread / 32];
    if (kByWarps) __syncwarp();  // all have left the item before
    if (thread % 32 == 0) shared.items[thread / 32] = WorkItem(args, static_cast<int>(index));
    if (kByWarps) __syncwarp();
    // Of several chunks, each column tile takes for each chunk the boxes that its taps read. A
    // single one's stay: the whole window of the first position, of the others the boxes at its
    // end.
    const bool stay = sizes.chunks == 1;
    for (int t = item.first_d; t < item.last_d; ++t) {
      int part = item.first_column * sizes.chunks;  // chunk of a column tile
      do {
        int i = stay && t > item.first_d ? d.window - fresh : begun;
        begun = 0;
        for (; i < (stay ? d.window : shared.columns[part / sizes.chunks].chunk_rounds); ++i) {
          const int channel = part % sizes.chunks * plan.chunk_units * kWgmmaUnitElements<T>;
          const int z =
              d.operand_step * t + d.origin +
              (stay ? i : d.offset[d.plane_begin[shared.columns[part / sizes.chunks].d] + i]);
          const int y = h.operand_step * item.h + h.origin;
          const int x = w.operand_step * item.w + w.origin;
          const uint32_t box = shared.boxes + cursor.slot * sizes.box_bytes;
          const uint32_t full = shared.box_full(cursor.slot), empty = shared.box_empty(cursor.slot);
          // A new barrier counts as having completed the phase before its first.
          const uint32_t parity = cursor.parity ^ 1;
          if (!kCopies) barrier_wait(empty, parity);
          if constexpr (!kByWarps) {
            fill_box_tensor(args, box, full, item.group * args.operand_channels + channel, x, y, z,
                            item.n);
          } else {
            const BoxSource<T> from{
                static_cast<const T*>(args.operand.data) + item.n * args.operand.stride[0] +
                    (static_cast<int64_t>(item.group) * args.operand_channels + channel) *
                        args.operand.stride[1] +
                    z * args.operand.stride[2],
                y + sizes.lines.y, x + sizes.lines.x,
                min(args.operand_channels - channel, plan.chunk_units * kWgmmaUnitElements<T>),
                inside_extent(z, d.operand_extent) ? item.samples : 0};
            fill_box_lines(args, shared, box, from,
                           [&](const FilledLines& lines, const SwizzledRows& rows,
                               const auto& line_source, const auto& row_of) {
                             const auto stride_w = static_cast<int>(args.operand.stride[4]);
                             if constexpr (kCopies)
                               copies.fill(lines, rows, plan.fill_run == kWgmmaUnitElements<T>,
                                           args.operand.stride[1], stride_w, cursor.slot, empty,
                                           parity, line_source, row_of);
                             else
                               fill_elements<kElementUnits, T>(lines, rows, args.operand.stride[1],
                                                               stride_w, thread, 32 * kFillWarps,
                                                               line_source, row_of);
                           });
            if constexpr (kCopies) {
              copies.end_box(empty, parity);
            } else {
              fence_for_wgmma();
              __syncwarp();
              if (thread % 32 == 0) barrier_arrive(full);
            }
          }
          cursor.advance(shared.box_slots);
        }
      } while (!stay && ++part < item.last_column * sizes.chunks);
    }
  }
  if (kCopies) copies.flush();
}

// Whether the first boxes are asked for while tables are written: the copy engine needs none for
// boxes that hold all channels.
__device__ __forceinline__ bool begins_boxes(const WgmmaDataArguments& args) {
  return args.plan.fill_run == 0 && args.sizes.chunks == 1;
}

// The filling warps' part of the tables.
template <int kWarpgroups>
__device__ __forceinline__ void write_fill_tables(const WgmmaDataArguments& args,
                                                  const WgmmaShared& shared, int thread) {
  if (thread >= 32) {
    constexpr int kOthers = 32 * (fill_warps(kWarpgroups) - 1);
    clear_boxes(args, shared, thread - 32, kOthers);
    if (args.plan.fill_run != 0) write_places(args, shared, thread - 32, kOthers);
  } else if (begins_boxes(args) && thread == 0) {
    begin_boxes(args, shared);
  }
}

template <typename T, int kWarpgroups, bool kChannelsLast>
__device__ __forceinline__ void produce_boxes(const WgmmaDataArguments& args,
                                              const WgmmaShared& shared, int thread) {
  if (kWarpgroups > 2 || args.plan.fill_run == 0) {
    const int begun = begins_boxes(args) ? args.plan.axes[0].window : 0;
    if (thread == 0) fill_boxes<T, BoxFill::kCopyEngine>(args, shared, 0, begun);
    return;
  }
  if constexpr (kWarpgroups == 2) {
    if (kChannelsLast || !copies_runs(args.plan.fill_run, sizeof(T))) {
      // More loads at once need the registers that only contiguous operands leave.
      if (kChannelsLast || args.plan.chunk_units == 2)
        fill_boxes<T, BoxFill::kElements, 2>(args, shared, thread);
      else
        fill_boxes<T, BoxFill::kElements, 4>(args, shared, thread);
    } else {
      fill_boxes<T, BoxFill::kRuns>(args, shared, thread);
    }
  }
}

}  // namespace convt3d

// The producing warps of the WGMMA data kernel (wgmma_data.cuh): packed weights through bulk
// copies, operand boxes through the copy engine by one thread, or element by element by seven
// warps.
#pragma once

#include "wgmma_data_tables.cuh"

namespace convt3d {

// ---- Weights: one thread ---------------------------------------------------------------------
__device__ inline void load_weights(const WgmmaDataArguments& args, const WgmmaShared& shared) {
  const WgmmaDataPlan& plan = args.plan;
  const WgmmaDataSizes& sizes = args.sizes;
  const int stages_per_tap = plan.chunk_units / plan.stage_units;
  RingCursor cursor;
  wait_for_previous_kernel();  // pack_wgmma_weights; nothing else depends on it
  for (unsigned index = blockIdx.x; index < sizes.items; index += gridDim.x) {
    const WorkItem item(args, static_cast<int>(index));
    const char* packed = args.packed + item.group * sizes.stages * sizes.stage_bytes;
    const int steps = sizes.resident ? 1 : item.last_d - item.first_d;
    for (int step = 0; step < steps; ++step) {
      for (int column = item.first_column; column < item.last_column; ++column) {
        const ColumnPlace& tile = shared.columns[column];
        // The stages of all chunks of a column tile follow each other.
        const int64_t begin =
            static_cast<int64_t>(tile.slice * sizes.taps + tile.first_tap) * sizes.chunks;
        const char* source = packed + begin * stages_per_tap * sizes.stage_bytes;
        const int count = tile.taps * sizes.chunks * stages_per_tap;
        for (int stage = 0; stage < count; ++stage) {
          barrier_wait(shared.weight_empty(cursor.slot), cursor.parity ^ 1);
          const uint32_t full = shared.weight_full(cursor.slot);
          barrier_expect(full, sizes.stage_bytes);
          copy_bulk(shared.weights + cursor.slot * sizes.stage_bytes, source, sizes.stage_bytes,
                    full);
          source += sizes.stage_bytes;
          cursor.advance(shared.weight_slots);
        }
      }
    }
    if (sizes.resident) return;  // once for good
  }
}

// ---- Operand ---------------------------------------------------------------------------------
// What fills one box: the plane of the tensor at `source` (position (0, 0) of the first sample,
// first channel of the chunk), or zeros.
template <typename T>
struct BoxSource {
  const T* source;
  int y, x;              // coordinates of the box's first row
  int channels;          // present in the chunk
  bool inside;           // the plane lies in the tensor
  const WorkItem& item;  // its samples
};

__device__ __forceinline__ bool inside_extent(int coordinate, int extent) {
  return static_cast<unsigned>(coordinate) < static_cast<unsigned>(extent);
}

// Zeros behind the filled rows of every box, once for good. For all threads.
__device__ inline void clear_ends_of_boxes(const WgmmaDataArguments& args,
                                           const WgmmaShared& shared) {
  const BoxShape& shape = args.sizes.box;
  const int row_bytes = shape.width * kWgmmaUnitBytes;
  const int units = (shape.reached - shape.filled) * shape.width;
  if (units == 0) return;
  const int areas = args.plan.box_slots * (args.sizes.box_bytes / (shape.area * row_bytes));
  for (int i = threadIdx.x; i < areas * units; i += kWgmmaThreads)
    store_shared(shared.boxes + (i / units * shape.area + shape.filled) * row_bytes +
                     i % units * kWgmmaUnitBytes,
                 {0, 0, 0, 0});
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

// Element by element: neighbouring threads take neighbouring rows, which lie along w.
template <typename T>
__device__ __forceinline__ void fill_box_elements(const WgmmaDataArguments& args,
                                                  const WgmmaShared& shared, uint32_t box,
                                                  const BoxSource<T>& from, int thread) {
  constexpr int kElements = kWgmmaUnitElements<T>;
  // Sixteen loads under way: of two units of one row, or of two rows.
  constexpr int kAtOnce = 2, kRows = 8 / kElements;
  using Bits = BitsOf<T>;
  const int extent_h = args.plan.axes[1].operand_extent;
  const int extent_w = args.plan.axes[2].operand_extent;
  const int stride_n = static_cast<int>(args.operand.stride[0]);
  const int stride_h = static_cast<int>(args.operand.stride[3]);
  const int stride_w = static_cast<int>(args.operand.stride[4]);
  const int64_t stride_c = args.operand.stride[1];
  const int places = args.sizes.box.lines * args.sizes.box.span_w;
  const BoxShape& shape = args.sizes.box;
  const int units = args.plan.chunk_units;  // even, as is the width
  const Bits* const plane = reinterpret_cast<const Bits*>(from.source);
#pragma unroll 1
  for (int unit = 0; unit < units; unit += kAtOnce) {
    const int channels = from.channels - unit * kElements;
    const uint32_t columns = box + unit / shape.width * shape.bytes();
    const int first_unit = unit % shape.width;
    const Bits* const first = plane + unit * kElements * stride_c;
#pragma unroll 1
    for (int at = thread; at < places; at += kRows * kFillThreads) {
      Bits values[kRows][kAtOnce * kElements];
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        const bool exists = r == 0 || at + r * kFillThreads < places;
        const unsigned place = exists ? shared.places[at + r * kFillThreads] : 0;
        const int line = static_cast<int>(place >> 24), sample = shape.sample_of_line(line);
        const int y = from.y + line - sample * shape.span_h;
        const int x = from.x + static_cast<int>(place >> 16 & 255);
        const bool inside = exists && from.inside && sample < from.item.samples &&
                            inside_extent(y, extent_h) && inside_extent(x, extent_w);
        const Bits* source = first + (inside ? sample * stride_n + y * stride_h + x * stride_w : 0);
#pragma unroll
        for (int j = 0; j < kAtOnce * kElements; ++j) {
          values[r][j] = inside && j < channels ? __ldg(source) : 0;
          source += stride_c;
        }
      }
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        if (r > 0 && at + r * kFillThreads >= places) continue;
        const int row = shared.places[at + r * kFillThreads] & 0xffff;
#pragma unroll
        for (int u = 0; u < kAtOnce; ++u) {
          const Bits* v = values[r] + u * kElements;
          uint4 packed;
          if constexpr (sizeof(T) == 4)
            packed = {round_to_tf32(v[0]), round_to_tf32(v[1]), round_to_tf32(v[2]),
                      round_to_tf32(v[3])};
          else
            packed = {
                v[0] | static_cast<unsigned>(v[1]) << 16, v[2] | static_cast<unsigned>(v[3]) << 16,
                v[4] | static_cast<unsigned>(v[5]) << 16, v[6] | static_cast<unsigned>(v[7]) << 16};
          store_shared(columns + shape.unit_at(row, first_unit + u) * kWgmmaUnitBytes, packed);
        }
      }
    }
  }
}

// The same with two neighbours along w per load, which doubles the bytes under way: for 16-bit
// operands whose rows start and end on 4-byte boundaries (operand_in_pairs).
template <typename T>
__device__ __forceinline__ void fill_box_pairs(const WgmmaDataArguments& args,
                                               const WgmmaShared& shared, uint32_t box,
                                               const BoxSource<T>& from, int thread) {
  constexpr int kElements = kWgmmaUnitElements<T>, kAtOnce = 2;
  const BoxShape& shape = args.sizes.box;
#pragma unroll 1
  for (int unit = 0; unit < args.plan.chunk_units; unit += kAtOnce) {
    const int channels = from.channels - unit * kElements;
    const uint32_t columns = box + unit / shape.width * shape.bytes();
    int line = thread / args.sizes.pairs, pair = thread % args.sizes.pairs;
#pragma unroll 1
    while (line < shape.lines) {
      const int sample = shape.sample_of_line(line);
      const int y = from.y + line - sample * shape.span_h;
      const int column = 2 * pair - (from.x & 1), x = from.x + column;
      const bool inside = from.inside && sample < from.item.samples &&
                          inside_extent(y, args.plan.axes[1].operand_extent) &&
                          inside_extent(x, args.plan.axes[2].operand_extent);
      const T* source = from.source + unit * kElements * args.operand.stride[1];
      if (inside)
        source += sample * static_cast<int>(args.operand.stride[0]) +
                  y * static_cast<int>(args.operand.stride[3]) + x;
      uint32_t values[kAtOnce * kElements];
#pragma unroll
      for (int j = 0; j < kAtOnce * kElements; ++j) {
        values[j] = inside && j < channels ? __ldg(reinterpret_cast<const uint32_t*>(source)) : 0;
        source += args.operand.stride[1];
      }
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        if (static_cast<unsigned>(column + e) >= static_cast<unsigned>(shape.span_w)) continue;
        const int place = shared.places[line * shape.span_w + column + e] & 0xffff;
        const int halves = e == 0 ? 0x5410 : 0x7632;
#pragma unroll
        for (int u = 0; u < kAtOnce; ++u) {
          const uint32_t* v = values + u * kElements;
          store_shared(columns + shape.unit_at(place, unit % shape.width + u) * kWgmmaUnitBytes,
                       {__byte_perm(v[0], v[1], halves), __byte_perm(v[2], v[3], halves),
                        __byte_perm(v[4], v[5], halves), __byte_perm(v[6], v[7], halves)});
        }
      }
      line += args.sizes.pair_rows;
      pair += args.sizes.pair_rest;
      if (pair >= args.sizes.pairs) {
        pair -= args.sizes.pairs;
        ++line;
      }
    }
  }
}

// Fills boxes in the order in which the consumers take them up. For one thread (the copy engine) or
// seven warps. kPairs: operand_in_pairs may be set.
template <typename T, bool kPairs>
__device__ void fill_boxes(const WgmmaDataArguments& args, const WgmmaShared& shared, int thread) {
  const WgmmaDataPlan& plan = args.plan;
  const WgmmaDataSizes& sizes = args.sizes;
  const WindowAxis &d = plan.axes[0], &h = plan.axes[1], &w = plan.axes[2];
  RingCursor cursor;
  for (unsigned index = blockIdx.x; index < sizes.items; index += gridDim.x) {
    // In shared memory, because registers are short here.
    const WorkItem& item = shared.items[thread / 32];
    if (plan.element_fill) __syncwarp();  // all have left the item before
    if (thread % 32 == 0) shared.items[thread / 32] = WorkItem(args, static_cast<int>(index));
    if (plan.element_fill) __syncwarp();
    for (int t = item.first_d; t < item.last_d; ++t) {
      for (int column = item.first_column;
           column < (sizes.chunks > 1 ? item.last_column : item.first_column + 1); ++column) {
        for (int chunk = 0; chunk < sizes.chunks; ++chunk) {
          const int channel = chunk * plan.chunk_units * kWgmmaUnitElements<T>;
          const bool whole = sizes.chunks > 1 || t == item.first_d;
          for (int b = whole ? 0 : d.window - box_advance(d); b < d.window; ++b) {
            const int z = d.operand_step * t + d.origin + b;
            // A new barrier counts as having completed the phase before its first.
            barrier_wait(shared.box_empty(cursor.slot), cursor.parity ^ 1);
            const int y = h.operand_step * item.h + h.origin;
            const int x = w.operand_step * item.w + w.origin;
            const int offset = cursor.slot * sizes.box_bytes;
            const uint32_t full = shared.box_full(cursor.slot);
            if (!plan.element_fill) {
              fill_box_tensor(args, shared.boxes + offset, full,
                              item.group * args.operand_channels + channel, x, y, z, item.n);
            } else {
              const BoxSource<T> from{
                  static_cast<const T*>(args.operand.data) + item.n * args.operand.stride[0] +
                      (static_cast<int64_t>(item.group) * args.operand_channels + channel) *
                          args.operand.stride[1] +
                      z * args.operand.stride[2],
                  y,
                  x,
                  min(args.operand_channels - channel, plan.chunk_units * kWgmmaUnitElements<T>),
                  inside_extent(z, d.operand_extent),
                  item};
              bool filled = false;
              if constexpr (kPairs && sizeof(T) == 2) {
                filled = args.operand_in_pairs;
                if (filled) fill_box_pairs<T>(args, shared, shared.boxes + offset, from, thread);
              }
              if (!filled) fill_box_elements<T>(args, shared, shared.boxes + offset, from, thread);
              fence_for_wgmma();
              __syncwarp();
              if (thread % 32 == 0) barrier_arrive(full);
            }
            cursor.advance(shared.box_slots);
          }
        }
      }
    }
  }
}

}  // namespace convt3d

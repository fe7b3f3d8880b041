// Filling tiles of channel rows for grad_weight: global memory in any layout -> shared memory with
// the channels of a position side by side.
//
// A table in shared memory, written once per block, lists the items of a tile: rows, or vectors of
// neighbours along w whose elements belong to several rows. Each tile then only adds its origin;
// bounds are checked only where the tile reaches over the tensor's edge.
#pragma once

#include "gemm_grad_weight.h"
#include "mma.cuh"

namespace convt3d {

struct FillOperand {
  TensorPointer tensor;
  TileFill fill;
  int element_bytes;
  int vector;      // neighbours along w per load; 1 for whole rows
  int channels;    // per group
  unsigned items;  // per tile
  unsigned items_per_line;
  int pitch;       // bytes per row of shared memory
  int extent[3];   // of the tensor
  int advance[3];  // coordinates from one tile to the next
  int reach[3];    // coordinates that a tile spans
};

// Coordinates of an item relative to the tile's origin, 10 + 10 + 12 bits.
constexpr int kMostReach = 1 << 10, kMostReachW = 1 << 12;
__device__ inline uint32_t pack_coordinates(int d, int h, int w) { return d << 22 | h << 12 | w; }

struct RowItem {
  int offset;  // bytes from the tile's origin
  uint32_t coordinates;
};
// Rows of the elements of a vector; kNoRow where no tap needs one.
constexpr uint32_t kNoRow = 0xffff;
struct VectorItem {
  int offset;
  uint32_t coordinates;
  uint32_t rows[2];  // four 16-bit numbers
};

__host__ __device__ inline int align_down(int value, int multiple) {
  return value - (value % multiple + multiple) % multiple;
}

__device__ inline void write_item(const FillOperand& operand, void* table, int item, int d, int h,
                                  int w, uint32_t rows_01, uint32_t rows_23) {
  const int offset = static_cast<int>(
      (d * operand.tensor.stride[2] + h * operand.tensor.stride[3] + w * operand.tensor.stride[4]) *
      operand.element_bytes);
  if (operand.vector == 1) {
    static_cast<RowItem*>(table)[item] = {offset, pack_coordinates(d, h, w)};
  } else {
    static_cast<VectorItem*>(table)[item] = {offset, pack_coordinates(d, h, w), {rows_01, rows_23}};
  }
}

// Per axis, in shared memory: d and h give the coordinate of each row of the moving tile, relative
// to the tile's origin. w gives the same for rows one by one, else the row of each coordinate or
// -1.
struct AxisTables {
  int *d, *h, *w;
};

__device__ inline AxisTables axis_tables(const ContractionAxis (&axes)[3], int* memory) {
  return {memory, memory + axes[0].rows(), memory + axes[0].rows() + axes[1].rows()};
}

__device__ inline void tabulate_axes(const FillOperand& moving, const ContractionAxis (&axes)[3],
                                     const int (&first_tap)[3], const AxisTables& tables) {
#pragma unroll
  for (int a = 0; a < 3; ++a) {
    int* table = a == 0 ? tables.d : a == 1 ? tables.h : tables.w;
    const int first = axes[a].first_coordinate(first_tap[a]);
    if (a == 2 && moving.vector > 1) {
      const int aligned = align_down(first, moving.vector);
      for (int at = threadIdx.x; at < moving.items_per_line * moving.vector; at += blockDim.x)
        table[at] = axes[a].row_of_coordinate(first_tap[a], aligned + at);
    } else {
      for (int row = threadIdx.x; row < axes[a].rows(); row += blockDim.x)
        table[row] = axes[a].coordinate(first_tap[a], row) - first;
    }
  }
}

__device__ inline void tabulate_still(const FillOperand& operand, const ContractionAxis (&axes)[3],
                                      void* table) {
  const unsigned tile_h = axes[1].tile, tile_w = axes[2].tile;
  for (unsigned item = threadIdx.x; item < operand.items; item += blockDim.x) {
    const unsigned line = item / operand.items_per_line;
    const unsigned w = item % operand.items_per_line * operand.vector;
    const unsigned d = line / tile_h, h = line % tile_h;
    uint32_t rows[4];
#pragma unroll
    for (unsigned e = 0; e < 4; ++e) rows[e] = w + e < tile_w ? line * tile_w + w + e : kNoRow;
    write_item(operand, table, item, d, h, w, rows[0] | rows[1] << 16, rows[2] | rows[3] << 16);
  }
}

__device__ inline void tabulate_moving(const FillOperand& operand, const ContractionAxis (&axes)[3],
                                       const AxisTables& tables, void* table) {
  const unsigned rows_h = axes[1].rows(), rows_w = axes[2].rows();
  for (unsigned item = threadIdx.x; item < operand.items; item += blockDim.x) {
    const unsigned line = item / operand.items_per_line, at = item % operand.items_per_line;
    const int d = tables.d[line / rows_h], h = tables.h[line % rows_h];
    if (operand.vector == 1) {
      write_item(operand, table, item, d, h, tables.w[at], 0, 0);
      continue;
    }
    uint32_t rows[4] = {kNoRow, kNoRow, kNoRow, kNoRow};
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      if (e >= operand.vector) break;
      const int row = tables.w[at * operand.vector + e];
      if (row >= 0) rows[e] = line * rows_w + row;
    }
    write_item(operand, table, item, d, h, at * operand.vector, rows[0] | rows[1] << 16,
               rows[2] | rows[3] << 16);
  }
}

// ---- One tile --------------------------------------------------------------------------------
struct TileBounds {
  int origin[3];
  int extent[3];
  __device__ bool contains(uint32_t coordinates) const {
    const unsigned d = origin[0] + static_cast<int>(coordinates >> 22);
    const unsigned h = origin[1] + static_cast<int>(coordinates >> 12 & 1023);
    const unsigned w = origin[2] + static_cast<int>(coordinates & 4095);
    return (d < static_cast<unsigned>(extent[0])) & (h < static_cast<unsigned>(extent[1])) &
           (w < static_cast<unsigned>(extent[2]));
  }
};

// What a block knows of an operand from tile to tile: in shared memory, because registers are full
// of sums.
struct FillSlice {
  const char* source;   // first channel of the slice at coordinate 0 of sample 0
  int channels;         // of the slice
  int origin[3];        // coordinates of the tile of positions 0
  int units;            // 16-byte units of a row
  uint32_t reciprocal;  // of units, 16 fraction bits
};

// Items that a thread loads before it stores the first, by the width of the loads: narrow ones need
// many in flight, as far as the kernel's registers go.
struct FillDepth {
  int elements, pairs, quads;
};

// The threads that fill.
struct FillThreads {
  int index, count;
};

template <typename T>
__device__ FillSlice fill_slice(const FillOperand& operand, int group, int channel, int most) {
  constexpr int kUnitElements = 16 / static_cast<int>(sizeof(T));
  FillSlice slice;
  slice.source = static_cast<const char*>(operand.tensor.data) +
                 (static_cast<int64_t>(group) * operand.channels + channel) *
                     operand.tensor.stride[1] * static_cast<int>(sizeof(T));
  slice.channels = min(most, operand.channels - channel);
  slice.units = (slice.channels + kUnitElements - 1) / kUnitElements;
  slice.reciprocal = (65536 + slice.units - 1) / slice.units;  // exact for up to 4096 threads
  return slice;
}

// Rows of whole 16-byte units. Where nothing is to be read, the address is never used.
template <bool kInside>
__device__ __forceinline__ void fill_async(const FillOperand& operand, const TileBounds& bounds,
                                           const FillSlice& slice, const FillThreads& threads,
                                           const char* source, const RowItem* items,
                                           uint32_t tile) {
  // Neighbouring threads take neighbouring units of a row.
  const int first_row = threads.index * slice.reciprocal >> 16;
  const int rows_at_once = threads.count * slice.reciprocal >> 16;
  const int unit = threads.index - first_row * slice.units;
  if (first_row >= rows_at_once) return;
  const uint32_t row_bytes = rows_at_once * operand.pitch;
  uint32_t destination = tile + first_row * operand.pitch + unit * 16;
  source += unit * 16;
#pragma unroll 4
  for (int row = first_row; row < static_cast<int>(operand.items); row += rows_at_once) {
    const RowItem item = items[row];
    copy_async<16>(destination, source + item.offset, kInside || bounds.contains(item.coordinates));
    destination += row_bytes;
  }
}

template <int kBytes>
struct LoadOf;
template <>
struct LoadOf<2> {
  using type = unsigned short;
};
template <>
struct LoadOf<4> {
  using type = uint32_t;
};
template <>
struct LoadOf<8> {
  using type = uint2;
};
template <>
struct LoadOf<16> {
  using type = uint4;
};

__device__ inline uint32_t word_of(unsigned short load, int) { return load; }
__device__ inline uint32_t word_of(uint32_t load, int) { return load; }
__device__ inline uint32_t word_of(uint2 load, int word) { return word == 0 ? load.x : load.y; }
__device__ inline uint32_t word_of(uint4 load, int word) {
  return word == 0 ? load.x : word == 1 ? load.y : word == 2 ? load.z : load.w;
}

// Neighbours along w that one load can bring: at most 16 bytes.
template <typename T>
constexpr int kMostRun = sizeof(T) == 8 ? 2 : 4;

// Elements in any layout: a thread takes kVector neighbours along w of all channels of a unit and
// writes one unit per row. Threads go along w first, for coalescing; several of them share an
// item, because rows kVector apart would fall into the same banks.
template <typename T, int kVector, FillDepth kDepth>
__device__ __forceinline__ void fill_elements(const FillOperand& operand, const TileBounds& bounds,
                                              const FillSlice& slice, const FillThreads& threads,
                                              const char* source, const void* table, char* tile) {
  constexpr int kUnitElements = 16 / static_cast<int>(sizeof(T));
  constexpr int kMostLanes = sizeof(T) == 2 ? kVector : kVector == 1 ? 2 : 4;
  constexpr int kBatch = kVector == 1   ? kDepth.elements
                         : kVector == 2 ? kDepth.pairs
                                        : kDepth.quads;
  using Load = typename LoadOf<static_cast<int>(sizeof(T)) * kVector>::type;
  const int units = slice.units;
  const int lane_bits = min(31 - __clz(units), kMostLanes / 2);  // 1, 2 or 4 lanes per item
  const int item_bits = 3 - lane_bits;
  const int first_unit = threads.index >> item_bits & ((1 << lane_bits) - 1);
  const int first_item =
      (threads.index & ((1 << item_bits) - 1)) + (threads.index >> 3 << item_bits);
  const int items_at_once = threads.count >> lane_bits;
  const int64_t stride = operand.tensor.stride[1] * static_cast<int>(sizeof(T));
  source += first_unit * kUnitElements * stride;
  for (int begin = first_item; begin < static_cast<int>(operand.items);
       begin += kBatch * items_at_once) {
    const char* from[kBatch];
    int channels[kBatch];
    uint32_t rows[kBatch][2];
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const int item = begin + i * items_at_once;
      channels[i] = 0;
      from[i] = source;
      rows[i][0] = rows[i][1] = kNoRow | kNoRow << 16;
      if (item >= static_cast<int>(operand.items)) continue;
      uint32_t coordinates;
      if constexpr (kVector == 1) {
        const RowItem entry = static_cast<const RowItem*>(table)[item];
        from[i] += entry.offset;
        coordinates = entry.coordinates;
        rows[i][0] = item;
      } else {
        const VectorItem entry = static_cast<const VectorItem*>(table)[item];
        from[i] += entry.offset;
        coordinates = entry.coordinates;
        rows[i][0] = entry.rows[0];
        rows[i][1] = entry.rows[1];
      }
      if (bounds.contains(coordinates)) channels[i] = slice.channels;
    }
    for (int unit = first_unit; unit < units; unit += 1 << lane_bits) {
      Load loads[kBatch][kUnitElements] = {};
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
        const int count = channels[i] - unit * kUnitElements;
        const char* at = from[i];
#pragma unroll
        for (int j = 0; j < kUnitElements; ++j) {
          if (j < count) loads[i][j] = __ldg(reinterpret_cast<const Load*>(at));
          at += stride;
        }
        from[i] += (kUnitElements * stride) << lane_bits;
      }
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
#pragma unroll
        for (int e = 0; e < kVector; ++e) {
          uint32_t words[4];
#pragma unroll
          for (int j = 0; j < 4; ++j) {
            if constexpr (sizeof(T) == 2)
              words[j] =
                  __byte_perm(word_of(loads[i][2 * j], e / 2), word_of(loads[i][2 * j + 1], e / 2),
                              e % 2 == 0 ? 0x5410 : 0x7632);
            else if constexpr (sizeof(T) == 4)
              words[j] = word_of(loads[i][j], e);
            else
              words[j] = word_of(loads[i][j / 2], 2 * e + j % 2);
          }
          const uint32_t row = rows[i][e / 2] >> e % 2 * 16 & 0xffff;
          if (row != kNoRow)
            *reinterpret_cast<uint4*>(tile + row * operand.pitch + unit * 16) =
                uint4{words[0], words[1], words[2], words[3]};
        }
      }
    }
  }
}

// `place`: batch and position tile along each axis.
// Asynchronous copies are not waited for.
template <typename T, FillDepth kDepth>
__device__ __forceinline__ void fill_tile(const FillOperand& operand, const FillSlice& slice,
                                          const FillThreads& threads, const int (&place)[4],
                                          const void* table, char* tile) {
  TileBounds bounds;
  bool inside = true;
  int64_t offset = place[0] * operand.tensor.stride[0];
#pragma unroll
  for (int a = 0; a < 3; ++a) {
    bounds.origin[a] = slice.origin[a] + place[a + 1] * operand.advance[a];
    bounds.extent[a] = operand.extent[a];
    inside =
        inside && bounds.origin[a] >= 0 && bounds.origin[a] + operand.reach[a] <= operand.extent[a];
    offset += bounds.origin[a] * operand.tensor.stride[2 + a];
  }
  const char* source = slice.source + offset * static_cast<int>(sizeof(T));
  // One register pair from here on: the compiler would repeat the sum above in every loop.
  forget_origin(source);
  switch (operand.fill) {
    case TileFill::kAsync:
      if (inside)
        fill_async<true>(operand, bounds, slice, threads, source,
                         static_cast<const RowItem*>(table), shared_address(tile));
      else
        fill_async<false>(operand, bounds, slice, threads, source,
                          static_cast<const RowItem*>(table), shared_address(tile));
      break;
    case TileFill::kElements:
      fill_elements<T, 1, kDepth>(operand, bounds, slice, threads, source, table, tile);
      break;
    case TileFill::kPairs:
      fill_elements<T, 2, kDepth>(operand, bounds, slice, threads, source, table, tile);
      break;
    case TileFill::kQuads:
      if constexpr (kMostRun<T> == 4)
        fill_elements<T, 4, kDepth>(operand, bounds, slice, threads, source, table, tile);
      break;
  }
}

}  // namespace convt3d

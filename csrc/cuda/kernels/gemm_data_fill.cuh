// The operand tile of the implicit matrix product (gemm_data.cuh): global -> shared.
#pragma once

#include "gemm_pack_tables.cuh"
#include "mma.cuh"

namespace convt3d {

__device__ __forceinline__ bool within(int coordinate, int extent) {
  return static_cast<unsigned>(coordinate) < static_cast<unsigned>(extent);
}

// Where a listed row of the tile lies in the operand: its offset from the position of row 0 (which
// may be outside the tensor), or kOutside; and its place in the tile, in bytes.
constexpr int kOutside = std::numeric_limits<int>::min();

__device__ __forceinline__ int2 locate_row(const GemmDataArguments& args, const int (&corner)[3],
                                           int index) {
  const TileAxis(&axes)[3] = args.plan.axes;
  const int4 row = __ldg(reinterpret_cast<const int4*>(args.tables.rows) + index);
  const int h = static_cast<short>(row.y & 0xffff), d = row.y >> 16;
  const bool inside = within(corner[0] + d, axes[0].operand_extent) &&
                      within(corner[1] + h, axes[1].operand_extent) &&
                      within(corner[2] + row.z, axes[2].operand_extent);
  return {inside ? row.x : kOutside, row.w * args.sizes.row_pitch};
}

template <typename T>
struct ElementSource {
  const T* first;  // first channel of the tile's row 0
  int64_t stride;  // of channels
  int channels;    // present in the tile
};

// Neighbouring threads take neighbouring rows: along w, the fastest dimension of a contiguous
// tensor. A thread loads kUnits units of each of kRows rows before it stores the first.
template <int kRows, int kUnits, typename T>
__device__ __forceinline__ void fill_by_elements(const GemmDataArguments& args,
                                                 const int (&corner)[3],
                                                 const ElementSource<T>& from, int units,
                                                 char* tile) {
  const int rows = args.sizes.operand_rows;
  for (int first = threadIdx.x; first < rows; first += kRows * kGemmThreads) {
    int2 at[kRows];
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const int row = first + r * kGemmThreads;
      at[r] = row < rows ? locate_row(args, corner, row) : int2{kOutside, 0};
    }
    for (int unit = 0; unit < units; unit += kUnits) {
      alignas(16) T values[kRows][kUnits][kUnitElements<T>];
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        const bool inside = at[r].x != kOutside;
        const T* source =
            from.first + (inside ? at[r].x : 0) + unit * kUnitElements<T> * from.stride;
        // One comparison per load: of several conditions the compiler makes branches, between which
        // the loads wait for each other.
        const int count = inside ? from.channels - unit * kUnitElements<T> : 0;
#pragma unroll
        for (int i = 0; i < kUnits; ++i) {
#pragma unroll
          for (int j = 0; j < kUnitElements<T>; ++j) {
            values[r][i][j] = Convert<T>::from(0.f);
            if (i * kUnitElements<T> + j < count) values[r][i][j] = __ldg(source);
            source += from.stride;
          }
        }
      }
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        if (first + r * kGemmThreads >= rows) continue;
#pragma unroll
        for (int i = 0; i < kUnits; ++i)
          if (unit + i < units)
            *reinterpret_cast<uint4*>(tile + at[r].y + (unit + i) * kUnitBytes) =
                *reinterpret_cast<const uint4*>(values[r][i]);
      }
    }
  }
}

// Fills the tile with one chunk; `first` are the coordinates of chunk 0's row 0. `locations` is
// room for an int2 per row.
template <typename T>
__device__ void fill_operand(const GemmDataArguments& args, const int (&first)[3], int n, int group,
                             int chunk_index, int2* locations, char* tile) {
  const GemmDataPlan& plan = args.plan;
  const Chunk chunk = args.tables.chunks[chunk_index];
  const int units = chunk.units, first_channel = chunk.first_unit * kUnitElements<T>;
  const T* operand = static_cast<const T*>(args.operand.data) + n * args.operand.stride[0] +
                     (static_cast<int64_t>(group) * args.operand_channels + first_channel) *
                         args.operand.stride[1];
  int corner[3];
#pragma unroll
  for (int a = 0; a < 3; ++a) {
    corner[a] = first[a] + chunk.offset[a];
    operand += corner[a] * args.operand.stride[2 + a];
  }

  if (plan.asynchronous_fill) {
    // Neighbouring threads take neighbouring units of a row, then the next row.
#pragma unroll 4
    for (int row = threadIdx.x; row < args.sizes.operand_rows; row += kGemmThreads)
      locations[row] = locate_row(args, corner, row);
    __syncthreads();
    const int lanes = min(units, kGemmThreads);
    const int rows_at_once = kGemmThreads / lanes;
    const int first_row = threadIdx.x / lanes;
    if (first_row >= rows_at_once) return;
    for (int unit = threadIdx.x % lanes; unit < units; unit += lanes) {
      const T* source = operand + unit * kUnitElements<T>;
      const uint32_t destination = shared_address(tile) + unit * kUnitBytes;
#pragma unroll 4
      for (int row = first_row; row < args.sizes.operand_rows; row += rows_at_once) {
        const int2 at = locations[row];
        const bool inside = at.x != kOutside;
        copy_async<16>(destination + at.y,
                       inside ? static_cast<const void*>(source + at.x) : args.operand.data,
                       inside);
      }
    }
  } else {
    const ElementSource<T> source{
        operand, args.operand.stride[1],
        min(args.operand_channels - first_channel, units * kUnitElements<T>)};
    constexpr int kRows = sizeof(T) == 8 ? 2 : 1;  // float64: a unit is two loads
    if (units == 1)
      fill_by_elements<4 * kRows, 1>(args, corner, source, units, tile);
    else if (units == 2)
      fill_by_elements<2 * kRows, 2>(args, corner, source, units, tile);
    else
      fill_by_elements<kRows, 4>(args, corner, source, units, tile);
  }
}

}  // namespace convt3d

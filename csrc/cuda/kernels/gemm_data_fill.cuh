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
    // Neighbouring threads take neighbouring rows: along w, the fastest dimension of a contiguous
    // tensor. Several units are loaded before the first is stored.
    constexpr int kUnroll = 4;
    const int channels = args.operand_channels - first_channel;
    const int64_t stride = args.operand.stride[1];
    for (int row = threadIdx.x; row < args.sizes.operand_rows; row += kGemmThreads) {
      const int2 at = locate_row(args, corner, row);
      const bool inside = at.x != kOutside;
      const T* source = operand + (inside ? at.x : 0);
      char* destination = tile + at.y;
      for (int unit = 0; unit < units; unit += kUnroll) {
        alignas(16) T values[kUnroll][kUnitElements<T>];
#pragma unroll
        for (int i = 0; i < kUnroll; ++i) {
#pragma unroll
          for (int j = 0; j < kUnitElements<T>; ++j) {
            values[i][j] = Convert<T>::from(0.f);
            if (inside && unit + i < units && (unit + i) * kUnitElements<T> + j < channels)
              values[i][j] = *source;
            source += stride;
          }
        }
#pragma unroll
        for (int i = 0; i < kUnroll; ++i) {
          if (unit + i < units)
            *reinterpret_cast<uint4*>(destination + (unit + i) * kUnitBytes) =
                *reinterpret_cast<const uint4*>(values[i]);
        }
      }
    }
  }
}

}  // namespace convt3d

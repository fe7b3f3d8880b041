// Forward and grad_input as one implicit matrix product (mma.sync):
//
//   rows     a tile of positions (4 warps x kRowFragments x 16)
//   columns  result planes x result channels, in tiles of kColumnGroups x 16
//   depth    entries (shifts or taps) x operand channels, in k-steps of two 16-byte units
//
//   operand tile ("halo")  global -> shared once per channel chunk, one row per position with its
//                          channels side by side: an entry is an offset to other rows, and every
//                          entry reads the same tile. Row pitch is an odd number of units, so that
//                          eight neighbouring rows fall into different banks.
//   weights                packed (gemm_pack.cuh) into the order of consumption and streamed
//                          through a ring of stages; each k-step carries its operand offsets and a
//                          mask of column groups that have a tap at all.
//   result                 accumulators -> shared -> global in runs along the fastest dimension.
//
// No split over the depth: each result is one fixed sequence of sums, the same in every run and
// whatever the rest of the batch is.
#pragma once

#include <algorithm>
#include <limits>

#include "gemm_pack.cuh"
#include "mma.cuh"

namespace convt3d {

constexpr int kGemmThreads = 32 * kGemmWarps;

// ---- Filling the operand tile ----------------------------------------------------------------
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
        copy_async_16(destination + at.y,
                      inside ? static_cast<const void*>(source + at.x) : args.operand.data, inside);
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

// ---- The product -----------------------------------------------------------------------------
template <typename T, int kRowFragments, int kColumnGroups>
struct GemmTile {
  static constexpr int kPartBytes = 2 * 16 * kColumnGroups * kUnitBytes;
  static constexpr int kStepBytes = kHeaderBytes + kWeightParts<T> * kPartBytes;

  float sum[kRowFragments][2 * kColumnGroups][4];

  __device__ void clear() {
#pragma unroll
    for (auto& row : sum) {
#pragma unroll
      for (auto& column : row) {
#pragma unroll
        for (float& value : column) value = 0.f;
      }
    }
  }

  __device__ void add(const GemmTile& other) {
#pragma unroll
    for (int i = 0; i < kRowFragments; ++i) {
#pragma unroll
      for (int c = 0; c < 2 * kColumnGroups; ++c) {
#pragma unroll
        for (int e = 0; e < 4; ++e) sum[i][c][e] += other.sum[i][c][e];
      }
    }
  }

  // The k-steps of one stage; `rows` are this lane's operand row addresses. kAccurate (float32):
  // three products of TF32 halves for one, else a single one.
  template <bool kAccurate>
  __device__ void multiply_stage(const uint32_t (&rows)[kRowFragments], const char* stage) {
    constexpr int kAllGroups = (1 << kColumnGroups) - 1;
    const int lane = threadIdx.x % 32;
    int offset[kStageSteps], groups[kStageSteps], all = kAllGroups;
#pragma unroll
    for (int i = 0; i < kStageSteps; ++i) {
      const int4 header = *reinterpret_cast<const int4*>(stage + i * kStepBytes);
      offset[i] = lane < 16 ? header.x : header.y;
      groups[i] = header.z;
      all &= header.z;
    }
    const uint32_t weights =
        shared_address(stage) + kHeaderBytes +
        (lane / 8 % 2 * (16 * kColumnGroups) + lane % 8 + lane / 16 * 8) * kUnitBytes;
    if (all == kAllGroups) {  // the common case, without branches: loads run ahead of products
#pragma unroll
      for (int i = 0; i < kStageSteps; ++i)
        multiply_step<true, kAccurate>(rows, offset[i], weights + i * kStepBytes, kAllGroups);
    } else {
#pragma unroll
      for (int i = 0; i < kStageSteps; ++i) {
        if (groups[i] != 0)
          multiply_step<false, kAccurate>(rows, offset[i], weights + i * kStepBytes, groups[i]);
      }
    }
  }

 private:
  template <bool kAll, bool kAccurate>
  __device__ void multiply_step(const uint32_t (&rows)[kRowFragments], int offset, uint32_t weights,
                                int groups) {
    uint32_t a[kRowFragments][4], a_low[kRowFragments][4];
#pragma unroll
    for (int i = 0; i < kRowFragments; ++i) {
      load_matrix_x4(a[i], rows[i] + offset);
      if constexpr (kWeightParts<T> == 2) {
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          const float value = __uint_as_float(a[i][j]);
          a[i][j] = round_to_tf32(a[i][j]);
          if (kAccurate)
            a_low[i][j] = round_to_tf32(__float_as_uint(value - __uint_as_float(a[i][j])));
        }
      }
    }
#pragma unroll
    for (int g = 0; g < kColumnGroups; ++g) {
      if (!kAll && (groups >> g & 1) == 0) continue;
      uint32_t b[4];
      load_matrix_x4(b, weights + g * 16 * kUnitBytes);
      if constexpr (kWeightParts<T> == 2 && kAccurate) {
        uint32_t b_low[4];
        load_matrix_x4(b_low, weights + kPartBytes + g * 16 * kUnitBytes);
#pragma unroll
        for (int i = 0; i < kRowFragments; ++i) {
          multiply_tile<T>(sum[i][2 * g], a_low[i], b[0], b[1]);
          multiply_tile<T>(sum[i][2 * g + 1], a_low[i], b[2], b[3]);
          multiply_tile<T>(sum[i][2 * g], a[i], b_low[0], b_low[1]);
          multiply_tile<T>(sum[i][2 * g + 1], a[i], b_low[2], b_low[3]);
        }
      }
#pragma unroll
      for (int i = 0; i < kRowFragments; ++i) {
        multiply_tile<T>(sum[i][2 * g], a[i], b[0], b[1]);
        multiply_tile<T>(sum[i][2 * g + 1], a[i], b[2], b[3]);
      }
    }
  }
};

// ---- Storing the result ----------------------------------------------------------------------
// Staged as [column][row] for a result whose fastest dimension is w, as [row][column] for
// channels_last.
template <typename T, int kRowFragments, int kColumnGroups>
__device__ void stage_result(const GemmDataArguments& args,
                             const GemmTile<T, kRowFragments, kColumnGroups>& tile,
                             int first_channel, int channels, T* staging) {
  struct alignas(2 * sizeof(T)) Pair {
    T first, second;
  };
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int pitch = args.staging_pitch;
  const int first_row = warp * kRowFragments * 16 + lane / 4;
#pragma unroll
  for (int c = 0; c < 2 * kColumnGroups; ++c) {
    const int column = c * 8 + lane % 4 * 2;
    float bias[2] = {0.f, 0.f};
    if (args.bias.data != nullptr) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const int channel = (column + e) % args.plan.channels_per_tile;
        if (channel < channels)
          bias[e] = Convert<float>::from(
              static_cast<const T*>(args.bias.data)[(first_channel + channel) * args.bias.stride]);
      }
    }
#pragma unroll
    for (int i = 0; i < kRowFragments; ++i) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int row = first_row + i * 16 + half * 8;
        const Pair pair{Convert<T>::from(tile.sum[i][c][2 * half] + bias[0]),
                        Convert<T>::from(tile.sum[i][c][2 * half + 1] + bias[1])};
        if (args.result_channels_last) {
          *reinterpret_cast<Pair*>(staging + row * pitch + column) = pair;
        } else {
          staging[column * pitch + row] = pair.first;
          staging[(column + 1) * pitch + row] = pair.second;
        }
      }
    }
  }
}

template <typename T>
__device__ void store_result(const GemmDataArguments& args, const ColumnTile& columns,
                             const int (&position)[3], int n, int64_t first_channel, int channels,
                             const T* staging) {
  const GemmDataPlan& plan = args.plan;
  int corner[3];  // first result coordinates of the tile
  T* result = static_cast<T*>(args.result.data) + n * args.result.stride[0] +
              first_channel * args.result.stride[1];
#pragma unroll
  for (int a = 0; a < 3; ++a) {
    corner[a] = result_coordinate(plan.axes[a], position[a], columns.plane[a]);
    result += corner[a] * args.result.stride[2 + a];
  }
  const auto inside = [&](const int4& place) {
    return within(corner[0] + (place.z >> 16), plan.axes[0].result_extent) &&
           within(corner[1] + (place.z & 0xffff), plan.axes[1].result_extent) &&
           within(corner[2] + place.w, plan.axes[2].result_extent);
  };
  const int4* places = reinterpret_cast<const int4*>(args.tables.results);
  if (!args.result_channels_last) {
    // Neighbouring threads write neighbouring results along w; each walks over the channels.
    const int64_t stride = args.result.stride[1];
    for (int at = threadIdx.x; at < args.sizes.places; at += kGemmThreads) {
      const int4 place = __ldg(places + at);
      if (!inside(place)) continue;
      T* destination = result + place.x;
      const T* source = staging + place.y;
#pragma unroll 8
      for (int channel = 0; channel < channels; ++channel) {
        *destination = *source;
        destination += stride;
        source += args.staging_pitch;
      }
    }
    return;
  }
  // Neighbouring threads write neighbouring channels of one position, in 16-byte units if they
  // can be had.
  const bool vectors = channels % kUnitElements<T> == 0 &&
                       plan.channels_per_tile % kUnitElements<T> == 0 && args.result_in_vectors;
  const int lanes = vectors ? channels / kUnitElements<T> : channels;
  const int places_at_once = kGemmThreads / lanes;
  const int lane = threadIdx.x % lanes;
  if (threadIdx.x / lanes >= places_at_once) return;
#pragma unroll 4
  for (int at = threadIdx.x / lanes; at < args.sizes.places; at += places_at_once) {
    const int4 place = __ldg(places + at);
    if (!inside(place)) continue;
    if (vectors) {
      *reinterpret_cast<uint4*>(result + place.x + lane * kUnitElements<T>) =
          *reinterpret_cast<const uint4*>(staging + place.y + lane * kUnitElements<T>);
    } else {
      result[place.x + lane * args.result.stride[1]] = staging[place.y + lane];
    }
  }
}

// ---- The kernel ------------------------------------------------------------------------------
// Walks over the weight stages of a block's column tiles and chunks, ahead of their use: the ring
// never runs dry between tiles.
struct StageCursor {
  int at, last;  // column tile x chunks + chunk
  int stage, stages;
  const char* source;

  __device__ void enter(const GemmDataArguments& args, int group) {
    stage = 0;
    stages = at < last ? args.tables.stages[at] : 0;
    const int64_t tile =
        static_cast<int64_t>(group) * args.sizes.column_tiles * args.sizes.chunks + at;
    source = args.packed + tile * args.sizes.steps * args.step_bytes;
  }
};

template <typename T, int kRowFragments, int kColumnGroups>
__global__ void __launch_bounds__(kGemmThreads, kRowFragments == 4 ? 2 : 3)
    gemm_data_kernel(const __grid_constant__ GemmDataArguments args) {
  extern __shared__ __align__(16) char shared[];
  using Tile = GemmTile<T, kRowFragments, kColumnGroups>;
  constexpr int kStageBytes = kStageSteps * Tile::kStepBytes;
  const GemmDataPlan& plan = args.plan;
  char* ring = shared + args.sizes.ring_at;
  T* staging = reinterpret_cast<T*>(shared + args.sizes.staging_at);
  // Rows are located while nothing is staged.
  int2* locations = reinterpret_cast<int2*>(shared + args.sizes.staging_at);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;

  // Which tile of positions, group and run of column tiles.
  int flat = blockIdx.x;
  int position[3], corner[3];
#pragma unroll
  for (int a = 2; a >= 0; --a) {
    position[a] = take(flat, args.tiles[a]) * plan.axes[a].tile;
    corner[a] = operand_coordinate(plan.axes[a], position[a], 0, 0);
  }
  const int n = flat;
  const int runs = (args.sizes.column_tiles + plan.columns_per_block - 1) / plan.columns_per_block;
  const int group = blockIdx.y / runs;
  const int first_column = blockIdx.y % runs * plan.columns_per_block;
  const int last_column = min(first_column + plan.columns_per_block, args.sizes.column_tiles);

  const int chunks = args.sizes.chunks;
  StageCursor cursor{first_column * chunks, last_column * chunks, 0, 0, nullptr};
  cursor.enter(args, group);
  const auto prefetch = [&](int slot) {
    while (cursor.stage == cursor.stages && cursor.at < cursor.last) {
      ++cursor.at;
      cursor.enter(args, group);
    }
    if (cursor.at < cursor.last) {
      const uint32_t destination = shared_address(ring + slot * kStageBytes);
#pragma unroll
      for (int at = 0; at < kStageBytes; at += kGemmThreads * kUnitBytes) {
        const int mine = at + static_cast<int>(threadIdx.x) * kUnitBytes;
        if (mine < kStageBytes) copy_async_16(destination + mine, cursor.source + mine, true);
      }
      cursor.source += kStageBytes;
      ++cursor.stage;
    }
    copy_async_commit();
  };

  // Operand rows of this lane's fragment rows, as ldmatrix addresses.
  uint32_t rows[kRowFragments];
#pragma unroll
  for (int i = 0; i < kRowFragments; ++i)
    rows[i] = shared_address(shared) +
              __ldg(args.tables.positions + (warp * kRowFragments + i) * 16 + lane % 16) *
                  args.sizes.row_pitch;
  fill_operand<T>(args, corner, n, group, 0, locations, shared);
#pragma unroll
  for (int slot = 0; slot < kStages - 1; ++slot) prefetch(slot);

  Tile tile;
  int slot = 0;
  bool filled = true;
  for (int index = first_column; index < last_column; ++index) {
    const ColumnTile columns = args.tables.columns[index];
    tile.clear();
    for (int chunk = 0; chunk < chunks; ++chunk) {
      if (!filled) {
        __syncthreads();  // the previous chunk has been multiplied
        fill_operand<T>(args, corner, n, group, chunk, locations, shared);
        copy_async_commit();
        copy_async_wait<0>();
      }
      filled = chunks == 1;
      const int stages = args.tables.stages[index * chunks + chunk];
      for (int stage = 0; stage < stages; ++stage) {
        copy_async_wait<kStages - 2>();
        __syncthreads();
        prefetch(slot == 0 ? kStages - 1 : slot - 1);
        const char* weights = ring + slot * kStageBytes;
        if constexpr (kWeightParts<T> == 2) {
          // The tensor cores cut the low bits of every sum they carry: short sums are carried
          // there, long ones in float32 registers.
          if (args.allow_tf32) {
            tile.template multiply_stage<false>(rows, weights);
          } else {
            Tile partial;
            partial.clear();
            partial.template multiply_stage<true>(rows, weights);
            tile.add(partial);
          }
        } else {
          tile.template multiply_stage<true>(rows, weights);
        }
        slot = slot == kStages - 1 ? 0 : slot + 1;
      }
      if (stages == 0) __syncthreads();  // no taps, only bias: the barrier that a stage has
    }
    const int channels = min(plan.channels_per_tile, args.result_channels - columns.channel);
    const int first_channel = group * args.result_channels + columns.channel;
    // The last tile's stores have read the staging buffer: a barrier lies in every stage.
    stage_result<T>(args, tile, first_channel, channels, staging);
    __syncthreads();
    store_result<T>(args, columns, position, n, first_channel, channels, staging);
  }
}

// ---- Launch ----------------------------------------------------------------------------------
template <typename T, int kRowFragments, int kColumnGroups>
cudaError_t launch_gemm_kernel(const GemmDataArguments& args, cudaStream_t stream) {
  const auto kernel = gemm_data_kernel<T, kRowFragments, kColumnGroups>;
  const cudaError_t status = cudaFuncSetAttribute(
      kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, args.sizes.shared_bytes);
  if (status != cudaSuccess) return status;
  const int64_t tiles =
      static_cast<int64_t>(args.batch) * args.tiles[0] * args.tiles[1] * args.tiles[2];
  const int runs =
      (args.sizes.column_tiles + args.plan.columns_per_block - 1) / args.plan.columns_per_block;
  const dim3 grid(static_cast<unsigned>(tiles), static_cast<unsigned>(args.groups * runs));
  kernel<<<grid, kGemmThreads, args.sizes.shared_bytes, stream>>>(args);
  return cudaGetLastError();
}

template <typename T>
cudaError_t launch_gemm_data_typed(const GemmDataArguments& args, cudaStream_t stream) {
  const cudaError_t status = launch_pack_weights<T>(args, stream);
  if (status != cudaSuccess) return status;
  const auto with_columns = [&](auto rows) {
    constexpr int kRows = decltype(rows)::value;
    switch (args.plan.column_groups) {
      case 1:
        return launch_gemm_kernel<T, kRows, 1>(args, stream);
      case 2:
        return launch_gemm_kernel<T, kRows, 2>(args, stream);
      case 3:
        return launch_gemm_kernel<T, kRows, 3>(args, stream);
      case 4:
        return launch_gemm_kernel<T, kRows, 4>(args, stream);
      default:
        return cudaErrorInvalidValue;
    }
  };
  // float32 keeps two sets of sums, which four row fragments have no registers for.
  if constexpr (kWeightParts<T> == 1) {
    if (args.plan.row_fragments == 4) return with_columns(std::integral_constant<int, 4>{});
  }
  return with_columns(std::integral_constant<int, 2>{});
}

}  // namespace convt3d

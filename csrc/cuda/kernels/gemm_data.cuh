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

#include "gemm_data_store.cuh"
#include "gemm_pack.cuh"

namespace convt3d {

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

// Blocks that registers let run together: three, unless sums of four fragments, or two sets of many
// sums (float32, not kSingle) or many of twice the size (float64), need more than a third of them.
template <typename T>
constexpr int resident_gemm_blocks(int row_fragments, int column_groups, bool single) {
  return row_fragments == 4 || (sizeof(T) >= 4 && !single && column_groups > 2) ? 2 : 3;
}

// kSingle (float32): one product of TF32 values for one, not three.
template <typename T, int kRowFragments, int kColumnGroups, bool kSingle>
__global__ void __launch_bounds__(kGemmThreads,
                                  resident_gemm_blocks<T>(kRowFragments, kColumnGroups, kSingle))
    gemm_data_kernel(const __grid_constant__ GemmDataArguments args) {
  extern __shared__ __align__(16) char shared[];
  using Tile = GemmTile<T, kRowFragments, kColumnGroups>;
  constexpr int kStageBytes = kStageSteps * Tile::kStepBytes;
  const GemmDataPlan& plan = args.plan;
  char* ring = shared + args.sizes.ring_at;
  T* staging = reinterpret_cast<T*>(shared + args.sizes.staging_at);
  // Rows are located while nothing is staged.
  int2* locations = reinterpret_cast<int2*>(shared + args.sizes.staging_at);
  const int warp = threadIdx.x / 32;

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
        if (mine < kStageBytes) copy_async<16>(destination + mine, cursor.source + mine, true);
      }
      cursor.source += kStageBytes;
      ++cursor.stage;
    }
    copy_async_commit();
  };

  // Addresses of the operand rows of this lane's fragment rows.
  uint32_t rows[kRowFragments * Tile::kLaneRows];
#pragma unroll
  for (int i = 0; i < kRowFragments * Tile::kLaneRows; ++i)
    rows[i] = shared_address(shared) +
              __ldg(args.tables.positions + warp * kRowFragments * 16 + Tile::lane_row(i)) *
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
        if constexpr (kWeightParts<T> == 2 && !kSingle) {
          // The tensor cores cut the low bits of every sum they carry: short sums are carried
          // there, long ones in float32 registers.
          Tile partial;
          partial.clear();
          partial.template multiply_stage<true>(rows, weights);
          tile.add(partial);
        } else {
          tile.template multiply_stage<!kSingle>(rows, weights);
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
template <typename T, int kRowFragments, int kColumnGroups, bool kSingle>
cudaError_t launch_gemm_instance(const GemmDataArguments& args, cudaStream_t stream) {
  const auto kernel = gemm_data_kernel<T, kRowFragments, kColumnGroups, kSingle>;
  const cudaError_t status = cudaFuncSetAttribute(
      kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, args.sizes.shared_bytes);
  if (status != cudaSuccess) return status;
  const int64_t tiles =
      static_cast<int64_t>(args.batch) * args.tiles[0] * args.tiles[1] * args.tiles[2];
  const int runs =
      (args.sizes.column_tiles + args.plan.columns_per_block - 1) / args.plan.columns_per_block;
  const dim3 grid(static_cast<unsigned>(tiles), static_cast<unsigned>(args.groups * runs));
  return launch_kernel(kernel, grid, kGemmThreads, args.sizes.shared_bytes, stream, args);
}

template <typename T, int kRowFragments, int kColumnGroups>
cudaError_t launch_gemm_kernel(const GemmDataArguments& args, cudaStream_t stream) {
  if constexpr (kWeightParts<T> == 2) {
    if (args.allow_tf32)
      return launch_gemm_instance<T, kRowFragments, kColumnGroups, true>(args, stream);
  }
  return launch_gemm_instance<T, kRowFragments, kColumnGroups, false>(args, stream);
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
  // float32 keeps two sets of sums, and float64 larger ones, which four row fragments have no
  // registers for.
  if constexpr (sizeof(T) == 2) {
    if (args.plan.row_fragments == 4) return with_columns(std::integral_constant<int, 4>{});
  }
  return with_columns(std::integral_constant<int, 2>{});
}

}  // namespace convt3d

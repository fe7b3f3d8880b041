// grad_weight as one implicit matrix product per tap (mma.sync):
//
//   rows     channels of the still operand     (normally the input)
//   columns  channels of the moving operand    (normally grad_output)
//   depth    positions of the still operand, batch included
//
//   tiles    both operands' tiles of positions go global -> shared, one row per position with its
//            channels side by side; the moving one with the halo of the block's taps and
//            de-interleaved into residue planes. A tap is then an offset to other rows.
//   product  the depth is the row dimension in shared memory: ldmatrix.trans turns rows into
//            fragments. Every lane addresses its own row, so tiles of any width work.
//   sums     stay in registers over all tiles of a block's share ("split"). Several shares write
//            partial sums to a workspace, which a second kernel adds in a fixed order: the same
//            bits in every run.
#pragma once

#include "gemm_grad_weight_product.cuh"
#include "launch.cuh"

namespace convt3d {

constexpr int kRoleWarps = 12, kMultiplyWarps = 8;
// 256 threads of the one and 128 of the other make 64,512 of the 65,536 registers.
constexpr int kMultiplyRegisters = 216, kFillRegisters = 72;

// The barrier between the two roles, which meet in different places of the code.
__device__ __forceinline__ void meet_roles() { meet<1, 32 * kRoleWarps>(); }

// kSingle: one product for one, not three of TF32 values (float32). A branch between the two would
// spill.
// With kWarpRoles, eight warps multiply and four do nothing but fill the next tile; the fillers
// hand their registers over. Else all warps fill, then multiply.
template <typename T, int kStill, int kMoving, int kTaps, bool kWarpRoles, bool kSingle>
__device__ __forceinline__ void sum_share(const GradWeightArguments& args) {
  extern __shared__ __align__(16) char shared[];
  const GemmGradWeightSizes& sizes = args.sizes;
  const int warp = threadIdx.x / 32;
  const int tap_warp = warp % args.tap_warps, position_warp = warp / args.tap_warps;
  const int split = blockIdx.x / static_cast<unsigned>(sizes.jobs);
  const int job_index = blockIdx.x % static_cast<unsigned>(sizes.jobs);
  const GradWeightJob job = job_at(args, job_index);

  // Channels and positions that no fill writes stay zero.
  if (args.clear_tiles) {
    for (int at = threadIdx.x * 16; at < args.stages * sizes.stage_bytes; at += blockDim.x * 16)
      *reinterpret_cast<uint4*>(shared + at) = uint4{0, 0, 0, 0};
  }
  int* position_rows = reinterpret_cast<int*>(shared + sizes.position_rows_at);
  int* tap_offsets = reinterpret_cast<int*>(shared + sizes.tap_offsets_at);
  const AxisTables tables =
      axis_tables(args.axes, reinterpret_cast<int*>(shared + sizes.axis_tables_at));
  tabulate_axes(args.operands[1], args.axes, job.first_tap, tables);
  tabulate_still(args.operands[0], args.axes, shared + sizes.still_items_at);
  for (unsigned at = threadIdx.x; at < sizes.still_rows; at += blockDim.x) {
    const unsigned tile_h = args.axes[1].tile, tile_w = args.axes[2].tile;
    const unsigned line = at / tile_w;
    const int row =
        (line / tile_h * args.axes[1].rows() + line % tile_h) * args.axes[2].rows() + at % tile_w;
    const bool inside = at < args.axes[0].tile * tile_h * tile_w;
    position_rows[at] = inside ? row * sizes.moving_pitch : 0;
  }
  for (int index = threadIdx.x; index < args.tap_warps * kTaps; index += blockDim.x) {
    int tap[3], row = 0;
    tap_at(job, index < job.taps[0] * job.taps[1] * job.taps[2] ? index : 0, tap);
#pragma unroll
    for (int a = 0; a < 3; ++a)
      row = row * args.axes[a].rows() + args.axes[a].row_of_tap(job.first_tap[a], tap[a]);
    tap_offsets[index] = row * sizes.moving_pitch;
  }
  __shared__ FillSlice slices[2];  // still, moving
  if (threadIdx.x == 0) {
    slices[0] =
        fill_slice<T>(args.operands[0], job.group, job.still_slice * 16 * kStill, 16 * kStill);
    slices[1] =
        fill_slice<T>(args.operands[1], job.group, job.moving_slice * 8 * kMoving, 8 * kMoving);
    for (int a = 0; a < 3; ++a) {
      slices[0].origin[a] = 0;
      slices[1].origin[a] = args.axes[a].first_coordinate(job.first_tap[a]);
    }
    slices[1].origin[2] = align_down(slices[1].origin[2], args.operands[1].vector);
  }
  __syncthreads();
  tabulate_moving(args.operands[1], args.axes, tables, shared + sizes.moving_items_at);
  __syncthreads();

  const int64_t first = split * args.tiles_per_split;
  const int64_t last = min(first + args.tiles_per_split, sizes.tiles);
  TilePlace place(args.axes, first);
  constexpr int kFragments = kStill * kMoving * kTaps;
  constexpr bool kFull = sizeof(T) == 2 && is_full<kFragments>;
  constexpr FillDepth kDepth = kWarpRoles ? FillDepth{3, 2, 1}
                               : kFull    ? FillDepth{1, 1, 1}
                                          : FillDepth{4, 2, 2};
  const auto fill = [&](int stage, const FillThreads& threads) {
    char* destination = shared + stage * sizes.stage_bytes;
    // One copy of the code for both compiles faster and takes fewer registers; with 16 bits, tiles
    // would take longer.
#pragma unroll(sizeof(T) == 2 && !kFull ? 2 : 1)
    for (int moving = 0; moving < 2; ++moving)
      fill_tile<T, kDepth>(args.operands[moving], slices[moving], threads, place.at,
                           shared + (moving ? sizes.moving_items_at : sizes.still_items_at),
                           destination + (moving ? sizes.moving_at : 0));
    place.advance(args.axes);
  };
  TapTile<T, kStill, kMoving, kTaps> tile;
  int offset[kTaps];
  const auto start_sums = [&] {
    tile.clear();
#pragma unroll
    for (int t = 0; t < kTaps; ++t) offset[t] = tap_offsets[tap_warp * kTaps + t];
  };
  // With two stages, the next tile is on its way while one is multiplied.
  const int ahead = args.stages - 1;
  int stage = 0;  // of the tile that is filled next
  if constexpr (kWarpRoles) {
    if (warp >= kMultiplyWarps) {
      release_registers<kFillRegisters>();
      const FillThreads threads{static_cast<int>(threadIdx.x) - 32 * kMultiplyWarps,
                                32 * (kRoleWarps - kMultiplyWarps)};
#pragma unroll 1
      for (int64_t index = first; index < last; ++index) {
        fill(stage, threads);
        copy_async_commit();
        copy_async_wait<0>();
        stage ^= 1;
        meet_roles();
      }
      meet_roles();
    } else {
      claim_registers<kMultiplyRegisters>();
      start_sums();
      const bool multiplies = position_warp < args.position_warps;
#pragma unroll 1
      for (int64_t index = first; index < last; ++index) {
        meet_roles();
        if (multiplies)
          multiply_positions<T, kSingle>(tile, args, shared + stage * sizes.stage_bytes,
                                         position_rows, position_warp, offset);
        stage ^= 1;
      }
      meet_roles();
      if (multiplies) store_sums<T>(tile, args, shared);
    }
  } else {
    const FillThreads threads{static_cast<int>(threadIdx.x), static_cast<int>(blockDim.x)};
    start_sums();
#pragma unroll 1
    for (int64_t index = first - ahead; index < last; ++index) {
      if (index + ahead < last) fill(stage, threads);
      copy_async_commit();
      stage ^= ahead;
      if (index < first) continue;
      if (ahead > 0)
        copy_async_wait<1>();
      else
        copy_async_wait<0>();
      __syncthreads();
      multiply_positions<T, kSingle>(tile, args, shared + stage * sizes.stage_bytes, position_rows,
                                     position_warp, offset);
      __syncthreads();
    }
    store_sums<T>(tile, args, shared);
  }
}

template <typename T, int kStill, int kMoving, int kTaps, bool kWarpRoles, bool kSingle>
__global__ void __launch_bounds__(
    32 * (kWarpRoles ? kRoleWarps : most_warps(sizeof(T) > 2, kStill * kMoving * kTaps)), 1)
    gemm_grad_weight_kernel(const __grid_constant__ GradWeightArguments args) {
  // The others are never launched, see has_warp_roles.
  if constexpr (!kWarpRoles || kHasRegisterPools)
    sum_share<T, kStill, kMoving, kTaps, kWarpRoles, kSingle>(args);
}

// ---- Sum of the partial results --------------------------------------------------------------
// A block adds up the slots of one fragment: each warp every kSumWarps-th slot, then the warps.
constexpr int kSumWarps = 8;

template <typename T>
__global__ void __launch_bounds__(32 * kSumWarps)
    sum_partials(const __grid_constant__ GradWeightArguments args, int still_fragments,
                 int moving_fragments, int taps) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const GemmGradWeightSizes& sizes = args.sizes;
  const int fragments = still_fragments * moving_fragments;
  unsigned flat = blockIdx.x;
  const int j = static_cast<int>(flat % moving_fragments);
  flat /= moving_fragments;
  const int i = static_cast<int>(flat % still_fragments);
  flat /= still_fragments;
  const int tap_index = static_cast<int>(flat % (args.tap_warps * taps));
  const GradWeightJob job = job_at(args, static_cast<int>(flat / (args.tap_warps * taps)));
  if (tap_index >= job.taps[0] * job.taps[1] * job.taps[2]) return;

  const int64_t slot_stride = sizes.jobs * args.tap_warps * taps * fragments * 32;
  using Sums = FragmentSums<T>;
  const Sums* source =
      static_cast<const Sums*>(args.workspace) + static_cast<int64_t>(blockIdx.x) * 32 + lane;
  Sums sum{0, 0, 0, 0};
  const auto accumulate = [&sum](const Sums& value) {
    sum.x += value.x;
    sum.y += value.y;
    sum.z += value.z;
    sum.w += value.w;
  };
#pragma unroll 4
  for (int slot = warp; slot < sizes.slots; slot += kSumWarps)
    accumulate(source[slot * slot_stride]);
  __shared__ Sums sums[kSumWarps][32];
  sums[warp][lane] = sum;
  __syncthreads();
  if (warp != 0) return;
#pragma unroll
  for (int other = 1; other < kSumWarps; ++other) accumulate(sums[other][lane]);
  write_fragment<T>(args, result_of_tap(args, job, tap_index),
                    (job.still_slice * still_fragments + i) * 16,
                    (job.moving_slice * moving_fragments + j) * 8, sum);
}

// ---- Launch ----------------------------------------------------------------------------------
template <typename T, int kStill, int kMoving, bool kWarpRoles, bool kSingle>
cudaError_t launch_grad_weight_kernel(const GradWeightArguments& args, cudaStream_t stream) {
  constexpr int kTaps = taps_per_warp(sizeof(T) > 2, kStill, kMoving);
  if constexpr (kTaps > 0) {
    const auto kernel = gemm_grad_weight_kernel<T, kStill, kMoving, kTaps, kWarpRoles, kSingle>;
    cudaError_t status = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                              args.sizes.shared_bytes);
    if (status != cudaSuccess) return status;
    const auto blocks = static_cast<unsigned>(args.sizes.jobs * args.splits);
    const int threads = 32 * (kWarpRoles ? kRoleWarps : args.tap_warps * args.position_warps);
    status = launch_kernel(kernel, blocks, threads, args.sizes.shared_bytes, stream, args);
    if (status != cudaSuccess || args.workspace == nullptr) return status;
    const auto fragments =
        static_cast<unsigned>(args.sizes.jobs * args.tap_warps * kTaps * kStill * kMoving);
    return launch_kernel(sum_partials<T>, fragments, 32 * kSumWarps, 0, stream, args, kStill,
                         kMoving, kTaps);
  }
  return cudaErrorInvalidValue;
}

template <typename T, bool kSingle>
cudaError_t launch_gemm_grad_weight_typed(const GradWeightArguments& args, int still_fragments,
                                          int moving_fragments, bool warp_roles,
                                          cudaStream_t stream) {
  const auto launch = [&](auto still, auto moving) {
    constexpr int kStill = decltype(still)::value, kMoving = decltype(moving)::value;
    if constexpr (fits_warp_roles(sizeof(T) == 4, kStill, kMoving)) {
      if (warp_roles)
        return launch_grad_weight_kernel<T, kStill, kMoving, true, kSingle>(args, stream);
    }
    return warp_roles ? cudaErrorInvalidValue
                      : launch_grad_weight_kernel<T, kStill, kMoving, false, kSingle>(args, stream);
  };
  const auto with_moving = [&](auto still) {
    switch (moving_fragments) {
      case 1:
        return launch(still, std::integral_constant<int, 1>{});
      case 2:
        return launch(still, std::integral_constant<int, 2>{});
      case 3:
        return launch(still, std::integral_constant<int, 3>{});
      case 4:
        return launch(still, std::integral_constant<int, 4>{});
      case 8:
        return launch(still, std::integral_constant<int, 8>{});
      default:
        return cudaErrorInvalidValue;
    }
  };
  switch (still_fragments) {
    case 1:
      return with_moving(std::integral_constant<int, 1>{});
    case 2:
      return with_moving(std::integral_constant<int, 2>{});
    case 3:
      return with_moving(std::integral_constant<int, 3>{});
    case 4:
      return with_moving(std::integral_constant<int, 4>{});
    default:
      return cudaErrorInvalidValue;
  }
}

}  // namespace convt3d

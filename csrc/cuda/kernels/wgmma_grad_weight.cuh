// grad_weight as one implicit matrix product per tap on Hopper (wgmma, sm_90a):
//
//   rows     64 channels of one operand, or fewer of several taps along w side by side
//   columns  channels of the other operand, or fewer of several taps
//   depth    positions, batch included
//
//   tiles    the copy engine, or warps where channels are not the fastest dimension of both
//            operands, bring their tiles of positions into a ring in shared memory, a row per
//            position with its channels side by side, the moving one with the halo of all taps
//            (h, w). The matrix units read the rows transposed, and a tap is an offset to other
//            rows. Taps side by side are the same rows of memory read at an even distance.
//   sums     stay in registers over all tiles of a block's share ("split"), one set per tap tile.
//            Several shares write partial sums to a workspace, which a second kernel adds in a
//            fixed order: the same bits in every run.
//
// What a tile reads outside a tensor is zero, but positions outside the still operand may meet
// elements of the moving one. Where such an element is not finite, the product with zero is not
// either, and taps that the element does not reach by the definition become NaN.
#pragma once

#include <iterator>
#include <utility>

#include "launch.cuh"
#include "scalar.cuh"
#include "wgmma_grad_weight_fill.cuh"
#include "wgmma_grad_weight_shapes.h"

namespace convt3d {

// Together 256 of a pair of threads.
constexpr int kContractRegisters = 192, kContractFillRegisters = 64;

// ---- Products ----------------------------------------------------------------------------------
template <int kTiles, int kSums>
__device__ __forceinline__ void pin_sums(float (&sums)[kTiles][kSums]) {
#pragma unroll
  for (int t = 0; t < kTiles; ++t)
#pragma unroll
    for (int i = 0; i < kSums; ++i) pin(sums[t][i]);
}

// A descriptor of one operand, of stage 0.
__device__ inline MatrixAddress contraction_address(const WgmmaGradWeightArguments& args,
                                                    const ContractionShared& shared, bool moving) {
  const WgmmaGradWeightPlan& plan = args.plan;
  const ContractionBox& box = moving ? args.sizes.moving : args.sizes.still;
  const int row_bytes = 16 * box.width;
  // From one row's width of channels to the next: the next taps, the next channels, or (where the
  // product is wider than the slice) the same again.
  const int side = moving && plan.merged > 1 ? tap_distance(plan.axes[2]) * row_bytes
                   : box.blocks > 1          ? box.block_bytes()
                                             : 0;
  const bool lines_apart = !plan.flattened && plan.tile_w / 8 % 2 != 0;
  return MatrixAddress(shared.stages + (moving ? args.sizes.moving_at : 0), side,
                       (lines_apart ? box.pitch : 8) * row_bytes, box.width);
}

template <typename T, int kColumns, int kTiles>
__device__ __forceinline__ void contract(const WgmmaGradWeightArguments& args,
                                         const ContractionShared& shared, int warpgroup, int count,
                                         float (&sums)[kTiles][kColumns / 2]) {
  const WgmmaGradWeightPlan& plan = args.plan;
  const bool moving_rows = plan.moving_rows;
  const MatrixAddress left = contraction_address(args, shared, moving_rows);
  const MatrixAddress right = contraction_address(args, shared, !moving_rows);
  // Rows of the left operand in the low half.
  const auto ordered = [moving_rows](unsigned packed) {
    return moving_rows ? __byte_perm(packed, 0, 0x1032) : packed;
  };
  uint32_t offsets[kTiles];
#pragma unroll
  for (int t = 0; t < kTiles; ++t)
    offsets[t] = ordered(shared.offsets[(plan.split_positions ? 0 : warpgroup * plan.tiles) +
                                        min(t, plan.tiles - 1)]);
  const int first_step = plan.split_positions ? warpgroup : 0;
  const int stride = plan.split_positions ? 2 : 1;
  int stage = 0;
  uint32_t parity = 0, unfreed = 0;
  uint32_t stage_at = 0;
#pragma unroll
  for (int t = 0; t < kTiles; ++t)
#pragma unroll
    for (int i = 0; i < kColumns / 2; ++i) sums[t][i] = 0.f;
  pin_sums(sums);
#pragma unroll 1
  for (int index = 0; index < count; ++index) {
    barrier_wait(shared.full(stage), parity);
    wgmma_fence();
    const auto multiply_step = [&](int step) {
      const unsigned rows = ordered(shared.steps[step]);
      const uint32_t a = left.low + stage_at + (rows & 0xffff);
      const uint32_t b = right.low + stage_at + (rows >> 16);
#pragma unroll
      for (int t = 0; t < kTiles; ++t)
        WgmmaTransposed<T, kColumns>::multiply(sums[t], left.with(a + (offsets[t] & 0xffff)),
                                               right.with(b + (offsets[t] >> 16)), 1);
      wgmma_commit();
    };
    // The stage before is free as soon as its products have ended: while the first of this one
    // run, not when its last have been issued.
    if (first_step < args.sizes.steps) multiply_step(first_step);
    wgmma_wait<1>();
    if (unfreed != 0 && threadIdx.x % 32 == 0) barrier_arrive(unfreed);
    unfreed = shared.empty(stage);
#pragma unroll 1
    for (int step = first_step + stride; step < args.sizes.steps; step += stride)
      multiply_step(step);
    stage_at += args.sizes.stage_bytes / 16;
    if (++stage == plan.stages) {
      stage = 0;
      stage_at = 0;
      parity ^= 1;
    }
  }
  wgmma_wait<0>();
  pin_sums(sums);
}

// ---- Results -----------------------------------------------------------------------------------
// Where the weights of a tap tile are, as offsets: that of a row and a column is the sum of what
// both contribute.
constexpr int64_t kNoWeight = -1;

__device__ __forceinline__ int64_t place_of_tile(const WgmmaGradWeightArguments& args,
                                                 const ContractionJob& job, const TapTile& tile) {
  return job.group * args.result_group_stride +
         args.plan.axes[0].tap[job.place_d] * args.result_tap_stride[0] +
         args.plan.axes[1].tap[tile.place_h] * args.result_tap_stride[1];
}

// Of the index-th row or column; kNoWeight where it has none.
__device__ __forceinline__ int64_t place_of_side(const WgmmaGradWeightArguments& args,
                                                 const ContractionJob& job, const TapTile& tile,
                                                 bool row, int index) {
  const WgmmaGradWeightPlan& plan = args.plan;
  const bool moves = row == plan.moving_rows;
  const ContractionBox& box = moves ? args.sizes.moving : args.sizes.still;
  const int side = moves && plan.merged > 1 ? index / box.slice : 0;
  const int in_slice = index - side * box.slice;
  const int channel = (moves ? job.moving_slice : job.still_slice) * box.slice + in_slice;
  if (side >= tile.count || in_slice >= box.slice || channel >= box.channels) return kNoWeight;
  const WindowAxis& w = plan.axes[2];
  return channel *
             (moves == plan.input_moves ? args.result_row_stride : args.result_column_stride) +
         (moves ? w.tap[tile.first_w + side] * args.result_tap_stride[2] : 0);
}

// The sums of a tap tile, through shared memory: neighbouring threads then write what lies next to
// each other in memory, and places are looked up.
template <typename T, int kColumns>
__device__ __forceinline__ void store_tile(const WgmmaGradWeightArguments& args,
                                           const ContractionJob& job, const TapTile& tile,
                                           const float (&sums)[kColumns / 2], char* staging,
                                           int thread, int barrier) {
  constexpr int kRows = 64, kPitch = contraction_pitch(kColumns);
  auto* const places = reinterpret_cast<int64_t*>(staging);  // of rows, then of columns
  auto* const staged = reinterpret_cast<float*>(places + kRows + kColumns);
  named_barrier(barrier, kWarpgroupThreads);  // the tile before has been read
#pragma unroll
  for (int i = 0; i < kColumns / 2; i += 2)
    *reinterpret_cast<float2*>(staged + sum_row(thread, i) * kPitch + sum_column(thread, i)) = {
        sums[i], sums[i + 1]};
  for (int i = thread; i < kRows + kColumns; i += kWarpgroupThreads)
    places[i] = place_of_side(args, job, tile, i < kRows, i < kRows ? i : i - kRows);
  named_barrier(barrier, kWarpgroupThreads);
  // The side along which weights lie closer together: of rows, the input channels if it moves.
  const bool rows_are_input = args.plan.moving_rows == args.plan.input_moves;
  const bool along_rows = (args.result_row_stride < args.result_column_stride) == rows_are_input;
  const int extent = along_rows ? kRows : kColumns, others = along_rows ? kColumns : kRows;
  const int at_once = kWarpgroupThreads / extent;
  const int own = thread % extent, first = thread / extent;
  const int64_t own_place = places[along_rows ? own : kRows + own];
  const bool idle = first >= at_once || own_place == kNoWeight;
  T* const result = static_cast<T*>(args.result) + place_of_tile(args, job, tile) + own_place;
  const int64_t* const other_places = places + (along_rows ? kRows : 0);
  const float* const source = staged + own * (along_rows ? kPitch : 1);
  const int step = along_rows ? 1 : kPitch;
#pragma unroll 4
  for (int other = idle ? others : first; other < others; other += at_once) {
    const int64_t place = other_places[other];
    if (place != kNoWeight) result[place] = Convert<T>::from(source[other * step]);
  }
}

template <typename T, int kColumns, int kTiles>
__global__ void __launch_bounds__(kContractThreads, 1)
    wgmma_grad_weight_kernel(const __grid_constant__ WgmmaGradWeightArguments args) {
#ifdef CONVT3D_HAS_WGMMA
  extern __shared__ __align__(1024) char base[];  // period of the swizzle
  const WgmmaGradWeightPlan& plan = args.plan;
  const WgmmaGradWeightSizes& sizes = args.sizes;
  const ContractionShared shared(base, args);
  const auto jobs = static_cast<unsigned>(sizes.jobs);
  const unsigned job_index = blockIdx.x % jobs, split = blockIdx.x / jobs;
  const ContractionJob job(args, job_index);
  const OperandFill fill = plan.fill;
  if (threadIdx.x == 0) {
    for (int stage = 0; stage < plan.stages; ++stage) {
      barrier_init(shared.full(stage), fill == OperandFill::kCopyEngine ? 1
                                       : fill == OperandFill::kLines    ? kContractTransposers
                                                                        : kContractFillWarps);
      barrier_init(shared.empty(stage), 2 * kWarpgroupThreads / 32);
    }
    if (fill == OperandFill::kLines) shared.line_rings.init();
    fence_barrier_init();
  }
  // What is never filled must be finite, as it meets zeros.
  if (sizes.pads) {
    for (int at = threadIdx.x * 16; at < sizes.tables_at; at += kContractThreads * 16)
      *reinterpret_cast<uint4*>(base + at) = uint4{0, 0, 0, 0};
  }
  fence_for_wgmma();
  write_contraction_tables(args, job, shared);
  __syncthreads();

  const PositionRange range = positions_of_tap(plan.axes[0], job.place_d);
  const int tiles = (range.last - range.first) * sizes.sample_tiles * sizes.tiles_h * sizes.tiles_w;
  const int per_split = (tiles + plan.splits - 1) / plan.splits;
  const int first = min(static_cast<int>(split) * per_split, tiles);
  const int last = min(first + per_split, tiles);
  const int warpgroup =
      __shfl_sync(0xffffffffu, static_cast<int>(threadIdx.x) / kWarpgroupThreads, 0);
  if (warpgroup >= 2) {
    release_registers<kContractFillRegisters>();
    const int thread = static_cast<int>(threadIdx.x) - 2 * kWarpgroupThreads;
    const int transposer = thread - 32 * kContractLoaders;
    if (fill == OperandFill::kCopyEngine) {
      if (thread == 0) fill_by_copies(args, job, shared, range, first, last);
    } else if (fill == OperandFill::kElements) {
      fill_by_warps<T, false>(args, shared, range, first, last, thread);
    } else if (transposer < 0) {
      stage_contractions(args, shared, range, first, last, thread / 32);
    } else {
      fill_by_warps<T, true>(args, shared, range, first, last, transposer);
    }
    return;
  }
  claim_registers<kContractRegisters>();
  float sums[kTiles][kColumns / 2];
  contract<T, kColumns, kTiles>(args, shared, warpgroup, last - first, sums);

  const int thread = static_cast<int>(threadIdx.x) % kWarpgroupThreads;
  const int first_tile = plan.split_positions ? 0 : warpgroup * plan.tiles;
  if (args.workspace != nullptr) {
    const int block_tiles = plan.split_positions ? plan.tiles : 2 * plan.tiles;
    const int64_t slot = plan.split_positions ? 2 * split + warpgroup : split;
    float* to = args.workspace + slot * sizes.partials +
                static_cast<int64_t>(job_index * block_tiles + first_tile) * 64 * kColumns + thread;
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
      if (t >= plan.tiles) break;
#pragma unroll
      for (int i = 0; i < kColumns / 2; ++i)
        to[(t * kColumns / 2 + i) * kWarpgroupThreads] = sums[t][i];
    }
  } else {
    named_barrier(1, 2 * kWarpgroupThreads);  // the boxes are no longer read
    char* const staging = base + warpgroup * contraction_staging_bytes(kColumns);
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
      if (t >= plan.tiles || first_tile + t >= job.tiles) break;
      const TapTile tile =
          tap_tile_at(plan.axes[1], plan.axes[2], plan.merged, job.first_tile + first_tile + t);
      store_tile<T, kColumns>(args, job, tile, sums[t], staging, thread, 2 + warpgroup);
    }
  }
#endif
}

// ---- Sum of the partial results ----------------------------------------------------------------
// A block adds up the slots of one register of a tap tile.
template <typename T>
__global__ void __launch_bounds__(kWarpgroupThreads)
    sum_contractions(const __grid_constant__ WgmmaGradWeightArguments args) {
  const WgmmaGradWeightPlan& plan = args.plan;
  const int block_tiles = plan.split_positions ? plan.tiles : 2 * plan.tiles;
  const int thread = static_cast<int>(threadIdx.x);
  unsigned index = blockIdx.x;
  const int i = static_cast<int>(index % (plan.columns / 2));
  index /= plan.columns / 2;
  const int tile_index = static_cast<int>(index % block_tiles);
  const ContractionJob job(args, index / block_tiles);
  if (tile_index >= job.tiles) return;
  const TapTile tile =
      tap_tile_at(plan.axes[1], plan.axes[2], plan.merged, job.first_tile + tile_index);
  const int64_t row = place_of_side(args, job, tile, true, sum_row(thread, i));
  const int64_t column = place_of_side(args, job, tile, false, sum_column(thread, i));
  if (row == kNoWeight || column == kNoWeight) return;
  const float* source =
      args.workspace + static_cast<int64_t>(blockIdx.x) * kWarpgroupThreads + thread;
  float sum = 0;
#pragma unroll 8
  for (int slot = 0; slot < args.sizes.slots; ++slot) sum += source[slot * args.sizes.partials];
  static_cast<T*>(args.result)[place_of_tile(args, job, tile) + row + column] =
      Convert<T>::from(sum);
}

// ---- Launch ------------------------------------------------------------------------------------
template <typename T, int kIndex>
cudaError_t launch_contraction_shape(const WgmmaGradWeightArguments& args, cudaStream_t stream) {
  constexpr WgmmaGradWeightShape kShape = kWgmmaGradWeightShapes[kIndex];
  const auto kernel = wgmma_grad_weight_kernel<T, kShape.columns, kShape.tiles>;
  const cudaError_t status = cudaFuncSetAttribute(
      kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, args.sizes.shared_bytes);
  if (status != cudaSuccess) return status;
  const auto blocks = static_cast<unsigned>(args.sizes.jobs * args.plan.splits);
  return launch_kernel(kernel, blocks, kContractThreads, args.sizes.shared_bytes, stream, args);
}

template <typename T, size_t... kIndex>
cudaError_t find_contraction_shape(const WgmmaGradWeightArguments& args, cudaStream_t stream,
                                   std::index_sequence<kIndex...>) {
  // The first instance with enough tiles: they are sorted.
  cudaError_t status = cudaErrorInvalidValue;
  (void)((kWgmmaGradWeightShapes[kIndex].columns == args.plan.columns &&
          kWgmmaGradWeightShapes[kIndex].tiles >= args.plan.tiles &&
          (status = launch_contraction_shape<T, kIndex>(args, stream), true)) ||
         ...);
  return status;
}

template <typename T>
cudaError_t launch_wgmma_grad_weight_typed(const WgmmaGradWeightArguments& args,
                                           cudaStream_t stream) {
  const cudaError_t status = find_contraction_shape<T>(
      args, stream, std::make_index_sequence<std::size(kWgmmaGradWeightShapes)>{});
  if (status != cudaSuccess || args.workspace == nullptr) return status;
  const auto blocks = static_cast<unsigned>(args.sizes.partials / kWarpgroupThreads);
  return launch_kernel(sum_contractions<T>, blocks, kWarpgroupThreads, 0, stream, args);
}

}  // namespace convt3d

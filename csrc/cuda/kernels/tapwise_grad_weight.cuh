// grad_weight as an implicit matrix product on Hopper (wgmma, sm_90a) of channels-last tensors,
// where images are small or channels many:
//
//   rows     input channels
//   columns  pairs of (tap, output channel)
//   depth    input positions, batch included, in steps of up to 64
//
//   operands  the copy engine brings boxes of both tensors, a row of 64 channels per position: of
//             the input once for all columns of a tile, of grad_output for each of its taps anew,
//             at the tap's distance, with zeros for what lies outside. The matrix units read rows
//             transposed.
//   products  two warpgroups, kBlocks x 64 rows each, sums in registers
//   result    registers -> global, 16 bytes at a time
//
// wgmma_grad_weight.cuh reads grad_output once for all taps of a block, but multiplies positions
// that are none and has few columns where images are small. Positions that no tap of a tile reaches
// are left out here. Where there are fewer tiles than multiprocessors, parts of the steps
// ("splits") are work items of their own, whose sums a second kernel adds in a fixed order: the
// same bits in every run.
//
// Positions at which a tap lies outside grad_output meet zeros. Where such an element of the input
// is not finite, the product with zero is not either: so is that tap's sum.
#pragma once

#include "channel_stores.cuh"
#include "copied_ring.cuh"
#include "launch.cuh"
#include "tapwise_grad_weight_arguments.h"

namespace convt3d {

struct TapwiseGradWeightShared {
  CopiedRing stages;

  __device__ TapwiseGradWeightShared(char* base, const TapwiseGradWeightSizes& sizes)
      : stages{shared_address(base), shared_address(base) + sizes.barriers_at, sizes.stage_bytes} {}
  __device__ uint32_t chunk(int slot, int index) const {
    return stages.slot(slot) + index * kChunkBytes;
  }
};

// One thread: the operands of every step.
template <int kColumnChunks, int kBlocks>
__device__ void load_steps(const TapwiseGradWeightArguments& args,
                           const TapwiseGradWeightShared& shared) {
  constexpr int kRowChunks = 2 * kBlocks;
  const TapwiseGradWeightPlan& plan = args.plan;
  RingCursor cursor;
  for (unsigned turn = blockIdx.x; turn < args.turns; turn += gridDim.x) {
    const int index = args.item_of_turn(static_cast<int>(turn));
    if (index >= args.sizes.items) continue;
    const TapwiseGradWeightItem item(args, index);
    const int begin = segment_begin(item.split, plan.splits, item.steps);
    const int end = segment_begin(item.split + 1, plan.splits, item.steps);
    if (begin == end) continue;
    const int first_row = item.row_tile * kRowChunks * kChunkChannels;
    const int rows =
        min((args.in_channels - first_row + kChunkChannels - 1) / kChunkChannels, kRowChunks);
    int columns = 0;
    int channel[kColumnChunks], offset[kColumnChunks][3];
#pragma unroll
    for (int c = 0; c < kColumnChunks; ++c) {
      const TapwiseColumnChunk chunk(args, item.column_tile * kColumnChunks + c);
      columns += chunk.exists;
      channel[c] = item.group * args.out_channels + chunk.channel;
#pragma unroll
      for (int a = 0; a < 3; ++a) {
        const WindowAxis& axis = plan.axes[a];
        offset[c][a] = axis.origin + axis.offset[args.taps[a].place[chunk.tap[a]]];
      }
    }
    const uint32_t bytes = (rows + columns) * args.sizes.box_rows * kTapwiseRowBytes;
    int at[4], rest = begin;  // tile of positions: samples, d, h, w
#pragma unroll
    for (int i = 3; i >= 0; --i) {
      at[i] = rest % item.tiles[i];
      rest /= item.tiles[i];
    }
    for (int step = begin; step < end; ++step) {
      const uint32_t full = shared.stages.full(cursor.slot);
      // A new barrier counts as having completed the phase before its first.
      barrier_wait(shared.stages.empty(cursor.slot), cursor.parity ^ 1);
      barrier_expect(full, bytes);
      const int sample = at[0] * plan.tile[0];
      int position[3];
#pragma unroll
      for (int a = 0; a < 3; ++a) position[a] = item.first[a] + at[a + 1] * plan.tile[a + 1];
      for (int chunk = 0; chunk < rows; ++chunk)
        copy_tensor(shared.chunk(cursor.slot, chunk), &args.input_map, full,
                    item.group * args.in_channels + first_row + chunk * kChunkChannels, position[2],
                    position[1], position[0], sample);
      int moved[3];
#pragma unroll
      for (int a = 0; a < 3; ++a) moved[a] = plan.axes[a].operand_step * position[a];
#pragma unroll
      for (int c = 0; c < kColumnChunks; ++c)
        if (c < columns)
          copy_tensor(shared.chunk(cursor.slot, kRowChunks + c), &args.grad_output_map, full,
                      channel[c], moved[2] + offset[c][2], moved[1] + offset[c][1],
                      moved[0] + offset[c][0], sample);
      cursor.advance(plan.stages);
      bool carry = true;
#pragma unroll
      for (int i = 3; i >= 0; --i) {
        if (!carry) continue;
        carry = ++at[i] == item.tiles[i];
        if (carry) at[i] = 0;
      }
    }
  }
}

// Sixteen sums of a thread, of 32 columns from `column` on: four of every eight, of two of the
// tile's rows.
template <typename T>
__device__ __forceinline__ void store_weights(const TapwiseGradWeightArguments& args,
                                              const TapwiseGradWeightItem& item, int row,
                                              int column, const float* sums, int lane) {
  const int chunks = column_chunks(args.plan);
  const TapwiseColumnChunk chunk(args, item.column_tile * chunks + column / kChunkChannels);
  const int channel = chunk.channel + column % kChunkChannels + 8 * (lane % 4);
  int64_t offset = channel;
#pragma unroll
  for (int a = 0; a < 3; ++a)
    offset += args.plan.axes[a].tap[args.taps[a].place[chunk.tap[a]]] * args.result.stride[a + 2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    uint32_t words[4];
#pragma unroll
    for (int i = 0; i < 4; ++i)
      words[i] = pack_pair<T>(sums[4 * i + 2 * half], sums[4 * i + 2 * half + 1]);
    exchange_words(words, lane);
    const int input = item.row_tile * row_chunks(args.plan) * kChunkChannels + row + 8 * half;
    const bool exists = chunk.exists && input < args.in_channels;
    const int64_t first =
        (int64_t{item.group} * args.in_channels + input) * args.result.stride[0] + offset;
    store_columns(static_cast<T*>(args.result.data) + (exists ? first : 0), words,
                  exists ? args.out_channels - channel : 0, args.result_in_vectors);
  }
}

// Row of the tile, of which lane / 4 has the one so much further on.
__device__ __forceinline__ int first_row_of(int warp, int block, int blocks) {
  return (warp / 4 * blocks + block) * 64 + warp % 4 * 16;
}

template <typename T, int kColumns, int kBlocks>
__device__ __forceinline__ void contract_steps(const TapwiseGradWeightArguments& args,
                                               const TapwiseGradWeightShared& shared,
                                               int warpgroup) {
  constexpr int kRowUnits = kTapwiseUnits, kStepUnits = 16 * kRowUnits;  // of 16 positions
  constexpr int kChunkUnits = kChunkBytes / kWgmmaUnitBytes;
  constexpr int kWidth = kColumns < 128 ? kColumns : 128;  // of a product
  constexpr int kSides = kColumns / kWidth;
  constexpr int kVectors = kBlocks * kColumns / 8;  // of four sums
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = threadIdx.x % 32;
  const MatrixAddress left(shared.chunk(0, warpgroup * kBlocks), kChunkBytes, 8 * kTapwiseRowBytes,
                           kRowUnits);
  const MatrixAddress right(shared.chunk(0, 2 * kBlocks), kChunkBytes, 8 * kTapwiseRowBytes,
                            kRowUnits);
  const int stage_units = shared.stages.slot_bytes / kWgmmaUnitBytes;
  RingCursor cursor;
  for (unsigned turn = blockIdx.x; turn < args.turns; turn += gridDim.x) {
    const int index = args.item_of_turn(static_cast<int>(turn));
    if (index >= args.sizes.items) continue;
    const TapwiseGradWeightItem item(args, index);
    const int steps = segment_begin(item.split + 1, args.plan.splits, item.steps) -
                      segment_begin(item.split, args.plan.splits, item.steps);
    float sums[kBlocks][kSides][kWidth / 2];
    uint32_t unfreed = 0;  // barrier of the step whose products may be under way
#pragma unroll 1
    for (int step = 0; step < steps; ++step) {
      barrier_wait(shared.stages.full(cursor.slot), cursor.parity);
      wgmma_fence();
      const uint64_t a = left.with(left.low + cursor.slot * stage_units);
      const uint64_t b = right.with(right.low + cursor.slot * stage_units);
#pragma unroll
      for (int k = 0; k < kChunkPositions / 16; ++k)
#pragma unroll
        for (int block = 0; block < kBlocks; ++block)
#pragma unroll
          for (int side = 0; side < kSides; ++side)
            WgmmaTransposed<T, kWidth>::multiply(
                sums[block][side], a + k * kStepUnits + block * kChunkUnits,
                b + k * kStepUnits + side * (kWidth / kChunkChannels) * kChunkUnits,
                step > 0 || k > 0);
      wgmma_commit();
      wgmma_wait<1>();  // for the step before
      if (unfreed != 0 && lane == 0) barrier_arrive(unfreed);
      unfreed = shared.stages.empty(cursor.slot);
      cursor.advance(args.plan.stages);
    }
    wgmma_wait<0>();
    __syncwarp();
    if (unfreed != 0 && lane == 0) barrier_arrive(unfreed);
    // Without steps nothing was multiplied. Selections, not a branch: see C7520 of ptxas.
    float* const values = &sums[0][0][0];
#pragma unroll
    for (int i = 0; i < kBlocks * kColumns / 2; ++i) {
      pin(values[i]);
      values[i] = steps == 0 ? 0.f : values[i];
    }
    // Found anew: while products run, sums take the registers.
    uint32_t same = index;
    pin(same);
    const TapwiseGradWeightItem finished(args, static_cast<int>(same));
    if (args.workspace != nullptr) {
      const int64_t place = int64_t{finished.split} * args.sizes.tiles + finished.tile;
      float4* const to = reinterpret_cast<float4*>(args.workspace) +
                         (place * kTapwiseWarps + warp) * (kVectors * 32) + lane;
#pragma unroll
      for (int i = 0; i < kVectors; ++i)
        to[i * 32] =
            make_float4(values[4 * i], values[4 * i + 1], values[4 * i + 2], values[4 * i + 3]);
    } else {
#pragma unroll
      for (int block = 0; block < kBlocks; ++block)
#pragma unroll
        for (int i = 0; i < kColumns / 2; i += 16)
          store_weights<T>(args, finished, first_row_of(warp, block, kBlocks) + lane / 4, 2 * i,
                           values + block * kColumns / 2 + i, lane);
    }
    // The compiler must see all warps together before the next product: see C7520 of ptxas.
    named_barrier(1 + warpgroup, kWarpgroupThreads);
  }
}

template <typename T, int kColumns, int kBlocks>
__global__ void __launch_bounds__(kCopiedThreads, 1)
    tapwise_grad_weight_kernel(const __grid_constant__ TapwiseGradWeightArguments args) {
#ifdef CONVT3D_HAS_WGMMA
  extern __shared__ __align__(1024) char base[];  // period of the swizzle
  const TapwiseGradWeightShared shared(base, args.sizes);
  launch_dependents();
  if (threadIdx.x == 0) {
    for (int slot = 0; slot < args.plan.stages; ++slot) {
      barrier_init(shared.stages.full(slot), 1);
      barrier_init(shared.stages.empty(slot), kTapwiseWarps);
    }
    fence_barrier_init();
  }
  // Rows of a product's depth that are no positions.
  if (args.sizes.box_rows < kChunkPositions) {
    for (int at = threadIdx.x * 16; at < args.sizes.barriers_at; at += kCopiedThreads * 16)
      *reinterpret_cast<uint4*>(base + at) = uint4{0, 0, 0, 0};
    fence_for_wgmma();
  }
  __syncthreads();
  const int warpgroup =
      __shfl_sync(0xffffffffu, static_cast<int>(threadIdx.x) / kWarpgroupThreads, 0);
  if (warpgroup == 2) {
    release_registers<kCopyRegisters>();
    if (threadIdx.x == 2 * kWarpgroupThreads)
      load_steps<kColumns / kChunkChannels, kBlocks>(args, shared);
  } else {
    claim_registers<kCopiedMultiplyRegisters>();
    contract_steps<T, kColumns, kBlocks>(args, shared, warpgroup);
  }
#endif
}

// ---- Sum of the splits -------------------------------------------------------------------------
constexpr int kSumWarps = 8;

__device__ __forceinline__ void add_vector(float4& sum, const float4& other) {
  sum.x += other.x;
  sum.y += other.y;
  sum.z += other.z;
  sum.w += other.w;
}

// A block adds the splits of 32 columns of 16 rows: each warp some of them, then the first one the
// warps' sums.
template <typename T>
__global__ void __launch_bounds__(32 * kSumWarps)
    add_tapwise_splits(const __grid_constant__ TapwiseGradWeightArguments args) {
#ifdef CONVT3D_HAS_WGMMA
  __shared__ float4 of_warps[kSumWarps][4][32];
  const int lane = threadIdx.x % 32, part = static_cast<int>(threadIdx.x) / 32;
  const auto unit = static_cast<int>(blockIdx.x);
  const int begin = segment_begin(part, kSumWarps, args.plan.splits);
  const int end = segment_begin(part + 1, kSumWarps, args.plan.splits);
  const float4* from = reinterpret_cast<const float4*>(args.workspace) +
                       (int64_t{begin} * gridDim.x + unit) * (4 * 32) + lane;
  float4 added[4] = {};
  wait_for_previous_kernel();
#pragma unroll 2
  for (int split = begin; split < end; ++split) {
#pragma unroll
    for (int i = 0; i < 4; ++i) add_vector(added[i], __ldcg(from + i * 32));
    from += int64_t{gridDim.x} * (4 * 32);
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) of_warps[part][i][lane] = added[i];
  __syncthreads();
  if (part > 0) return;
  float sums[16];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    float4 sum = of_warps[0][i][lane];
#pragma unroll
    for (int other = 1; other < kSumWarps; ++other) add_vector(sum, of_warps[other][i][lane]);
    sums[4 * i] = sum.x;
    sums[4 * i + 1] = sum.y;
    sums[4 * i + 2] = sum.z;
    sums[4 * i + 3] = sum.w;
  }
  const int in_block = args.plan.columns / 32, in_warp = args.plan.blocks * in_block;  // units
  const int place = unit % in_warp, warp = unit / in_warp % kTapwiseWarps;
  const int tile = unit / in_warp / kTapwiseWarps;
  const TapwiseGradWeightItem item(args, tile * args.plan.splits);
  store_weights<T>(args, item, first_row_of(warp, place / in_block, args.plan.blocks) + lane / 4,
                   place % in_block * 32, sums, lane);
#endif
}

// ---- Launch ------------------------------------------------------------------------------------
template <typename T>
cudaError_t launch_tapwise_grad_weight_typed(const TapwiseGradWeightArguments& args, int blocks,
                                             cudaStream_t stream) {
  cudaError_t status = cudaErrorInvalidValue;
  const auto launch = [&]<int kIndex>(std::integral_constant<int, kIndex>) {
    constexpr TapwiseShape kShape = kTapwiseGradWeightShapes[kIndex];
    if (kShape.columns != args.plan.columns || kShape.blocks != args.plan.blocks) return;
    const auto kernel = tapwise_grad_weight_kernel<T, kShape.columns, kShape.blocks>;
    status = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                  args.sizes.shared_bytes);
    if (status == cudaSuccess)
      status = launch_kernel(kernel, static_cast<unsigned>(blocks), kCopiedThreads,
                             args.sizes.shared_bytes, stream, args);
  };
  launch(std::integral_constant<int, 0>{});
  launch(std::integral_constant<int, 1>{});
  launch(std::integral_constant<int, 2>{});
  launch(std::integral_constant<int, 3>{});
  launch(std::integral_constant<int, 4>{});
  if (status != cudaSuccess || args.workspace == nullptr) return status;
  const auto units = static_cast<unsigned>(args.sizes.tiles * kTapwiseWarps * args.plan.blocks *
                                           args.plan.columns / 32);
  return launch_kernel(add_tapwise_splits<T>, units, 32 * kSumWarps, 0, stream,
                       PreviousKernel::kOverlaps, args);
}

}  // namespace convt3d

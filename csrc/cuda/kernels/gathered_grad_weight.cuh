// grad_weight as one implicit matrix product on Hopper (wgmma, sm_90a), of TF32 values or, where w
// is fastest in both operands, of 16 bits:
//
//   rows     pairs of a tap and an output channel
//   columns  input channels
//   depth    positions of the input, batch included
//
//   tiles    the copy engine, or warps, bring a tile of positions of the input, and what the taps
//            meet of grad_output ("box"), into a ring in shared memory, float32 rounded to TF32.
//   left     grad_output at stride * position + tap: words gathered from the box into registers, so
//            that any stride, tap and layout costs the same. In 16 bits a word is two positions,
//            and there are copies of the box for odd taps and for residues of the stride.
//   right    the input, positions fastest, which is how the matrix units read 32-bit operands.
//   sums     stay in registers over all tiles of a block's share ("split"). Several shares write
//            partial sums to a workspace, which a second kernel adds in a fixed order: the same
//            bits in every run.
//
// What a tile reads outside a tensor is zero, but positions outside the input may meet elements of
// grad_output. Where such an element is not finite, the product with zero is not either.
#pragma once

#include <iterator>
#include <utility>

#include "gathered_grad_weight_fill.cuh"
#include "gathered_grad_weight_shapes.h"
#include "launch.cuh"
#include "scalar.cuh"

namespace convt3d {

// Together 256 of a pair of threads.
constexpr int kGatherRegisters = 200, kGatherFillRegisters = 56;

// ---- Products ----------------------------------------------------------------------------------
template <typename T, int kTiles, int kCount>
__device__ __forceinline__ void pin_all(T (&values)[kTiles][kCount]) {
#pragma unroll
  for (int t = 0; t < kTiles; ++t)
#pragma unroll
    for (int i = 0; i < kCount; ++i) pin(values[t][i]);
}

// The row of a block's index-th product that a lane holds in its fragment, of two.
template <bool kChannelsLast>
__device__ __forceinline__ int fragment_row(int lane, int half) {
  // Neighbouring channels are neighbours in the box: loaded together.
  return kChannelsLast ? lane / 4 * 2 + half : lane / 4 + 8 * half;
}

template <typename T, int kColumns, int kTiles, bool kChannelsLast>
struct GatherConsumer {
  static constexpr int kBases = kChannelsLast ? 1 : 2;

  float (&sums)[kTiles][kColumns / 2];
  int bases[kTiles][kBases];  // of the fragments' rows in the box, bytes
  uint32_t fragments[2][kTiles][4];

  // The rows of a k-step: positions at `offsets.x` and `offsets.y`.
  template <int kBuffer>
  __device__ __forceinline__ void load(const char* box, int2 offsets) {
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
      uint32_t (&fragment)[4] = fragments[kBuffer][t];
#pragma unroll
      for (int k = 0; k < 2; ++k) {
        const char* const at = box + (k == 0 ? offsets.x : offsets.y);
        if constexpr (kChannelsLast) {
          const uint2 pair = *reinterpret_cast<const uint2*>(at + bases[t][0]);
          fragment[2 * k] = pair.x;
          fragment[2 * k + 1] = pair.y;
        } else {
#pragma unroll
          for (int half = 0; half < 2; ++half)
            fragment[2 * k + half] = *reinterpret_cast<const uint32_t*>(at + bases[t][half]);
        }
      }
    }
  }
  template <int kBuffer>
  __device__ __forceinline__ void multiply(uint64_t right) {
    wgmma_fence();
#pragma unroll
    for (int t = 0; t < kTiles; ++t)
      WgmmaGathered<T, kColumns>::multiply(sums[t], fragments[kBuffer][t], right);
    wgmma_commit();
  }

  // All tiles of the block's share.
  __device__ __forceinline__ void run(const GatheredGradWeightArguments& args,
                                      const GatherShared& shared, int count) {
    const int lane = static_cast<int>(threadIdx.x) % 32, steps = args.sizes.steps;
    const int row_words = args.plan.row_words;
    const MatrixAddress right(shared_address(shared.stages), 16, 8 * row_words * 4, row_words / 4);
    // In 16-byte units: a k-step within a row of positions, and from a row's last to the next's.
    constexpr uint32_t kWithin = 2;
    const uint32_t row_steps = row_words / kGatherDepth;  // a power of two
    const uint32_t next_row = kColumns * row_words / 4 - (row_steps - 1) * kWithin;
    int stage = 0;
    uint32_t parity = 0, unfreed = 0;
    pin_all(sums);
    wgmma_fence();
#pragma unroll 1
    for (int index = 0; index < count; ++index) {
      barrier_wait(shared.full(stage), parity);
      const char* const at = shared.stages + stage * args.sizes.stage_bytes;
      const char* const box = at + args.sizes.columns_bytes;
      const int2* offsets = reinterpret_cast<const int2*>(shared.steps) + lane % 4;
      uint32_t right_at = right.low + static_cast<uint32_t>(stage * args.sizes.stage_bytes) / 16;
      // The rows of the next k-step are loaded while one is multiplied.
      const auto step_of = [&]<int kBuffer>(int step) {
        multiply<kBuffer>(right.with(right_at));
        right_at += ((step + 1) & (row_steps - 1)) == 0 ? next_row : kWithin;
        wgmma_wait<1>();
        pin_all(fragments[kBuffer ^ 1]);
        if (unfreed != 0) {
          barrier_arrive(unfreed);
          unfreed = 0;
        }
        if (step + 1 < steps) load<kBuffer ^ 1>(box, offsets[4 * (step + 1)]);
      };
      load<0>(box, offsets[0]);
#pragma unroll 1
      for (int step = 0; step < steps; step += 2) {
        step_of.template operator()<0>(step);
        if (step + 1 < steps) step_of.template operator()<1>(step + 1);
      }
      // The next tile's first rows go where those of the last k-step are, if it has an odd number.
      if (steps % 2 != 0) wgmma_wait<0>();
      unfreed = shared.empty(stage);
      if (++stage == args.plan.stages) {
        stage = 0;
        parity ^= 1;
      }
    }
    wgmma_wait<0>();
    pin_all(sums);
  }
};

// ---- Results -----------------------------------------------------------------------------------
constexpr int64_t kNoGatheredWeight = INT64_MIN;  // mirrored, places count from the last tap

// Of the weights of a row, that of the first input channel; kNoGatheredWeight where it has none.
__device__ __forceinline__ int64_t place_of_row(const GatheredGradWeightArguments& args,
                                                const GatherJob& job, int row) {
  const GatherAxis(&axes)[3] = args.sizes.axes;
  const int slice = args.plan.slice, own = row % slice;
  const int channel = job.output_slice * slice + own;
  if (row > rows_of_block(args.sizes, job.row_block).last || channel >= args.sizes.out_channels)
    return kNoGatheredWeight;
  int tap = row / slice;
  const int w = tap % axes[2].kernel;
  tap /= axes[2].kernel;
  return job.group * args.result_group_stride + channel * args.result_row_stride +
         tap / axes[1].kernel * args.result_tap_stride[0] +
         tap % axes[1].kernel * args.result_tap_stride[1] + w * args.result_tap_stride[2];
}

// The row of a thread's i-th sum; its column is sum_column.
template <bool kChannelsLast>
__device__ __forceinline__ int gathered_row(int thread, int i) {
  return thread / 32 * 16 + fragment_row<kChannelsLast>(thread % 32, i / 2 % 2);
}

template <typename T, int kColumns, int kTiles, bool kChannelsLast>
__global__ void __launch_bounds__(kGatherThreads, 1)
    gathered_grad_weight_kernel(const __grid_constant__ GatheredGradWeightArguments args) {
#ifdef CONVT3D_HAS_WGMMA
  extern __shared__ __align__(1024) char base[];  // period of the swizzle
  const GatheredGradWeightPlan& plan = args.plan;
  const GatheredGradWeightSizes& sizes = args.sizes;
  const GatherShared shared(base, args);
  const auto jobs = static_cast<unsigned>(sizes.jobs);
  const unsigned job_index = blockIdx.x % jobs;
  const int split = static_cast<int>(blockIdx.x / jobs);
  const GatherJob job(args, job_index);
  const RowRange rows = rows_of_block(sizes, job.row_block);
  const TapRange taps = taps_of_rows(sizes.axes, plan.slice, rows.first, rows.last);
  const GatherBox box = gather_box(sizes.axes, plan, taps);
  if (threadIdx.x == 0) {
    for (int stage = 0; stage < plan.stages; ++stage) {
      barrier_init(shared.full(stage), (fills_stage_by_copies(plan) ? 1 : 0) +
                                           (fills_by_warps(plan) ? 32 * kGatherFillWarps : 0));
      barrier_init(shared.empty(stage), 2 * kWarpgroupThreads);
      barrier_init(shared.staged(stage), 1);
      barrier_init(shared.unstaged(stage), 32 * kGatherFillWarps);
    }
    fence_barrier_init();
  }
  // What is never filled pads a product, and must be zero or finite.
  for (int at = threadIdx.x * 16; at < sizes.steps_at; at += kGatherThreads * 16)
    *reinterpret_cast<uint4*>(base + at) = uint4{0, 0, 0, 0};
  // A k-step's words j and j + 4 are lane j's.
  for (int k = threadIdx.x; k < sizes.steps * kGatherDepth; k += kGatherThreads) {
    const int index = k * plan.word_positions;
    const GatherPosition position = position_at(plan, index < sizes.positions ? index : 0);
    shared.steps[k / 8 * 8 + k % 4 * 2 + k / 4 % 2] =
        4 * position_offset(sizes.axes, box, plan, position);
    shared.positions[k] =
        static_cast<uint32_t>(position.sample | position.d << 8 | position.h << 16) |
        static_cast<uint32_t>(position.w) << 24;
  }
  if (plan.output_fill == GatherFill::kElements)
    for (int i = threadIdx.x; i < box.span[0] * plan.samples * box.span[1]; i += kGatherThreads)
      shared.lines[i] = GatherLine(box, plan, i);
  fence_for_wgmma();
  __syncthreads();

  const int per_split = (sizes.tiles + plan.splits - 1) / plan.splits;
  const int first = min(split * per_split, sizes.tiles);
  const int last = min(first + per_split, sizes.tiles);
  const int warpgroup =
      __shfl_sync(0xffffffffu, static_cast<int>(threadIdx.x) / kWarpgroupThreads, 0);
  if (warpgroup >= 2) {
    release_registers<kGatherFillRegisters>();
    const int warp = static_cast<int>(threadIdx.x) / 32 - 2 * kWarpgroupThreads / 32;
    if (warp == kGatherFillWarps) {
      if (fills_by_copies(plan) && threadIdx.x % 32 == 0)
        gather_by_copies<T>(args, job, taps, box, shared, first, last);
    } else if (fills_by_warps(plan)) {
      gather_by_warps<T>(args, job, taps, box, shared, first, last, warp);
    }
    return;
  }
  claim_registers<kGatherRegisters>();
  const int thread = static_cast<int>(threadIdx.x) % kWarpgroupThreads;
  const int first_tile = warpgroup * plan.tiles;
  float sums[kTiles][kColumns / 2];
#pragma unroll
  for (int t = 0; t < kTiles; ++t)
#pragma unroll
    for (int i = 0; i < kColumns / 2; ++i) sums[t][i] = 0.f;
  GatherConsumer<T, kColumns, kTiles, kChannelsLast> consumer{sums, {}, {}};
#pragma unroll
  for (int t = 0; t < kTiles; ++t) {
#pragma unroll
    for (int half = 0; half < consumer.kBases; ++half) {
      const int row = rows.first + (first_tile + t) * kGatherRows +
                      gathered_row<kChannelsLast>(thread, 2 * half);
      // Rows that do not exist are multiplied like another one.
      consumer.bases[t][half] =
          4 * row_offset(sizes.axes, plan, box, taps, row <= rows.last ? row : rows.first);
    }
  }
  consumer.run(args, shared, last - first);

  if (args.workspace != nullptr) {
    float* to =
        args.workspace + split * sizes.partials +
        static_cast<int64_t>(job_index * 2 * plan.tiles + first_tile) * kGatherRows * kColumns +
        thread;
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
      if (t >= plan.tiles) break;
#pragma unroll
      for (int i = 0; i < kColumns / 2; ++i)
        to[(t * kColumns / 2 + i) * kWarpgroupThreads] = sums[t][i];
    }
  } else {
    const int columns = job.input_channels(args);
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
      if (t >= plan.tiles) break;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int64_t place = place_of_row(args, job,
                                           rows.first + (first_tile + t) * kGatherRows +
                                               gathered_row<kChannelsLast>(thread, 2 * half));
        if (place == kNoGatheredWeight) continue;
        T* const result = static_cast<T*>(args.result) + place +
                          (job.input_slice * kColumns + thread % 4 * 2) * args.result_column_stride;
#pragma unroll
        for (int i = 0; i < kColumns / 2; ++i) {
          if (i / 2 % 2 != half || sum_column(thread, i) >= columns) continue;
          result[(i / 4 * 8 + i % 2) * args.result_column_stride] = Convert<T>::from(sums[t][i]);
        }
      }
    }
  }
#endif
}

// ---- Sum of the partial results ----------------------------------------------------------------
// A block adds up the splits of one register of a product.
template <typename T, bool kChannelsLast>
__global__ void __launch_bounds__(kWarpgroupThreads)
    sum_gathered(const __grid_constant__ GatheredGradWeightArguments args) {
  const GatheredGradWeightPlan& plan = args.plan;
  const int thread = static_cast<int>(threadIdx.x);
  unsigned index = blockIdx.x;
  const int i = static_cast<int>(index % (plan.columns / 2));
  index /= plan.columns / 2;
  const int tile = static_cast<int>(index % (2 * plan.tiles));
  const GatherJob job(args, index / (2 * plan.tiles));
  const int row = rows_of_block(args.sizes, job.row_block).first + tile * kGatherRows +
                  gathered_row<kChannelsLast>(thread, i);
  const int64_t place = place_of_row(args, job, row);
  const int column = sum_column(thread, i);
  if (place == kNoGatheredWeight || column >= job.input_channels(args)) return;
  const float* source =
      args.workspace + static_cast<int64_t>(blockIdx.x) * kWarpgroupThreads + thread;
  float sum = 0;
#pragma unroll 8
  for (int split = 0; split < plan.splits; ++split) sum += source[split * args.sizes.partials];
  static_cast<T*>(
      args.result)[place + (job.input_slice * plan.columns + column) * args.result_column_stride] =
      Convert<T>::from(sum);
}

// ---- Launch ------------------------------------------------------------------------------------
template <typename T, int kIndex, bool kChannelsLast>
cudaError_t launch_gathered_shape(const GatheredGradWeightArguments& args, cudaStream_t stream) {
  constexpr GatheredGradWeightShape kShape = kGatheredGradWeightShapes[kIndex];
  const auto kernel = gathered_grad_weight_kernel<T, kShape.columns, kShape.tiles, kChannelsLast>;
  const cudaError_t status = cudaFuncSetAttribute(
      kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, args.sizes.shared_bytes);
  if (status != cudaSuccess) return status;
  const auto blocks = static_cast<unsigned>(args.sizes.jobs * args.plan.splits);
  return launch_kernel(kernel, blocks, kGatherThreads, args.sizes.shared_bytes, stream, args);
}

template <typename T, bool kChannelsLast, size_t... kIndex>
cudaError_t find_gathered_shape(const GatheredGradWeightArguments& args, cudaStream_t stream,
                                std::index_sequence<kIndex...>) {
  // The first instance with enough tiles: they are sorted.
  cudaError_t status = cudaErrorInvalidValue;
  (void)((kGatheredGradWeightShapes[kIndex].columns == args.plan.columns &&
          kGatheredGradWeightShapes[kIndex].tiles >= args.plan.tiles &&
          (status = launch_gathered_shape<T, kIndex, kChannelsLast>(args, stream), true)) ||
         ...);
  return status;
}

// `kChannelsLast`: grad_output's layout.
template <typename T, bool kChannelsLast>
cudaError_t launch_gathered_grad_weight_of(const GatheredGradWeightArguments& args,
                                           cudaStream_t stream) {
  const cudaError_t status = find_gathered_shape<T, kChannelsLast>(
      args, stream, std::make_index_sequence<std::size(kGatheredGradWeightShapes)>{});
  if (status != cudaSuccess || args.workspace == nullptr) return status;
  const auto blocks = static_cast<unsigned>(args.sizes.partials / kWarpgroupThreads);
  return launch_kernel(sum_gathered<T, kChannelsLast>, blocks, kWarpgroupThreads, 0, stream, args);
}

}  // namespace convt3d

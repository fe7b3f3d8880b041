// Forward and grad_input as an implicit matrix product on Hopper (wgmma, sm_90a) of channels-last
// tensors, where images are small or channels many: all rows of a product are positions, of any
// part of a sample or of several of them.
//
//   rows     positions of a tile in (batch, d, h, w)
//   columns  result channels of one result plane
//   depth    taps x operand channels, in steps of one tap and 128 bytes of channels
//
//   operand   the copy engine brings the rows of each tap anew: a box of the tensor at the tap's
//             distance, with zeros for what lies outside
//   weights   the same, as they lie in memory: output channels are neighbours. These are the depth
//             of grad_input, and forward's columns.
//   products  two warpgroups, kBlocks x 64 positions each, sums in registers
//   result    registers -> global, 16 bytes at a time, after four lanes have exchanged theirs
//
// wgmma_data.cuh reads every operand row once for all taps, but has rows that are no positions and
// walks along the depth of one tile. Here a few large tiles of steps that are all alike keep the
// multiprocessors busy; where there are fewer tiles than multiprocessors, parts of the steps
// ("segments") are work items of their own, whose sums meet in memory: the warp that comes last
// adds them. A block is persistent and walks over work items.
//
// Each result is one fixed sequence of sums: within a segment taps, then channels; then segments,
// whether or not they are split. All channels of a tap follow each other, because the copy engine
// has more of a position's channels brought to the L2 cache than it asked for.
#pragma once

#include <type_traits>

#include "channel_stores.cuh"
#include "copied_ring.cuh"
#include "scalar.cuh"
#include "tapwise_data_arguments.h"

namespace convt3d {

struct TapwiseShared {
  CopiedRing stages;
  int operand_bytes;

  __device__ TapwiseShared(char* base, const TapwiseSizes& sizes)
      : stages{shared_address(base), shared_address(base) + sizes.barriers_at, sizes.stage_bytes},
        operand_bytes(sizes.operand_bytes) {}
  __device__ uint32_t operand(int slot) const { return stages.slot(slot); }
  __device__ uint32_t weights(int slot) const { return stages.slot(slot) + operand_bytes; }
};

// Those of an item.
struct TapwiseSegments {
  int begin, end;
  __device__ TapwiseSegments(const TapwisePlan& plan, const TapwiseItem& item)
      : begin(plan.split ? item.segment : 0), end(plan.split ? item.segment + 1 : plan.segments) {}
};

// One thread: the operands of every step.
template <bool kForward>
__device__ void fill_stages(const TapwiseArguments& args, const TapwiseShared& shared) {
  const TapwisePlan& plan = args.plan;
  const TapwiseSizes& sizes = args.sizes;
  const WindowAxis &d = plan.axes[0], &h = plan.axes[1], &w = plan.axes[2];
  const uint32_t bytes = sizes.box_rows * kTapwiseRowBytes + sizes.weight_bytes;
  const int chunk_channels = kTapwiseUnits * plan.unit_elements;
  RingCursor cursor;
  for (unsigned index = blockIdx.x; index < sizes.items; index += gridDim.x) {
    const TapwiseItem item(args, static_cast<int>(index));
    const TapwiseSegments segments(plan, item);
    const int begin = segment_begin(segments.begin, plan.segments, item.steps);
    const int end = segment_begin(segments.end, plan.segments, item.steps);
    if (begin == end) continue;
    const int first_d = d.plane_begin[item.plane[0]], first_h = h.plane_begin[item.plane[1]];
    const int first_w = w.plane_begin[item.plane[2]], end_w = w.plane_begin[item.plane[2] + 1];
    const int end_h = h.plane_begin[item.plane[1] + 1];
    const int origin_d = d.operand_step * item.first[1] + d.origin;
    const int origin_h = h.operand_step * item.first[2] + h.origin;
    const int origin_w = w.operand_step * item.first[3] + w.origin;
    const int group_channel = item.group * args.operand_channels;
    const int column = item.slice * plan.columns;
    int chunk = begin % sizes.chunks, tap = begin / sizes.chunks;
    int tap_w = first_w + tap % (end_w - first_w);
    tap /= end_w - first_w;
    int tap_h = first_h + tap % (end_h - first_h), tap_d = first_d + tap / (end_h - first_h);
    for (int step = begin; step < end; ++step) {
      const uint32_t full = shared.stages.full(cursor.slot);
      // A new barrier counts as having completed the phase before its first.
      barrier_wait(shared.stages.empty(cursor.slot), cursor.parity ^ 1);
      barrier_expect(full, bytes);
      const int channel = chunk * chunk_channels;
      copy_tensor(shared.operand(cursor.slot), &args.operand_map, full, group_channel + channel,
                  origin_w + w.offset[tap_w], origin_h + h.offset[tap_h],
                  origin_d + d.offset[tap_d], item.first[0]);
      // (output channel, tap, input channel)
      const auto copy_weights = [&](int rows_before, int output, int input) {
        copy_tensor(shared.weights(cursor.slot) + rows_before * kTapwiseRowBytes, &args.weight_map,
                    full, output, w.tap[tap_w], h.tap[tap_h], d.tap[tap_d], input);
      };
      if constexpr (kForward) {
        for (int first = 0; first < plan.columns; first += chunk_channels)
          copy_weights(first, column + first, group_channel + channel);
      } else {
        copy_weights(0, channel, item.group * args.result_channels + column);
      }
      cursor.advance(plan.stages);
      if (++chunk < sizes.chunks) continue;
      chunk = 0;
      if (++tap_w < end_w) continue;
      tap_w = first_w;
      if (++tap_h < end_h) continue;
      tap_h = first_h;
      ++tap_d;
    }
  }
}

template <typename T, int kColumns, int kBlocks, bool kForward>
__device__ __forceinline__ void store_tile(const TapwiseArguments& args, const TapwiseItem& item,
                                           float (&sums)[kBlocks][kColumns / 2], int first_row,
                                           int lane) {
  const TapwisePlan& plan = args.plan;
  const int channel = item.slice * kColumns, channels = args.result_channels - channel;
  const int64_t first_channel = int64_t{item.group} * args.result_channels + channel;
  // A thread has two neighbouring columns of every eight.
  const int own = lane % 4 * 2;
  if (kForward && args.bias.data != nullptr) {
    const T* const bias = static_cast<const T*>(args.bias.data) + first_channel * args.bias.stride;
#pragma unroll
    for (int j = 0; j < kColumns / 2; j += 4) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        // Columns that are no channels take the last one's and are not stored.
        const int at = min(2 * j + own + e, channels - 1);
        const float added = Convert<float>::from(bias[at * args.bias.stride]);
#pragma unroll
        for (int block = 0; block < kBlocks; ++block) {
          sums[block][j + e] += added;
          sums[block][j + 2 + e] += added;
        }
      }
    }
  }
  T* const result = static_cast<T*>(args.result.data) + first_channel;
#pragma unroll
  for (int block = 0; block < kBlocks; ++block) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      int rest = first_row + block * 64 + half * 8 + lane / 4;
      bool exists = rest < args.sizes.box_rows;
      int at[4];  // position
      at[3] = item.first[3] + args.tile_w.take(rest);
      at[2] = item.first[2] + args.tile_h.take(rest);
      at[1] = item.first[1] + args.tile_d.take(rest);
      at[0] = item.first[0] + rest;
      exists = exists && at[0] < args.batch;
      int64_t offset = at[0] * args.result.stride[0];
#pragma unroll
      for (int a = 0; a < 3; ++a) {
        const int to = plan.axes[a].result_step * at[a + 1] + item.plane[a];
        exists = exists && to < plan.axes[a].result_extent;
        offset += to * args.result.stride[a + 2];
      }
      // None where the position does not exist.
      const int left = exists ? channels : 0;
      T* const row = result + (exists ? offset : 0);
      const float* const own_sums = sums[block] + 2 * half;
      if constexpr (sizeof(T) == 4) {
#pragma unroll
        for (int j = 0; j < kColumns / 2; j += 4) {
          const uint32_t words[2] = {__float_as_uint(own_sums[j]),
                                     __float_as_uint(own_sums[j + 1])};
          store_columns(row + 2 * j + own, words, left - 2 * j - own, args.result_in_vectors);
        }
      } else {
#pragma unroll
        for (int j = 0; j < kColumns / 2; j += 16) {
          uint32_t words[4];
#pragma unroll
          for (int i = 0; i < 4; ++i)
            words[i] = pack_pair<T>(own_sums[j + 4 * i], own_sums[j + 4 * i + 1]);
          exchange_words(words, lane);
          const int first = 2 * j + 8 * (lane % 4);
          store_columns(row + first, words, left - first, args.result_in_vectors);
        }
      }
    }
  }
}

// Leaves a warp's sums of one segment in memory. Returns whether all others' were there already:
// then `sums` are those of all, added in their order.
template <int kColumns, int kBlocks>
__device__ __forceinline__ bool add_segments(const TapwiseArguments& args, const TapwiseItem& item,
                                             float (&sums)[kBlocks][kColumns / 2], int warp,
                                             int lane) {
  constexpr int kVectors = kBlocks * kColumns / 8;  // of four sums
  const int segments = args.plan.segments;
  float4* const first = reinterpret_cast<float4*>(args.segment_sums) +
                        (int64_t{item.tile} * kTapwiseWarps + warp) * segments * (kVectors * 32) +
                        lane;
  float* const values = &sums[0][0];
  float4* const own = first + item.segment * (kVectors * 32);
#pragma unroll
  for (int i = 0; i < kVectors; ++i)
    own[i * 32] =
        make_float4(values[4 * i], values[4 * i + 1], values[4 * i + 2], values[4 * i + 3]);
  __threadfence();
  __syncwarp();
  int before = 0;
  if (lane == 0) before = atomicAdd(args.counters + item.tile * kTapwiseWarps + warp, 1);
  before = __shfl_sync(0xffffffffu, before, 0);
  if (before != segments - 1) return false;
  __threadfence();
#pragma unroll
  for (int i = 0; i < kBlocks * kColumns / 2; ++i) values[i] = 0;
  for (int segment = 0; segment < segments; ++segment) {
    const float4* const from = first + segment * (kVectors * 32);
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
      const float4 added = __ldcg(from + i * 32);
      values[4 * i] += added.x;
      values[4 * i + 1] += added.y;
      values[4 * i + 2] += added.z;
      values[4 * i + 3] += added.w;
    }
  }
  return true;
}

template <typename T, int kColumns, int kBlocks, bool kForward>
__device__ __forceinline__ void multiply_steps(const TapwiseArguments& args,
                                               const TapwiseShared& shared, int warpgroup) {
  constexpr bool kAdds = adds_segments(kColumns, kBlocks);
  constexpr int kRowUnits = kTapwiseUnits;
  const TapwisePlan& plan = args.plan;
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = threadIdx.x % 32;
  const MatrixAddress left(shared.operand(0) + warpgroup * kBlocks * 64 * kTapwiseRowBytes,
                           kWgmmaUnitBytes, 8 * kTapwiseRowBytes, kRowUnits);
  // Forward: the copies of fill_stages lie one behind the other.
  constexpr int kCopyRows = kTapwiseRowBytes / static_cast<int>(sizeof(T));
  const MatrixAddress right(shared.weights(0),
                            kForward ? kCopyRows * kTapwiseRowBytes : kWgmmaUnitBytes,
                            8 * kTapwiseRowBytes, kRowUnits);
  // Units from a k-step's columns to the next one's: rows of depth, or words of them.
  constexpr int kDepthUnits = kForward ? 16 * kRowUnits : 2;
  using Product =
      std::conditional_t<kForward, WgmmaRightTransposed<T, kColumns>, Wgmma<T, kColumns>>;
  const int stage_units = shared.stages.slot_bytes / kWgmmaUnitBytes;
  RingCursor cursor;
  for (unsigned index = blockIdx.x; index < args.sizes.items; index += gridDim.x) {
    const TapwiseItem item(args, static_cast<int>(index));
    const TapwiseSegments segments(plan, item);
    const int all_steps = item.steps;
    float sums[kBlocks][kColumns / 2];
    // The products of a segment, in `sums`.
    const auto multiply = [&](int segment) {
      const int steps = segment_begin(segment + 1, plan.segments, all_steps) -
                        segment_begin(segment, plan.segments, all_steps);
      uint32_t unfreed = 0;  // barrier of the step whose products may be under way
#pragma unroll 1
      for (int step = 0; step < steps; ++step) {
        barrier_wait(shared.stages.full(cursor.slot), cursor.parity);
        wgmma_fence();
        const uint64_t a = left.with(left.low + cursor.slot * stage_units);
        const uint64_t b = right.with(right.low + cursor.slot * stage_units);
#pragma unroll
        for (int k = 0; k < kRowUnits / 2; ++k)
#pragma unroll
          for (int block = 0; block < kBlocks; ++block)
            Product::multiply(sums[block], a + 2 * k + block * 64 * kRowUnits, b + k * kDepthUnits,
                              step > 0 || k > 0);
        wgmma_commit();
        wgmma_wait<1>();  // for the step before
        if (unfreed != 0 && lane == 0) barrier_arrive(unfreed);
        unfreed = shared.stages.empty(cursor.slot);
        cursor.advance(plan.stages);
      }
      wgmma_wait<0>();
      __syncwarp();
      if (unfreed != 0 && lane == 0) barrier_arrive(unfreed);
      // Without steps nothing was multiplied. Selections, not a branch: see C7520 of ptxas.
#pragma unroll
      for (int block = 0; block < kBlocks; ++block)
#pragma unroll
        for (int i = 0; i < kColumns / 2; ++i) {
          pin(sums[block][i]);
          sums[block][i] = steps == 0 ? 0.f : sums[block][i];
        }
    };
    const int first_row = warp * 16 + warpgroup * (kBlocks - 1) * 64;
    const auto finish = [&](float (&done)[kBlocks][kColumns / 2]) {
      // Found anew: while products run, sums take the registers.
      uint32_t same = index;
      pin(same);
      const TapwiseItem finished(args, static_cast<int>(same));
      if (plan.split && !add_segments<kColumns>(args, finished, done, warp, lane)) return;
      store_tile<T, kColumns, kBlocks, kForward>(args, finished, done, first_row, lane);
    };
    if constexpr (kAdds) {
      float all[kBlocks][kColumns / 2] = {};
#pragma unroll 1
      for (int segment = segments.begin; segment < segments.end; ++segment) {
        multiply(segment);
#pragma unroll
        for (int block = 0; block < kBlocks; ++block)
#pragma unroll
          for (int i = 0; i < kColumns / 2; ++i) all[block][i] += sums[block][i];
      }
      finish(all);
    } else {
      multiply(segments.begin);
      finish(sums);
    }
    // The compiler must see all warps together before the next product: see C7520 of ptxas.
    named_barrier(1 + warpgroup, kWarpgroupThreads);
  }
}

template <typename T, int kColumns, int kBlocks, bool kForward>
__global__ void __launch_bounds__(kCopiedThreads, 1)
    tapwise_data_kernel(const __grid_constant__ TapwiseArguments args) {
#ifdef CONVT3D_HAS_WGMMA
  extern __shared__ __align__(1024) char base[];  // period of the swizzle
  const TapwiseShared shared(base, args.sizes);
  if (threadIdx.x == 0) {
    for (int slot = 0; slot < args.plan.stages; ++slot) {
      barrier_init(shared.stages.full(slot), 1);
      barrier_init(shared.stages.empty(slot), kTapwiseWarps);
    }
    fence_barrier_init();
  }
  __syncthreads();
  const int warpgroup =
      __shfl_sync(0xffffffffu, static_cast<int>(threadIdx.x) / kWarpgroupThreads, 0);
  if (warpgroup == 2) {
    release_registers<kCopyRegisters>();
    if (threadIdx.x == 2 * kWarpgroupThreads) fill_stages<kForward>(args, shared);
  } else {
    claim_registers<kCopiedMultiplyRegisters>();
    multiply_steps<T, kColumns, kBlocks, kForward>(args, shared, warpgroup);
  }
#endif
}

}  // namespace convt3d

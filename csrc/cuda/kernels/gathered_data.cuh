// Forward and grad_input as an implicit matrix product on Hopper (wgmma, sm_90a) of contiguous
// tensors:
//
//   rows     positions of a tile of (d, h, w)
//   columns  result channels of one result plane
//   depth    operand channels x taps, in steps of one tap and 32 bytes of channels
//
//   operand   the copy engine brings a box per 32 bytes of channels as it lies in memory, all taps'
//             halo included, zeros outside the tensor. Each lane loads the words of its fragment
//             from there at stride * position + tap: any stride, dilation and tap costs the same,
//             and nothing is transposed.
//   weights   packed by a kernel before (gathered_data_pack.cuh), bulk copies in stages
//   products  two warpgroups, kBlocks x 64 positions each; the next stage's operand is loaded while
//             one is multiplied
//   exact     float32: operand and weights are sums of two TF32 values; three of the four products.
//             The matrix units cut the low bits of every sum they carry, so that the sums of a
//             stage are added to float32 registers, small products first.
//   result    registers -> global
//
// Each result is one fixed sequence of sums: chunks, then taps.
#pragma once

#include "copied_ring.cuh"
#include "gathered_data_arguments.h"
#include "mma.cuh"
#include "scalar.cuh"

namespace convt3d {

struct GatheredDataShared {
  uint32_t boxes, stages, taps, barriers;
  int box_bytes, stage_bytes, box_slots;

  __device__ GatheredDataShared(char* base, const GatheredDataArguments& args)
      : boxes(shared_address(base)),
        stages(boxes + args.sizes.stages_at),
        taps(boxes + args.sizes.taps_at),
        barriers(boxes + args.sizes.barriers_at),
        box_bytes(args.sizes.box_bytes),
        stage_bytes(args.sizes.stage_bytes),
        box_slots(args.plan.box_slots) {}
  __device__ uint32_t box(int slot) const { return boxes + slot * box_bytes; }
  __device__ uint32_t stage(int slot) const { return stages + slot * stage_bytes; }
  __device__ uint32_t box_full(int slot) const { return barriers + 16 * slot; }
  __device__ uint32_t box_empty(int slot) const { return barriers + 16 * slot + 8; }
  __device__ uint32_t stage_full(int slot) const { return barriers + 16 * (box_slots + slot); }
  __device__ uint32_t stage_empty(int slot) const { return stage_full(slot) + 8; }
};

// One thread: the boxes of every item.
__device__ inline void load_gathered_boxes(const GatheredDataArguments& args,
                                           const GatheredDataShared& shared) {
  const WindowAxis(&axes)[3] = args.plan.axes;
  const int step_channels = kGatheredStepBytes / args.plan.element_bytes;
  RingCursor cursor;
  for (unsigned index = blockIdx.x; index < args.sizes.items; index += gridDim.x) {
    const GatheredDataItem item(args, static_cast<int>(index));
    if (item.taps == 0) continue;
    int at[3];
#pragma unroll
    for (int a = 0; a < 3; ++a) at[a] = axes[a].operand_step * item.first[a] + axes[a].origin;
    for (int chunk = 0; chunk < args.sizes.chunks; ++chunk) {
      const uint32_t full = shared.box_full(cursor.slot);
      // A new barrier counts as having completed the phase before its first.
      barrier_wait(shared.box_empty(cursor.slot), cursor.parity ^ 1);
      barrier_expect(full, args.sizes.box_bytes);
      copy_tensor(shared.box(cursor.slot), &args.operand_map, full, at[2] - args.sizes.shift, at[1],
                  at[0], item.group * args.operand_channels + chunk * step_channels, item.sample);
      cursor.advance(args.plan.box_slots);
    }
  }
}

// One thread: the weights of every item.
__device__ inline void load_gathered_weights(const GatheredDataArguments& args,
                                             const GatheredDataShared& shared) {
  RingCursor cursor;
  wait_for_previous_kernel();
  for (unsigned index = blockIdx.x; index < args.sizes.items; index += gridDim.x) {
    const GatheredDataItem item(args, static_cast<int>(index));
    const char* from = args.packed + item.first_stage(args) * args.sizes.stage_bytes;
    const int stages = item.stages();
    for (int stage = 0; stage < stages; ++stage) {
      const uint32_t full = shared.stage_full(cursor.slot);
      barrier_wait(shared.stage_empty(cursor.slot), cursor.parity ^ 1);
      barrier_expect(full, args.sizes.stage_bytes);
      copy_bulk(shared.stage(cursor.slot), from, args.sizes.stage_bytes, full);
      from += args.sizes.stage_bytes;
      cursor.advance(args.plan.stages);
    }
  }
}

template <typename T, int kColumns, int kBlocks, bool kExact>
struct GatheredMultiplier {
  static constexpr int kSteps = kGatheredStageSteps;
  static constexpr int kParts = kExact ? 2 : 1;
  // Products of so many steps are issued together: what registers hold of the operand, twice.
  static constexpr int kGroup = kBlocks == 1 ? kSteps : kSteps / 2;
  using Fragments = uint32_t[kGroup][kParts][kBlocks][4];

  const GatheredDataArguments& args;
  const GatheredDataShared& shared;
  const int lane;
  uint32_t rows[kBlocks][2];  // of the lane in a box, bytes
  uint32_t word_bytes;        // to the second word of a fragment's row
  uint32_t pair_bytes;        // to the channel in the upper half of a word
  RingCursor box, stage;
  // What is loaded next: of the steps that are left, the tap of so many in a box.
  int left, tap, taps;
  uint32_t first_tap_at;  // in the list
  uint32_t box_at;

  __device__ GatheredMultiplier(const GatheredDataArguments& args, const GatheredDataShared& shared)
      : args(args), shared(shared), lane(threadIdx.x % 32) {
    const GatheredDataSizes& sizes = args.sizes;
    const int warp = static_cast<int>(threadIdx.x) / 32;
    // A lane's channels are 2 j and 2 j + 1; of 16 bits in both halves of sixteen.
    word_bytes = (sizeof(T) == 4 ? 1 : 8) * sizes.plane_bytes;
    pair_bytes = sizes.plane_bytes;
#pragma unroll
    for (int block = 0; block < kBlocks; ++block)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const Position at(args, row_of(warp, block, half, lane));
        rows[block][half] = lane % 4 * 2 * sizes.plane_bytes +
                            ((args.plan.axes[0].operand_step * at.d * sizes.lines_h +
                              args.plan.axes[1].operand_step * at.h) *
                                 sizes.pitch +
                             args.plan.axes[2].operand_step * at.w + sizes.shift) *
                                static_cast<int>(sizeof(T));
      }
  }

  static __device__ __forceinline__ int row_of(int warp, int block, int half, int lane) {
    return (warp / 4 * kBlocks + block) * 64 + warp % 4 * 16 + half * 8 + lane / 4;
  }
  // Of a row in its tile. Rows that are no positions take the first one's place.
  struct Position {
    bool exists;
    int d, h, w;
    __device__ __forceinline__ Position(const GatheredDataArguments& args, int row) {
      d = row;
      w = args.tile_w.take(d);
      h = args.tile_h.take(d);
      exists = d < args.plan.tile[0];
      if (!exists) d = h = w = 0;
    }
  };

  // The operand of the next steps; zeros behind the last, where a box may be another one already.
  // Everything is asked for before the first word is looked at.
  __device__ __forceinline__ void load(Fragments& fragments) {
    constexpr int kLoads = 4 / static_cast<int>(sizeof(T));  // of a word
    uint32_t loaded[kGroup][kBlocks][4][kLoads], offsets[kGroup];
    int listed = tap;
#pragma unroll
    for (int step = 0; step < kGroup; ++step) {
      offsets[step] = load_shared(first_tap_at + 4 * listed);
      listed = listed + 1 == taps ? 0 : listed + 1;
    }
    const int steps = left;
#pragma unroll
    for (int step = 0; step < kGroup; ++step) {
      if (tap == 0 && left > 0) {
        barrier_wait(shared.box_full(box.slot), box.parity);
        box_at = shared.box(box.slot);
      }
#pragma unroll
      for (int block = 0; block < kBlocks; ++block)
#pragma unroll
        for (int i = 0; i < 4; ++i)
#pragma unroll
          for (int k = 0; k < kLoads; ++k) {
            const uint32_t from =
                box_at + offsets[step] + rows[block][i % 2] + (i / 2) * word_bytes + k * pair_bytes;
            loaded[step][block][i][k] = sizeof(T) == 4 ? load_shared(from) : load_shared_half(from);
          }
      tap = tap + 1 == taps ? 0 : tap + 1;
      if (tap == 0 && left > 0) {
        __syncwarp();
        if (lane == 0) barrier_arrive(shared.box_empty(box.slot));
        box.advance(args.plan.box_slots);
      }
      --left;
    }
#pragma unroll
    for (int step = 0; step < kGroup; ++step)
#pragma unroll
      for (int block = 0; block < kBlocks; ++block)
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          uint32_t word = loaded[step][block][i][0];
          if constexpr (kLoads == 2) word |= loaded[step][block][i][1] << 16;
          word = step < steps ? word : 0;
          if constexpr (kExact) {
            const uint32_t high = round_to_tf32(word);
            fragments[step][1][block][i] =
                round_to_tf32(__float_as_uint(__uint_as_float(word) - __uint_as_float(high)));
            word = high;
          }
          fragments[step][0][block][i] = word;
        }
  }

  // Waits for the stage's weights with its first step, and frees them with its last. Loads `next`
  // while the products of `fragments` are under way.
  __device__ __forceinline__ void multiply(float (&sums)[kBlocks][kColumns / 2],
                                           Fragments& fragments, Fragments& next, int first_step,
                                           bool accumulate) {
    if (first_step == 0) barrier_wait(shared.stage_full(stage.slot), stage.parity);
    const MatrixAddress right(shared.stage(stage.slot), kColumns * kWgmmaUnitBytes,
                              8 * kWgmmaUnitBytes);
    constexpr int kPartUnits = 2 * kColumns;
    const uint32_t first = right.low + first_step * kParts * kPartUnits;
#pragma unroll
    for (int step = 0; step < kGroup; ++step)
#pragma unroll
      for (int part = 0; part < kParts; ++part)
#pragma unroll
        for (int block = 0; block < kBlocks; ++block)
#pragma unroll
          for (int i = 0; i < 4; ++i) pin(fragments[step][part][block][i]);
#pragma unroll
    for (int block = 0; block < kBlocks; ++block)
#pragma unroll
      for (int i = 0; i < kColumns / 2; ++i) {
        // Selections, not a branch: see C7520 of ptxas.
        sums[block][i] = accumulate ? sums[block][i] : 0.f;
        pin(sums[block][i]);
      }
    wgmma_fence();
    const auto products = [&](int left_part, int right_part) {
#pragma unroll
      for (int step = 0; step < kGroup; ++step)
#pragma unroll
        for (int block = 0; block < kBlocks; ++block)
          WgmmaGathered<T, kColumns>::multiply(
              sums[block], fragments[step][left_part][block],
              right.with(first + (step * kParts + right_part) * kPartUnits));
    };
    if constexpr (kExact) {
      products(1, 0);
      products(0, 1);
    }
    products(0, 0);
    wgmma_commit();
    load(next);
    wgmma_wait<0>();
#pragma unroll
    for (int block = 0; block < kBlocks; ++block)
#pragma unroll
      for (int i = 0; i < kColumns / 2; ++i) pin(sums[block][i]);
    if (first_step + kGroup == kSteps) {
      __syncwarp();
      if (lane == 0) barrier_arrive(shared.stage_empty(stage.slot));
      stage.advance(args.plan.stages);
    }
  }

  // The sums of an item.
  __device__ __forceinline__ void run(const GatheredDataItem& item,
                                      float (&result)[kBlocks][kColumns / 2]) {
    left = item.steps;
    taps = item.taps;
    tap = 0;
    first_tap_at = shared.taps + 4 * first_tap(args.plan, item.plane);
    Fragments fragments[2];
    float sums[kBlocks][kColumns / 2];
#pragma unroll
    for (int block = 0; block < kBlocks; ++block)
#pragma unroll
      for (int i = 0; i < kColumns / 2; ++i) sums[block][i] = result[block][i] = 0.f;
    const int groups = item.stages() * (kSteps / kGroup);
    if (groups > 0) load(fragments[0]);
    int first_step = 0;
    const auto group_of = [&](Fragments& now, Fragments& next, int group) {
      multiply(sums, now, next, first_step, !kExact && group > 0);
      first_step = first_step + kGroup == kSteps ? 0 : first_step + kGroup;
      if constexpr (kExact) {
#pragma unroll
        for (int block = 0; block < kBlocks; ++block)
#pragma unroll
          for (int i = 0; i < kColumns / 2; ++i) result[block][i] += sums[block][i];
      }
    };
#pragma unroll 1
    for (int group = 0; group < groups; group += 2) {
      group_of(fragments[0], fragments[1], group);
      if (group + 1 < groups) group_of(fragments[1], fragments[0], group + 1);
    }
    if constexpr (!kExact) {
#pragma unroll
      for (int block = 0; block < kBlocks; ++block)
#pragma unroll
        for (int i = 0; i < kColumns / 2; ++i) result[block][i] = sums[block][i];
    }
  }

  __device__ __forceinline__ void store(const GatheredDataItem& item,
                                        float (&sums)[kBlocks][kColumns / 2]) {
    const GatheredDataPlan& plan = args.plan;
    const int warp = static_cast<int>(threadIdx.x) / 32;
    const int channel = item.slice * kColumns, channels = args.result_channels - channel;
    const int64_t first_channel = int64_t{item.group} * args.result_channels + channel;
    // A thread has two neighbouring columns of every eight.
    const int own = lane % 4 * 2;
    const int64_t channel_stride = args.result.stride[1];
    T* const result = static_cast<T*>(args.result.data) + item.sample * args.result.stride[0] +
                      (first_channel + own) * channel_stride;
    if (args.bias.data != nullptr) {
      const T* const bias =
          static_cast<const T*>(args.bias.data) + first_channel * args.bias.stride;
#pragma unroll
      for (int i = 0; i < kColumns / 2; ++i) {
        // Columns that are no channels take the last one's and are not stored.
        const int column = min(i / 4 * 8 + own + i % 2, channels - 1);
        const float added = Convert<float>::from(bias[column * args.bias.stride]);
#pragma unroll
        for (int block = 0; block < kBlocks; ++block) sums[block][i] += added;
      }
    }
#pragma unroll
    for (int block = 0; block < kBlocks; ++block)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const Position in_tile(args, row_of(warp, block, half, lane));
        const int at[3] = {item.first[0] + in_tile.d, item.first[1] + in_tile.h,
                           item.first[2] + in_tile.w};
        bool exists = in_tile.exists;
        int64_t offset = 0;
#pragma unroll
        for (int a = 0; a < 3; ++a) {
          const int to = plan.axes[a].result_step * at[a] + item.plane[a];
          exists = exists && to < plan.axes[a].result_extent;
          offset += to * args.result.stride[a + 2];
        }
        if (!exists) continue;
        T* to = result + offset;
        const int left_channels = channels - own;
#pragma unroll
        for (int j = 0; j < kColumns / 8; ++j, to += 8 * channel_stride)
#pragma unroll
          for (int e = 0; e < 2; ++e)
            if (8 * j + e < left_channels)
              to[e * channel_stride] = Convert<T>::from(sums[block][4 * j + 2 * half + e]);
      }
  }
};

template <typename T, int kColumns, int kBlocks, bool kExact>
__global__ void __launch_bounds__(kCopiedThreads, 1)
    gathered_data_kernel(const __grid_constant__ GatheredDataArguments args) {
#ifdef CONVT3D_HAS_WGMMA
  extern __shared__ __align__(1024) char base[];
  const GatheredDataShared shared(base, args);
  if (threadIdx.x == 0) {
    for (int slot = 0; slot < args.plan.box_slots; ++slot) {
      barrier_init(shared.box_full(slot), 1);
      barrier_init(shared.box_empty(slot), kGatheredDataWarps);
    }
    for (int slot = 0; slot < args.plan.stages; ++slot) {
      barrier_init(shared.stage_full(slot), 1);
      barrier_init(shared.stage_empty(slot), kGatheredDataWarps);
    }
    fence_barrier_init();
  }
  const GatheredDataPlan& plan = args.plan;
  const int all_taps = plan.axes[0].taps() * args.taps_h.value() * args.taps_w.value();
  for (int i = threadIdx.x; i < all_taps; i += kCopiedThreads) {
    int place[3] = {i};
    place[2] = args.taps_w.take(place[0]);
    place[1] = args.taps_h.take(place[0]);
    uint32_t bytes = 0;
#pragma unroll
    for (int a = 0; a < 3; ++a) bytes += plan.axes[a].offset[place[a]] * args.line_bytes[a];
    store_shared(shared.taps + 4 * listed_at(plan, place), bytes);
  }
  __syncthreads();
  const int warpgroup =
      __shfl_sync(0xffffffffu, static_cast<int>(threadIdx.x) / kWarpgroupThreads, 0);
  if (warpgroup == 2) {
    release_registers<kCopyRegisters>();
    const int thread = static_cast<int>(threadIdx.x) - 2 * kWarpgroupThreads;
    if (thread == 0) load_gathered_boxes(args, shared);
    if (thread == 32) load_gathered_weights(args, shared);
  } else {
    claim_registers<kCopiedMultiplyRegisters>();
    GatheredMultiplier<T, kColumns, kBlocks, kExact> multiplier(args, shared);
    for (unsigned index = blockIdx.x; index < args.sizes.items; index += gridDim.x) {
      const GatheredDataItem item(args, static_cast<int>(index));
      float sums[kBlocks][kColumns / 2];
      multiplier.run(item, sums);
      // Found anew: while products run, sums and fragments take the registers.
      uint32_t same = index;
      pin(same);
      multiplier.store(GatheredDataItem(args, static_cast<int>(same)), sums);
      // The compiler must see all warps together before the next product: see C7520 of ptxas.
      named_barrier(1 + warpgroup, kWarpgroupThreads);
    }
  }
#endif
}

}  // namespace convt3d

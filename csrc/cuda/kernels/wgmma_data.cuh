// Forward and grad_input as an implicit matrix product on Hopper (wgmma, sm_90a).
//
//   rows     positions of a tile in (h, w), of several samples where images are small, at one
//            position of d after the other
//   columns  result channels of one result plane; along w, all planes where lines demand it
//   depth    taps x operand channels
//
//   operand   one plane of depth ("box") after the other is copied into a ring in shared memory, a
//             row per position with its channels side by side. Every tap reads the same box at
//             another row; walking along d, a box serves all taps of depth in turn. Channels that
//             do not fit at once come in chunks: then each column tile has the boxes that its taps
//             read, for each chunk. Where boxes are few, a warpgroup waits for each of them when it
//             comes to its taps, and frees it behind them.
//   weights   one thread copies them, packed by pack_wgmma_weights in the order of consumption,
//             some parts of taps ("stage") at a time into a second ring, or once for good if all
//             fit.
//   products  two warpgroups, or three, kBlocks x 64 positions each, sums in registers. Where
//             results have few channels, all taps along w lie side by side in the columns; what
//             they make of an operand row is then moved to the rows it belongs to
//             (wgmma_data_merge.cuh). Of patches (kernel = stride) those along h, too; there
//             nothing has to be moved.
//   result    channels-last: registers -> global, 16 bytes at a time (packed columns are permuted
//             so that a thread owns neighbouring channels). Contiguous: through shared memory, in
//             runs along w.
//
// A block is persistent and walks over work items. Each result is one fixed sequence of sums:
// chunks, then taps, then channels; of merged taps, one sequence for each tap along w.
#pragma once

#include "wgmma_data_fill.cuh"
#include "wgmma_data_merge.cuh"
#include "wgmma_data_product.cuh"
#include "wgmma_data_store.cuh"

namespace convt3d {

template <typename T, int kColumns, int kPlanes, int kBlocks, int kMergedTaps, int kLines,
          int kWarpgroups, bool kChannelsLast>
__device__ __forceinline__ void consume(const WgmmaDataArguments& args, const WgmmaShared& shared,
                                        int warpgroup) {
  const WgmmaDataSizes& sizes = args.sizes;
  const WindowAxis& d = args.plan.axes[0];
  constexpr bool kMerged = kMergedTaps > 0;
  Consumer<T, kMerged ? kColumns * kMergedTaps : kColumns, kMerged ? 1 : kPlanes, kBlocks> consumer(
      args, shared, warpgroup);
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const TileRow* const rows = shared.rows + warp * 16 * kBlocks;
  uint32_t* const staging = reinterpret_cast<uint32_t*>(shared.staging) +
                            warp * 2 * kStagedChannels * StagedWords<T, kPlanes, kBlocks>::kPitch;

  // In shared memory, because results, while they are stored, take all registers. The block's first
  // one was written with the tables.
  WorkItem& item = shared.items[fill_warps(kWarpgroups) + warp];
  for (unsigned index = blockIdx.x; index < sizes.items;) {
    const WindowAxis &h = args.plan.axes[1], &w = args.plan.axes[2];
    T* const result =
        static_cast<T*>(args.result.data) + item.n * args.result.stride[0] +
        static_cast<int64_t>(item.group) * args.result_channels * args.result.stride[1] +
        h.result_step * item.h * args.result.stride[3] +
        w.result_step * item.w * args.result.stride[4];
    const int first_d = uniform(item.first_d), last_d = uniform(item.last_d);
    const int first_column = uniform(item.first_column), last_column = uniform(item.last_column);
    // The next column tile is asked for before results are stored, which takes longer, where
    // registers are left.
    constexpr bool kEarly =
        kChannelsLast && kBlocks * kColumns * (kMerged ? kMergedTaps : kPlanes) < 256;
    ColumnPlace next = shared.column(first_column);
    for (int t = first_d; t < last_d; ++t) {
#pragma unroll 1
      for (int column = first_column; column < last_column; ++column) {
        const ColumnPlace tile = kEarly ? next : shared.column(column);
        // Column tiles and positions share boxes that hold all channels; of several chunks, each
        // column tile has boxes of its own.
        int leaving = tile.rounds;
        if (sizes.chunks == 1)
          leaving = column < last_column - 1 ? 0 : t < last_d - 1 ? box_advance(d) : d.window;
        consumer.multiply(tile, leaving);
        if constexpr (kEarly)
          next = shared.column(column < last_column - 1 ? column + 1 : first_column);
        // Merged: a slot per tap, of which the first ones get the results. Not in the branch below:
        // see C7511 of ptxas.
        constexpr int kSlots = kMerged ? kMergedTaps : kPlanes;
        auto& results = reinterpret_cast<float (&)[kBlocks][kSlots][kColumns / 2]>(consumer.sums);
        if constexpr (kMerged && kLines == 1) {
          merge_taps<kPlanes>(args.plan.axes[2], results, consumer.lane);
          pin(consumer.sums);
        }
        const int z = d.result_step * t + tile.d;
        if (z < d.result_extent) {
          const int channel = tile.slice * kColumns;
          ResultTile<T> to{result + z * args.result.stride[2] + channel * args.result.stride[1],
                           item.samples,
                           item.h,
                           item.w,
                           tile.h,
                           tile.w,
                           args.result_channels - channel,
                           shared.bias + item.group * sizes.channel_tiles * kColumns + channel};
#pragma unroll
          for (int line = 0; line < kLines; ++line) {
            auto& of_line = reinterpret_cast<decltype(results)>(results[0][line * kPlanes]);
            if constexpr (kLines > 1) to.plane_h = line;
            if constexpr (kChannelsLast)
              store_channels_last<T, kColumns, kPlanes>(args, to, of_line, rows, consumer.lane);
            else
              store_contiguous<kMerged && kLines == 1, T, kColumns, kPlanes>(
                  args, to, of_line, rows, staging, consumer.lane);
          }
        }
        // The compiler must see all warps together before the next product: see C7520 of ptxas.
        named_barrier(1 + warpgroup, kWarpgroupThreads);
      }
      if (sizes.resident) consumer.stay_in_stages();
    }
    index += gridDim.x;
    if (index < sizes.items) {
      __syncwarp();  // all have left the item before
      if (consumer.lane == 0) item = WorkItem(args, static_cast<int>(index));
      __syncwarp();
    }
  }
}

template <typename T, int kColumns, int kPlanes, int kBlocks, int kMergedTaps, int kLines,
          int kWarpgroups, bool kChannelsLast>
__global__ void __launch_bounds__(wgmma_threads(kWarpgroups), 1)
    wgmma_data_kernel(const __grid_constant__ WgmmaDataArguments args) {
#ifdef CONVT3D_HAS_WGMMA
  extern __shared__ __align__(1024) char base[];  // period of the swizzle
  const WgmmaShared shared(base, args);
  constexpr int kFillWarps = fill_warps(kWarpgroups), kConsumerWarps = 4 * kWarpgroups;
  if (threadIdx.x < 32) {
    for (int slot = threadIdx.x; slot < shared.box_slots; slot += 32) {
      barrier_init(shared.box_full(slot), args.plan.fill_run != 0 ? kFillWarps : 1);
      barrier_init(shared.box_empty(slot), kConsumerWarps);
    }
    for (int slot = threadIdx.x; slot < shared.weight_slots; slot += 32) {
      barrier_init(shared.weight_full(slot), 1);
      barrier_init(shared.weight_empty(slot), kConsumerWarps);
    }
    fence_barrier_init();
  }
  __syncthreads();
  const int thread = static_cast<int>(threadIdx.x);
  const int fill_thread = thread - kWarpgroups * kWarpgroupThreads - 32;
  if (thread < kWarpgroups * kWarpgroupThreads) {
    write_consumers_tables<T, kBlocks, kWarpgroups>(args, shared);
    if (thread % 32 == 0)
      shared.items[kFillWarps + thread / 32] = WorkItem(args, static_cast<int>(blockIdx.x));
  } else if (fill_thread >= 0) {
    write_fill_tables<kWarpgroups>(args, shared, fill_thread);
  }
  __syncthreads();  // one for all roles: compute-sanitizer knows no other
  const int warpgroup = __shfl_sync(0xffffffffu, thread / kWarpgroupThreads, 0);
  if (warpgroup >= kWarpgroups) {
    release_registers<producer_registers(kWarpgroups, kChannelsLast)>();
    if (fill_thread < 0)
      load_weights(args, shared);
    else
      produce_boxes<T, kWarpgroups, kChannelsLast>(args, shared, fill_thread);
  } else {
    claim_registers<consumer_registers(kWarpgroups, kChannelsLast)>();
    consume<T, kColumns, kPlanes, kBlocks, kMergedTaps, kLines, kWarpgroups, kChannelsLast>(
        args, shared, warpgroup);
  }
#endif
}

}  // namespace convt3d

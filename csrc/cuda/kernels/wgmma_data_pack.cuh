// Weights as the WGMMA data kernel (wgmma_data.cuh) consumes them: one small kernel per call.
#pragma once

#include "wgmma_data_tables.cuh"

namespace convt3d {

// The channel (within the tile) that a column holds. Channels-last: the columns that a thread's
// sums belong to (8 j + 2 (lane % 4) + e) become neighbours, eight at a time, four in a last half.
__device__ __forceinline__ int channel_of_column(int column, int columns, bool channels_last) {
  if (!channels_last) return column;
  const int base = column / 32 * 32, rest = column % 32;
  const int j = rest / 8, lane = rest / 2 % 4, e = rest % 2;
  const int owned = columns - base >= 32 ? 8 : 4;
  return base + owned * lane + 2 * j + e;
}

constexpr int kPackThreads = 256;

// One thread per 16-byte unit; blockIdx.y counts taps in the tables' order.
template <typename T>
__global__ void __launch_bounds__(kPackThreads)
    pack_wgmma_weights(const __grid_constant__ WgmmaDataArguments args, bool channels_last) {
  const WgmmaDataPlan& plan = args.plan;
  const WindowAxis &d = plan.axes[0], &h = plan.axes[1], &w = plan.axes[2];
  const int columns = plan.columns;
  int rest = blockIdx.x * kPackThreads + threadIdx.x;
  const int column = rest % columns;
  rest /= columns;
  const int unit = rest % plan.chunk_units;
  rest /= plan.chunk_units;
  const int chunk = rest % args.sizes.chunks;
  rest /= args.sizes.chunks;
  const int slice = rest % args.sizes.channel_tiles;
  const int group = rest / args.sizes.channel_tiles;
  if (group >= args.groups) return;

  const TapPlanes tap(plan, blockIdx.y);
  const int stages_per_tap = plan.chunk_units / plan.stage_units;
  const int64_t stage =
      group * args.sizes.stages +
      (first_tap(plan, slice, tap.plane_d, tap.plane_h, tap.plane_w, args.sizes.chunks, chunk) +
       tap.rank) *
          stages_per_tap +
      unit / plan.stage_units;
  const int channel = slice * columns + channel_of_column(column, columns, channels_last);
  constexpr int kElements = kWgmmaUnitElements<T>;
  const int first = (chunk * plan.chunk_units + unit) * kElements;
  const T* weight = static_cast<const T*>(args.weight.data) + group * args.weight_group_stride +
                    channel * args.weight_result_stride + first * args.weight_operand_stride +
                    d.tap[tap.tap_d] * args.weight.stride[2] +
                    h.tap[tap.tap_h] * args.weight.stride[3] +
                    w.tap[tap.tap_w] * args.weight.stride[4];
  alignas(16) T values[kElements];
#pragma unroll
  for (int j = 0; j < kElements; ++j) {
    values[j] = channel < args.result_channels && first + j < args.operand_channels
                    ? weight[j * args.weight_operand_stride]
                    : Convert<T>::from(0.f);
    if constexpr (sizeof(T) == 4)
      values[j] = __uint_as_float(round_to_tf32(__float_as_uint(values[j])));
  }
  *reinterpret_cast<uint4*>(args.packed + stage * args.sizes.stage_bytes +
                            (unit % plan.stage_units * columns + column) * kWgmmaUnitBytes) =
      *reinterpret_cast<const uint4*>(values);
}

}  // namespace convt3d

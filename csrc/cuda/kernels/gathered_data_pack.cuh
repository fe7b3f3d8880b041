// Weights as the gathered data kernel consumes them: for each column tile and result plane the
// steps of its products, each 16-byte units of operand channels x columns, twice; exact: the high
// parts of all, then the low parts.
#pragma once

#include "gathered_data_arguments.h"
#include "mma.cuh"
#include "wgmma.cuh"

namespace convt3d {

constexpr int kGatheredPackThreads = 256;

// A thread makes a unit; neighbouring threads the units of neighbouring steps, whose taps are
// neighbours in memory. blockIdx.y: result planes; blockIdx.z: groups and channel tiles.
template <typename T>
__global__ void __launch_bounds__(kGatheredPackThreads)
    pack_gathered_weights(const __grid_constant__ GatheredDataArguments args) {
#ifdef CONVT3D_HAS_WGMMA
  launch_dependents();
  constexpr int kElements = kWgmmaUnitBytes / static_cast<int>(sizeof(T));
  const GatheredDataPlan& plan = args.plan;
  const GatheredDataSizes& sizes = args.sizes;
  int plane[3], rest = static_cast<int>(blockIdx.y), taps[3], all_taps = 1;
#pragma unroll
  for (int a = 2; a >= 0; --a) {
    plane[a] = args.planes[a].take(rest);
    taps[a] = plan.axes[a].taps_of(plane[a]);
    all_taps *= taps[a];
  }
  const int steps = all_taps * sizes.chunks;
  const int padded = (steps + kGatheredStageSteps - 1) / kGatheredStageSteps * kGatheredStageSteps;
  const auto unit = static_cast<int>(blockIdx.x * kGatheredPackThreads + threadIdx.x);
  if (unit >= padded * 2 * plan.columns) return;
  const int step = unit % padded, half = unit / padded % 2, column = unit / padded / 2;
  int slice = static_cast<int>(blockIdx.z);
  const int tile = slice;
  const int group = slice / sizes.channel_tiles;
  slice -= group * sizes.channel_tiles;
  const int channel = slice * plan.columns + column;
  T values[kElements] = {};
  // Steps behind the last are of channels that do not exist.
  if (channel < args.result_channels) {
    const int chunk = step / all_taps;
    int tap = step - chunk * all_taps;
    const T* from = static_cast<const T*>(args.weight.data) + group * args.weight_group_stride +
                    channel * args.weight_result_stride;
#pragma unroll
    for (int a = 2; a >= 0; --a) {
      const WindowAxis& axis = plan.axes[a];
      from += axis.tap[axis.plane_begin[plane[a]] + tap % taps[a]] * args.weight.stride[a + 2];
      tap /= taps[a];
    }
#pragma unroll
    for (int e = 0; e < kElements; ++e) {
      // The channel that lanes load for this place of the depth.
      const int place = sizeof(T) == 4 ? 2 * e + half : half * kElements + e;
      const int operand_channel = chunk * 2 * kElements + place;
      if (operand_channel < args.operand_channels)
        values[e] = from[operand_channel * args.weight_operand_stride];
    }
  }
  int64_t stage = tile;
#pragma unroll
  for (int a = 0; a < 3; ++a) stage = stage * args.planes[a].value() + plane[a];
  stage *= sizes.plane_stages;
  char* to = args.packed + stage * sizes.stage_bytes + int64_t{step} * sizes.step_bytes +
             (half * plan.columns + column) * kWgmmaUnitBytes;
  uint4 words;
  memcpy(&words, values, sizeof(words));
  if constexpr (sizeof(T) == 4) {
    const auto low = [](uint32_t value, uint32_t high) {
      return round_to_tf32(__float_as_uint(__uint_as_float(value) - __uint_as_float(high)));
    };
    const uint4 high = {round_to_tf32(words.x), round_to_tf32(words.y), round_to_tf32(words.z),
                        round_to_tf32(words.w)};
    if (plan.exact)
      *reinterpret_cast<uint4*>(to + 2 * plan.columns * kWgmmaUnitBytes) = {
          low(words.x, high.x), low(words.y, high.y), low(words.z, high.z), low(words.w, high.w)};
    words = high;
  }
  *reinterpret_cast<uint4*>(to) = words;
#endif
}

}  // namespace convt3d

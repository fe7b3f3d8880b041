// What the blocks of grad_weight (gemm_grad_weight.cuh) work on, and where their results go.
#pragma once

#include <type_traits>

#include "gemm_grad_weight.h"
#include "gemm_grad_weight_fill.cuh"
#include "mma.cuh"
#include "scalar.cuh"

namespace convt3d {

struct GradWeightArguments {
  ContractionAxis axes[3];
  GemmGradWeightSizes sizes;
  FillOperand operands[2];  // still, moving
  int taps_per_block[3];    // groups of taps per axis
  int tap_warps, position_warps, stages;
  bool clear_tiles;  // fills leave channels or positions of the tiles unwritten
  int splits;
  int64_t tiles_per_split;
  // The result, by still channel, moving channel and tap (strides of mirrored taps are negative).
  void* result;
  int64_t result_group_stride, result_still_stride, result_moving_stride, result_tap_stride[3];
  void* workspace;  // FragmentSums; nullptr: write the result
};

// What the blocks with one index compute.
struct GradWeightJob {
  int still_slice, moving_slice, group;
  int first_tap[3], taps[3];
};

__device__ inline GradWeightJob job_at(const GradWeightArguments& args, int index) {
  GradWeightJob job;
  const auto take = [&index](int extent) {
    const int coordinate = index % extent;
    index /= extent;
    return coordinate;
  };
#pragma unroll
  for (int a = 2; a >= 0; --a) {
    const ContractionAxis& axis = args.axes[a];
    job.first_tap[a] = take(args.taps_per_block[a]) * axis.group;
    job.taps[a] = min(axis.group, axis.kernel - job.first_tap[a]);
  }
  job.moving_slice = take(args.sizes.moving_slices);
  job.still_slice = take(args.sizes.still_slices);
  job.group = index;
  return job;
}

// Tap `index` of a job, per axis.
__device__ inline void tap_at(const GradWeightJob& job, int index, int (&tap)[3]) {
  tap[2] = job.first_tap[2] + index % job.taps[2];
  tap[1] = job.first_tap[1] + index / job.taps[2] % job.taps[1];
  tap[0] = job.first_tap[0] + index / job.taps[2] / job.taps[1];
}

// The position tile that is filled next: batch, and tile along each axis.
struct TilePlace {
  int at[4];
  __device__ TilePlace(const ContractionAxis (&axes)[3], int64_t tile) {
#pragma unroll
    for (int a = 2; a >= 0; --a) {
      at[a + 1] = static_cast<int>(tile % axes[a].tiles());
      tile /= axes[a].tiles();
    }
    at[0] = static_cast<int>(tile);
  }
  __device__ void advance(const ContractionAxis (&axes)[3]) {
#pragma unroll
    for (int a = 2; a >= 0; --a) {
      if (++at[a + 1] < axes[a].tiles()) return;
      at[a + 1] = 0;
    }
    ++at[0];
  }
};

// Where the results of tap `index` of a job begin.
__device__ inline int64_t result_of_tap(const GradWeightArguments& args, const GradWeightJob& job,
                                        int index) {
  int tap[3];
  tap_at(job, index, tap);
  return job.group * args.result_group_stride + tap[0] * args.result_tap_stride[0] +
         tap[1] * args.result_tap_stride[1] + tap[2] * args.result_tap_stride[2];
}

// The four sums that a lane holds of one 16 x 8 fragment.
struct alignas(16) DoubleSums {
  double x, y, z, w;
};
template <typename T>
using FragmentSums = std::conditional_t<sizeof(T) == 8, DoubleSums, float4>;

// Writes them, of the tap whose results begin at `at`.
template <typename T>
__device__ void write_fragment(const GradWeightArguments& args, int64_t at, int still_channel,
                               int moving_channel, FragmentSums<T> sum) {
  const int lane = threadIdx.x % 32;
  still_channel += lane / 4;
  moving_channel += lane % 4 * 2;
  T* result = static_cast<T*>(args.result) + at + still_channel * args.result_still_stride +
              moving_channel * args.result_moving_stride;
  const Accumulator<T> value[4] = {sum.x, sum.y, sum.z, sum.w};
#pragma unroll
  for (int e = 0; e < 4; ++e) {
    if (still_channel + e / 2 * 8 < args.sizes.still_channels &&
        moving_channel + e % 2 < args.sizes.moving_channels)
      result[e / 2 * 8 * args.result_still_stride + e % 2 * args.result_moving_stride] =
          Convert<T>::from(value[e]);
  }
}

}  // namespace convt3d

// From plans to instances of the im2col kernels: included by one file per dtype.
#pragma once

#include <algorithm>
#include <type_traits>

#include "im2col_forward.cuh"
#include "im2col_grad_input.cuh"
#include "im2col_grad_weight.cuh"
#include "launch.cuh"

namespace convt3d {

template <typename T, int kTiles, bool kChannelsLast, bool kAccurate>
cudaError_t launch_im2col_instance(const Im2colArguments& args, Im2colPass pass, int groups,
                                   int multiprocessors, cudaStream_t stream) {
  const auto height = static_cast<unsigned>(groups);
  const auto launch = [&](auto kernel, int64_t blocks) {
    const cudaError_t status = cudaFuncSetAttribute(
        kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, args.sizes.shared_bytes);
    if (status != cudaSuccess) return status;
    return launch_kernel(kernel, dim3(static_cast<unsigned>(blocks), height), kIm2colThreads,
                         args.sizes.shared_bytes, stream, args);
  };
  const int64_t persistent =
      std::min<int64_t>(args.sizes.items, int64_t{multiprocessors} * args.plan.blocks);
  if (pass == Im2colPass::kGradInput)
    return launch(im2col_grad_input_kernel<T, kTiles, kChannelsLast, kAccurate>, persistent);
  if constexpr (kTiles <= 8) {
    if (pass == Im2colPass::kForward)
      return launch(im2col_forward_kernel<T, kTiles, kChannelsLast, kAccurate>, persistent);
    const cudaError_t status =
        launch(im2col_grad_weight_kernel<T, kTiles, kChannelsLast, kAccurate>,
               int64_t{args.plan.splits} * args.sizes.channel_blocks);
    if (status != cudaSuccess) return status;
    const auto fragments = height * static_cast<unsigned>(args.sizes.channel_blocks *
                                                          args.plan.channel_warps * 2 * kTiles);
    return launch_kernel(im2col_sum_kernel<T, kChannelsLast>, fragments, 32 * kIm2colSumWarps, 0,
                         stream, args);
  }
  return cudaErrorInvalidValue;
}

template <typename T, bool kAccurate>
cudaError_t launch_im2col_typed(const Im2colArguments& args, Im2colPass pass, bool channels_last,
                                int groups, int multiprocessors, cudaStream_t stream) {
  const auto launch = [&](auto tiles) {
    constexpr int kTiles = decltype(tiles)::value;
    return channels_last ? launch_im2col_instance<T, kTiles, true, kAccurate>(
                               args, pass, groups, multiprocessors, stream)
                         : launch_im2col_instance<T, kTiles, false, kAccurate>(
                               args, pass, groups, multiprocessors, stream);
  };
  if (args.plan.tiles == 8) return launch(std::integral_constant<int, 8>{});
  if constexpr (sizeof(T) == 2) {
    if (args.plan.tiles == 12) return launch(std::integral_constant<int, 12>{});
    if (args.plan.tiles == 20) return launch(std::integral_constant<int, 20>{});
  }
  return cudaErrorInvalidValue;
}

}  // namespace convt3d

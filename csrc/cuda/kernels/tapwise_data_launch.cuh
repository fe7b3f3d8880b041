// Instances of the tapwise kernel and their launch; included once per storage type.
#pragma once

#include "launch.cuh"
#include "tapwise_data.cuh"

namespace convt3d {

template <typename T, bool kForward>
cudaError_t launch_tapwise_typed(const TapwiseArguments& args, int blocks, cudaStream_t stream) {
  cudaError_t status = cudaErrorInvalidValue;
  const auto launch = [&]<int kIndex>(std::integral_constant<int, kIndex>) {
    constexpr TapwiseShape kShape = kTapwiseShapes[kIndex];
    if (kShape.columns != args.plan.columns || kShape.blocks != args.plan.blocks) return;
    if constexpr (exists(kShape, kWgmmaUnitBytes / static_cast<int>(sizeof(T)))) {
      const auto kernel = tapwise_data_kernel<T, kShape.columns, kShape.blocks, kForward>;
      status = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                    args.sizes.shared_bytes);
      if (status == cudaSuccess)
        status = launch_kernel(kernel, static_cast<unsigned>(blocks), kCopiedThreads,
                               args.sizes.shared_bytes, stream, args);
    }
  };
  launch(std::integral_constant<int, 0>{});
  launch(std::integral_constant<int, 1>{});
  launch(std::integral_constant<int, 2>{});
  launch(std::integral_constant<int, 3>{});
  return status;
}

}  // namespace convt3d

// Instances of the gathered data kernel and their launch; included once per storage type.
#pragma once

#include <type_traits>

#include "gathered_data.cuh"
#include "gathered_data_pack.cuh"
#include "launch.cuh"

namespace convt3d {

template <typename T, bool kExact>
cudaError_t launch_gathered_data_typed(const GatheredDataArguments& args, int blocks,
                                       cudaStream_t stream) {
  const GatheredDataSizes& sizes = args.sizes;
  const int most_units = sizes.plane_stages * kGatheredStageSteps * 2 * args.plan.columns;
  const dim3 packers(
      static_cast<unsigned>((most_units + kGatheredPackThreads - 1) / kGatheredPackThreads),
      static_cast<unsigned>(sizes.planes),
      static_cast<unsigned>(args.groups * sizes.channel_tiles));
  cudaError_t status =
      launch_kernel(pack_gathered_weights<T>, packers, kGatheredPackThreads, 0, stream, args);
  if (status != cudaSuccess) return status;
  status = cudaErrorInvalidValue;
  const auto launch = [&]<int kIndex>(std::integral_constant<int, kIndex>) {
    constexpr GatheredShape kShape = kGatheredShapes[kIndex];
    if (kShape.columns != args.plan.columns || kShape.blocks != args.plan.blocks) return;
    if constexpr (exists(kShape, kExact)) {
      const auto kernel = gathered_data_kernel<T, kShape.columns, kShape.blocks, kExact>;
      status = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                    sizes.shared_bytes);
      if (status == cudaSuccess)
        status = launch_kernel(kernel, static_cast<unsigned>(blocks), kCopiedThreads,
                               sizes.shared_bytes, stream, PreviousKernel::kOverlaps, args);
    }
  };
  launch(std::integral_constant<int, 0>{});
  launch(std::integral_constant<int, 1>{});
  launch(std::integral_constant<int, 2>{});
  launch(std::integral_constant<int, 3>{});
  launch(std::integral_constant<int, 4>{});
  return status;
}

}  // namespace convt3d

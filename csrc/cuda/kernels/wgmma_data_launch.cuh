// Instances of the WGMMA data kernel and their launch; included once per storage type and
// layout of the result.
#pragma once

#include <iterator>
#include <utility>

#include "launch.cuh"
#include "wgmma_data.cuh"
#include "wgmma_data_pack.cuh"
#include "wgmma_shapes.h"

namespace convt3d {

template <typename T, bool kChannelsLast, int kIndex>
cudaError_t launch_wgmma_shape(const WgmmaDataArguments& args, int blocks, cudaStream_t stream) {
  constexpr WgmmaShape kShape =
      kChannelsLast ? kWgmmaShapesChannelsLast[kIndex] : kWgmmaShapesContiguous[kIndex];
  if constexpr (exists(kShape, kWgmmaUnitElements<T>)) {
    const auto kernel =
        wgmma_data_kernel<T, kShape.columns, kShape.w_planes, kShape.blocks, kShape.merged_taps,
                          kShape.h_planes, kShape.warpgroups, kChannelsLast>;
    const cudaError_t status = cudaFuncSetAttribute(
        kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, args.sizes.shared_bytes);
    if (status != cudaSuccess) return status;
    // Starts, writes its tables and fills its first boxes while the weights are being packed.
    return launch_kernel(kernel, static_cast<unsigned>(blocks), wgmma_threads(kShape.warpgroups),
                         args.sizes.shared_bytes, stream, PreviousKernel::kOverlaps, args);
  } else {
    return cudaErrorInvalidValue;
  }
}

template <typename T, bool kChannelsLast, size_t... kIndex>
cudaError_t find_wgmma_shape(const WgmmaDataArguments& args, int blocks, cudaStream_t stream,
                             std::index_sequence<kIndex...>) {
  cudaError_t status = cudaErrorInvalidValue;
  (void)((matches(kChannelsLast ? kWgmmaShapesChannelsLast[kIndex] : kWgmmaShapesContiguous[kIndex],
                  args.plan) &&
          (status = launch_wgmma_shape<T, kChannelsLast, kIndex>(args, blocks, stream), true)) ||
         ...);
  return status;
}

template <typename T, bool kChannelsLast>
cudaError_t launch_wgmma_typed(const WgmmaDataArguments& args, int blocks, cudaStream_t stream) {
  const cudaError_t status = launch_pack_wgmma_weights<T>(args, kChannelsLast, stream);
  if (status != cudaSuccess) return status;
  constexpr size_t kShapes =
      kChannelsLast ? std::size(kWgmmaShapesChannelsLast) : std::size(kWgmmaShapesContiguous);
  return find_wgmma_shape<T, kChannelsLast>(args, blocks, stream,
                                            std::make_index_sequence<kShapes>{});
}

}  // namespace convt3d

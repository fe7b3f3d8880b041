// Instances of the WGMMA data kernel and their launch; included once per storage type.
#pragma once

#include <iterator>
#include <utility>

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
        wgmma_data_kernel<T, kShape.columns, kShape.w_planes, kShape.blocks, kChannelsLast>;
    const cudaError_t status = cudaFuncSetAttribute(
        kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, args.sizes.shared_bytes);
    if (status != cudaSuccess) return status;
    kernel<<<blocks, kWgmmaThreads, args.sizes.shared_bytes, stream>>>(args);
    return cudaGetLastError();
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
  const WgmmaDataPlan& plan = args.plan;
  const int64_t units = static_cast<int64_t>(args.groups) * args.sizes.channel_tiles *
                        args.sizes.chunks * plan.chunk_units * plan.columns;
  const dim3 grid(static_cast<unsigned>((units + kPackThreads - 1) / kPackThreads),
                  static_cast<unsigned>(args.sizes.taps));
  pack_wgmma_weights<T><<<grid, kPackThreads, 0, stream>>>(args, kChannelsLast);
  const cudaError_t status = cudaGetLastError();
  if (status != cudaSuccess) return status;
  constexpr size_t kShapes =
      kChannelsLast ? std::size(kWgmmaShapesChannelsLast) : std::size(kWgmmaShapesContiguous);
  return find_wgmma_shape<T, kChannelsLast>(args, blocks, stream,
                                            std::make_index_sequence<kShapes>{});
}

}  // namespace convt3d

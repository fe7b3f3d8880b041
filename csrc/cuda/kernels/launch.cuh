// Kernel launches as plain function calls: kernel<<<...>>> is no C++, and the tests also compile
// these files with an ordinary compiler, for an emulated device.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>

namespace convt3d {

// Of the kernel before in the stream: with `kOverlaps`, the launched one may start before it has
// ended (programmatic dependent launch) and waits for its results itself.
enum class PreviousKernel { kEnds, kOverlaps };

template <typename... Parameters, typename... Arguments>
cudaError_t launch_kernel(void (*kernel)(Parameters...), dim3 blocks, int threads, int shared_bytes,
                          cudaStream_t stream, PreviousKernel previous,
                          const Arguments&... arguments) {
  cudaLaunchAttribute early{};
  early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  early.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t launch{};
  launch.gridDim = blocks;
  launch.blockDim = dim3(static_cast<unsigned>(threads));
  launch.dynamicSmemBytes = static_cast<size_t>(shared_bytes);
  launch.stream = stream;
  launch.attrs = &early;
  launch.numAttrs = previous == PreviousKernel::kOverlaps;
  return cudaLaunchKernelEx(&launch, kernel, arguments...);
}
template <typename... Parameters, typename... Arguments>
cudaError_t launch_kernel(void (*kernel)(Parameters...), dim3 blocks, int threads, int shared_bytes,
                          cudaStream_t stream, const Arguments&... arguments) {
  return launch_kernel(kernel, blocks, threads, shared_bytes, stream, PreviousKernel::kEnds,
                       arguments...);
}

}  // namespace convt3d

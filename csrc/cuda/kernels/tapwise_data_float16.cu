#include "tapwise_data_launch.cuh"

namespace convt3d {
template cudaError_t launch_tapwise_typed<__half, true>(const TapwiseArguments&, int, cudaStream_t);
template cudaError_t launch_tapwise_typed<__half, false>(const TapwiseArguments&, int,
                                                         cudaStream_t);
}  // namespace convt3d

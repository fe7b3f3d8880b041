#include "wgmma_data_launch.cuh"

namespace convt3d {
template cudaError_t launch_wgmma_typed<float, false>(const WgmmaDataArguments&, int, cudaStream_t);
}  // namespace convt3d

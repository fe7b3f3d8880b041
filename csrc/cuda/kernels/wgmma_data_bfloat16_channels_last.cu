#include "wgmma_data_launch.cuh"

namespace convt3d {
template cudaError_t launch_wgmma_typed<__nv_bfloat16, true>(const WgmmaDataArguments&, int,
                                                             cudaStream_t);
}  // namespace convt3d

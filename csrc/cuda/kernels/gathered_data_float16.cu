#include "gathered_data_launch.cuh"

namespace convt3d {
template cudaError_t launch_gathered_data_typed<__half, false>(const GatheredDataArguments&, int,
                                                               cudaStream_t);
}  // namespace convt3d

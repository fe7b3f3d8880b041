#include "gemm_data.cuh"

namespace convt3d {
template cudaError_t launch_gemm_data_typed<double>(const GemmDataArguments&, cudaStream_t);
}  // namespace convt3d

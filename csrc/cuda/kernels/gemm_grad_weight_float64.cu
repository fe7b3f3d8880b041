#include "gemm_grad_weight.cuh"

namespace convt3d {
template cudaError_t launch_gemm_grad_weight_typed<double, true>(const GradWeightArguments&, int,
                                                                 int, bool, cudaStream_t);
}  // namespace convt3d

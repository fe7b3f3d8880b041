#include "tf32_grad_weight.cuh"

namespace convt3d {
template cudaError_t launch_tf32_grad_weight_of<true>(const Tf32GradWeightArguments&,
                                                      cudaStream_t);
}  // namespace convt3d

#include "tapwise_grad_weight.cuh"

namespace convt3d {
template cudaError_t launch_tapwise_grad_weight_typed<__half>(const TapwiseGradWeightArguments&,
                                                              int, cudaStream_t);
}  // namespace convt3d

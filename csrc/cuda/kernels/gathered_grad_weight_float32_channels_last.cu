#include "gathered_grad_weight.cuh"

namespace convt3d {
template cudaError_t launch_gathered_grad_weight_of<float, true>(const GatheredGradWeightArguments&,
                                                                 cudaStream_t);
}  // namespace convt3d

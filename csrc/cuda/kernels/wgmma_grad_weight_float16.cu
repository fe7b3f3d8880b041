#include "wgmma_grad_weight.cuh"

namespace convt3d {
template cudaError_t launch_wgmma_grad_weight_typed<__half>(const WgmmaGradWeightArguments&,
                                                            cudaStream_t);
}  // namespace convt3d

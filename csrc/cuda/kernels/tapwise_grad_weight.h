// grad_weight on Hopper's tensor cores, a box of grad_output for each tap (launch interface).
#pragma once

#include <cuda_runtime_api.h>

#include "tapwise_grad_weight_sizes.h"

namespace convt3d {

// Enqueues the product on `stream`; `workspace`: workspace_bytes, 16-byte aligned. For kFloat16 and
// kBFloat16, on compute capability 9.0; channels of both operands are neighbours in memory, and so
// are the gradient's output channels.
cudaError_t launch_tapwise_grad_weight(const Problem& problem, DataType type,
                                       const TapwiseGradWeightPlan& plan, TensorPointer grad_output,
                                       TensorPointer input, TensorPointer grad_weight,
                                       void* workspace, int multiprocessors, cudaStream_t stream);

}  // namespace convt3d

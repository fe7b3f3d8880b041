// Depthwise and other groups of few channels on CUDA cores, at the speed of memory (launch
// interface).
#pragma once

#include <cuda_runtime_api.h>

#include "depthwise_plan.h"
#include "tensors.h"
#include "tile_geometry.h"

namespace convt3d {

// forward or grad_input, any strides. For kFloat16, kBFloat16 and kFloat32. The sums of a result do
// not depend on the batch or on memory.
cudaError_t launch_depthwise_data(const Problem& problem, Pass pass, DataType type,
                                  const DepthwisePlan& plan, TensorPointer operand,
                                  TensorPointer weight, VectorPointer bias, TensorPointer result,
                                  cudaStream_t stream);

// grad_weight where plan.shape is not kAny. `workspace` has so many bytes, 4-byte aligned: partial
// sums, which are added in a fixed order.
int64_t depthwise_grad_weight_workspace(const Problem& problem, DataType type,
                                        const DepthwisePlan& plan, const TensorPointer& grad_output,
                                        const TensorPointer& input);
cudaError_t launch_depthwise_grad_weight(const Problem& problem, DataType type,
                                         const DepthwisePlan& plan, TensorPointer grad_output,
                                         TensorPointer input, TensorPointer grad_weight,
                                         void* workspace, cudaStream_t stream);

}  // namespace convt3d

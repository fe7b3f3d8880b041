// grad_weight on tensor cores, for compute capability 8.0 and later (launch interface).
#pragma once

#include <cuda_runtime_api.h>

#include "gemm_grad_weight_sizes.h"

namespace convt3d {

// Whether the device that is current, and this build, have kernels with warp roles.
bool has_warp_roles();

// Enqueues the product and, where there are several partial results, their sum in fixed order.
// `workspace` has workspace_bytes, 16-byte aligned. For real floating types only; products of
// float32 are three TF32 products each, which keeps its order of error.
cudaError_t launch_gemm_grad_weight(const Problem& problem, DataType type,
                                    const GemmGradWeightPlan& plan, TensorPointer grad_output,
                                    TensorPointer input, TensorPointer grad_weight, bool allow_tf32,
                                    void* workspace, cudaStream_t stream);

}  // namespace convt3d

// grad_weight of float32 as TF32 on Hopper's tensor cores (launch interface).
#pragma once

#include "direct.h"
#include "tf32_grad_weight_sizes.h"

namespace convt3d {

// Enqueues the product and, where there are several partial results, their sum in fixed order.
// `workspace` has workspace_bytes, 16-byte aligned. On compute capability 9.0.
cudaError_t launch_tf32_grad_weight(const Problem& problem, const Tf32GradWeightPlan& plan,
                                    TensorPointer grad_output, TensorPointer input,
                                    TensorPointer grad_weight, void* workspace,
                                    cudaStream_t stream);

}  // namespace convt3d

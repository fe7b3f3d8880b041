// grad_weight on Hopper's tensor cores, its left operand gathered into registers: of float32 as
// TF32, and of 16 bits where w is fastest (launch interface).
#pragma once

#include "direct.h"
#include "gathered_grad_weight_sizes.h"

namespace convt3d {

// Enqueues the product and, where there are several partial results, their sum in fixed order.
// `workspace` has workspace_bytes, 16-byte aligned. On compute capability 9.0.
cudaError_t launch_gathered_grad_weight(const Problem& problem, DataType type,
                                        const GatheredGradWeightPlan& plan,
                                        TensorPointer grad_output, TensorPointer input,
                                        TensorPointer grad_weight, void* workspace,
                                        cudaStream_t stream);

}  // namespace convt3d

// grad_weight on Hopper's tensor cores, for float16 and bfloat16 (launch interface).
#pragma once

#include "direct.h"
#include "wgmma_grad_weight_sizes.h"

namespace convt3d {

// Enqueues the product and, where there are several partial results, their sum in fixed order.
// `workspace` has workspace_bytes, 16-byte aligned. For kFloat16 and kBFloat16 on compute
// capability 9.0; where the copy engine fills, both operands channels-last with 16-byte aligned
// channels.
cudaError_t launch_wgmma_grad_weight(const Problem& problem, DataType type,
                                     const WgmmaGradWeightPlan& plan, TensorPointer grad_output,
                                     TensorPointer input, TensorPointer grad_weight,
                                     void* workspace, cudaStream_t stream);

}  // namespace convt3d

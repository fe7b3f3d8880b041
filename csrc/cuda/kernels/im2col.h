// Forward, grad_input and grad_weight where results have few channels (im2col_plan.h).
#pragma once

#include <cuda_runtime_api.h>

#include "im2col_plan.h"

namespace convt3d {

cudaError_t launch_im2col_data(const Problem& problem, Pass pass, DataType type,
                               const Im2colPlan& plan, TensorPointer operand, TensorPointer weight,
                               VectorPointer bias, TensorPointer result, bool allow_tf32,
                               int multiprocessors, cudaStream_t stream);

// `workspace`: Im2colSizes::workspace_bytes.
cudaError_t launch_im2col_grad_weight(const Problem& problem, DataType type, const Im2colPlan& plan,
                                      TensorPointer grad_output, TensorPointer input,
                                      TensorPointer grad_weight, bool allow_tf32, void* workspace,
                                      cudaStream_t stream);

}  // namespace convt3d

// Forward and grad_input on Hopper's tensor cores, a box of the operand for each tap (launch
// interface).
#pragma once

#include <cuda_runtime_api.h>

#include "tapwise_data_sizes.h"

namespace convt3d {

// Enqueues the product on `stream`; `workspace`: workspace_bytes, 16-byte aligned. For kFloat16,
// kBFloat16, and grad_input of kFloat32 rounded to TF32, on compute capability 9.0; channels of
// operand and result are neighbours in memory, and so are the weight's output channels.
cudaError_t launch_tapwise_data(const Problem& problem, Pass pass, DataType type,
                                const TapwisePlan& plan, TensorPointer operand,
                                TensorPointer weight, VectorPointer bias, TensorPointer result,
                                void* workspace, int multiprocessors, cudaStream_t stream);

}  // namespace convt3d

// Forward and grad_input of contiguous tensors on Hopper's tensor cores, operands gathered from
// shared memory into registers (launch interface).
#pragma once

#include <cuda_runtime_api.h>

#include "gathered_data_sizes.h"

namespace convt3d {

// Enqueues the packing of the weights into `scratch` (packed_bytes, 16-byte aligned), then the
// product, on `stream`. For kFloat16, kBFloat16 and kFloat32, on compute capability 9.0; the
// operand's width is its fastest dimension and all its strides are multiples of 16 bytes.
cudaError_t launch_gathered_data(const Problem& problem, Pass pass, DataType type,
                                 const GatheredDataPlan& plan, TensorPointer operand,
                                 TensorPointer weight, VectorPointer bias, TensorPointer result,
                                 void* scratch, int multiprocessors, cudaStream_t stream);

}  // namespace convt3d

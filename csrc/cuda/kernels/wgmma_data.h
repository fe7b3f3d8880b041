// Forward and grad_input on Hopper's tensor cores, for float16, bfloat16 and float32 in TF32
// (launch interface).
#pragma once

#include <cuda_runtime_api.h>

#include "wgmma_data_sizes.h"

namespace convt3d {

// Packs the weights into `scratch` (packed_bytes, 16-byte aligned) and runs the product; both are
// enqueued on `stream`. For kFloat16, kBFloat16, and kFloat32 rounded to TF32, on compute
// capability 9.0.
cudaError_t launch_wgmma_data(const Problem& problem, Pass pass, DataType type,
                              const WgmmaDataPlan& plan, TensorPointer operand,
                              TensorPointer weight, VectorPointer bias, TensorPointer result,
                              void* scratch, int multiprocessors, cudaStream_t stream);

}  // namespace convt3d

// Forward and grad_input on tensor cores, for compute capability 8.0 and later (launch interface).
#pragma once

#include <cuda_runtime_api.h>

#include "gemm_data_sizes.h"

namespace convt3d {

// Packs the weights into `scratch` (gemm_data_sizes().scratch_bytes, 16-byte aligned) and runs the
// product; both are enqueued on `stream`. For real floating types only; float32 products are three
// TF32 products each, which keeps float32's order of error.
cudaError_t launch_gemm_data(const Problem& problem, Pass pass, DataType type,
                             const GemmDataPlan& plan, TensorPointer operand, TensorPointer weight,
                             VectorPointer bias, TensorPointer result, bool allow_tf32,
                             void* scratch, cudaStream_t stream);

}  // namespace convt3d

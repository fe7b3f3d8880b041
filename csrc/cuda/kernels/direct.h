// Direct kernels: any shape, any strides, every dtype, no tensor cores. The fallback for what no
// faster kernel takes, and the oracle that faster kernels are compared with on the device.
#pragma once

#include <cuda_runtime_api.h>

#include "../../geometry.h"
#include "tensor_pointer.h"

namespace convt3d {

// Each enqueues one kernel on `stream` and returns cudaGetLastError().
cudaError_t launch_direct_forward(const Problem& problem, DataType type, TensorPointer input,
                                  TensorPointer weight, VectorPointer bias, TensorPointer output,
                                  cudaStream_t stream);
cudaError_t launch_direct_grad_input(const Problem& problem, DataType type,
                                     TensorPointer grad_output, TensorPointer weight,
                                     TensorPointer grad_input, cudaStream_t stream);
cudaError_t launch_direct_grad_weight(const Problem& problem, DataType type,
                                      TensorPointer grad_output, TensorPointer input,
                                      TensorPointer grad_weight, cudaStream_t stream);

}  // namespace convt3d

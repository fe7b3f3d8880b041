// The CUDA implementation's torch side: checks, allocation, device and stream, then a launch.
#include <cuda_runtime_api.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/macros.h>

#include <algorithm>
#include <stdexcept>
#include <string>

#include "../operators.h"
#include "kernels/direct.h"

namespace convt3d {
namespace {

using torch::stable::accelerator::DeviceGuard;

DataType data_type_of(const Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case ScalarType::Half:
      return DataType::kFloat16;
    case ScalarType::BFloat16:
      return DataType::kBFloat16;
    case ScalarType::Float:
      return DataType::kFloat32;
    case ScalarType::Double:
      return DataType::kFloat64;
    case ScalarType::ComplexHalf:
      return DataType::kComplex32;
    case ScalarType::ComplexFloat:
      return DataType::kComplex64;
    case ScalarType::ComplexDouble:
      return DataType::kComplex128;
    default:
      throw std::runtime_error("convt3d: dtype without a CUDA kernel");
  }
}

// Five strides; an unbatched activation gets a batch stride of 0.
TensorPointer pointer_to(const Tensor& tensor) {
  TensorPointer pointer{tensor.data_ptr(), {}};
  const auto strides = tensor.strides();
  std::copy_backward(strides.begin(), strides.end(), pointer.stride.end());
  return pointer;
}

// The current stream of the tensor's device, once that device is known to run these kernels.
cudaStream_t stream_for(const Tensor& tensor) {
  const int device = tensor.get_device_index();
  int major = 0, minor = 0;
  STD_CUDA_CHECK(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device));
  STD_CUDA_CHECK(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device));
  if (10 * major + minor < CONVT3D_MIN_COMPUTE_CAPABILITY)
    throw std::runtime_error("convt3d was built for GPUs of compute capability " +
                             std::to_string(CONVT3D_MIN_COMPUTE_CAPABILITY / 10) + "." +
                             std::to_string(CONVT3D_MIN_COMPUTE_CAPABILITY % 10) +
                             " and newer, but cuda:" + std::to_string(device) + " has " +
                             std::to_string(major) + "." + std::to_string(minor));
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device, &stream));
  return static_cast<cudaStream_t>(stream);
}

Tensor forward(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias,
               const Sizes& stride, const Sizes& padding, const Sizes& output_padding,
               int64_t groups, const Sizes& dilation) {
  const Problem problem =
      check_forward(input, weight, bias, {stride, padding, output_padding, groups, dilation});
  const DeviceGuard guard(input.get_device_index());
  const cudaStream_t queue = stream_for(input);
  Tensor output = allocate(problem.output_size(), result_is_channels_last(input, weight), input);
  const VectorPointer bias_pointer =
      bias ? VectorPointer{bias->data_ptr(), bias->stride(0)} : VectorPointer{nullptr, 0};
  STD_CUDA_CHECK(launch_direct_forward(problem, data_type_of(input), pointer_to(input),
                                       pointer_to(weight), bias_pointer, pointer_to(output),
                                       queue));
  return output;
}

Tensor grad_input(const Tensor& grad_output, const Tensor& weight, const Sizes& stride,
                  const Sizes& padding, const Sizes& output_padding, int64_t groups,
                  const Sizes& dilation) {
  const Problem problem =
      check_grad_input(grad_output, weight, {stride, padding, output_padding, groups, dilation});
  const DeviceGuard guard(grad_output.get_device_index());
  const cudaStream_t queue = stream_for(grad_output);
  Tensor result =
      allocate(problem.input_size(), result_is_channels_last(grad_output, weight), grad_output);
  STD_CUDA_CHECK(launch_direct_grad_input(problem, data_type_of(grad_output),
                                          pointer_to(grad_output), pointer_to(weight),
                                          pointer_to(result), queue));
  return result;
}

Tensor grad_weight(const Tensor& grad_output, const Tensor& input, const Sizes& stride,
                   const Sizes& padding, const Sizes& output_padding, int64_t groups,
                   const Sizes& dilation) {
  const Problem problem =
      check_grad_weight(grad_output, input, {stride, padding, output_padding, groups, dilation});
  const DeviceGuard guard(grad_output.get_device_index());
  const cudaStream_t queue = stream_for(grad_output);
  Tensor result =
      allocate(problem.weight_size(), result_is_channels_last(grad_output, input), grad_output);
  STD_CUDA_CHECK(launch_direct_grad_weight(problem, data_type_of(grad_output),
                                           pointer_to(grad_output), pointer_to(input),
                                           pointer_to(result), queue));
  return result;
}

}  // namespace
}  // namespace convt3d

STABLE_TORCH_LIBRARY_IMPL(convt3d, CUDA, m) {
  m.impl("forward", TORCH_BOX(&convt3d::forward));
  m.impl("grad_input", TORCH_BOX(&convt3d::grad_input));
  m.impl("grad_weight", TORCH_BOX(&convt3d::grad_weight));
}

// The CUDA implementation's torch side: checks, allocation, device and stream, then an engine.
#include <cuda_runtime_api.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/macros.h>

#include <algorithm>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>

#include "../operators.h"
#include "engines.h"
#include "kernels/gemm_grad_weight.h"
#include "precision.h"

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

int attribute(cudaDeviceAttr name, int device) {
  int value = 0;
  STD_CUDA_CHECK(cudaDeviceGetAttribute(&value, name, device));
  return value;
}

void require_capability(int device) {
  const int major = attribute(cudaDevAttrComputeCapabilityMajor, device);
  const int minor = attribute(cudaDevAttrComputeCapabilityMinor, device);
  if (10 * major + minor < CONVT3D_MIN_COMPUTE_CAPABILITY)
    throw std::runtime_error("convt3d was built for GPUs of compute capability " +
                             std::to_string(CONVT3D_MIN_COMPUTE_CAPABILITY / 10) + "." +
                             std::to_string(CONVT3D_MIN_COMPUTE_CAPABILITY % 10) +
                             " and newer, but cuda:" + std::to_string(device) + " has " +
                             std::to_string(major) + "." + std::to_string(minor));
}

cudaStream_t current_stream(int device) {
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device, &stream));
  return static_cast<cudaStream_t>(stream);
}

// Asked anew in every call: has_warp_roles() also makes the device's context current in a new
// thread (autograd's, say), which describing tensors to the copy engine needs.
Device limits_of(int device) {
  return {attribute(cudaDevAttrMultiProcessorCount, device),
          attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, device),
          attribute(cudaDevAttrMaxSharedMemoryPerMultiprocessor, device), has_warp_roles()};
}

// forward (operand: input) or grad_input (operand: grad_output).
Tensor run_data_pass(const Problem& problem, Pass pass, const Tensor& operand, const Tensor& weight,
                     const std::optional<Tensor>& bias, std::string_view engine) {
  require_data_engine(engine);
  const int device = operand.get_device_index();
  const DeviceGuard guard(device);
  require_capability(device);
  const bool forward = pass == Pass::kForward;
  Tensor result = allocate(forward ? problem.output_size() : problem.input_size(),
                           result_is_channels_last(operand, weight), operand);
  if (result.numel() == 0) return result;
  run(DataCall{.problem = problem,
               .pass = pass,
               .type = data_type_of(operand),
               .operand = pointer_to(operand),
               .weight = pointer_to(weight),
               .bias = bias ? VectorPointer{bias->data_ptr(), bias->stride(0)}
                            : VectorPointer{nullptr, 0},
               .result = pointer_to(result),
               .allow_tf32 = allows_tf32(operand),
               .device = limits_of(device),
               .stream = current_stream(device),
               .like = operand},
      engine);
  return result;
}

// ---- The operators: each once with the engine as an argument, once without --------------------
Tensor forward_in(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias,
                  const Sizes& stride, const Sizes& padding, const Sizes& output_padding,
                  int64_t groups, const Sizes& dilation, const std::string& engine) {
  const Problem problem =
      check_forward(input, weight, bias, {stride, padding, output_padding, groups, dilation});
  return run_data_pass(problem, Pass::kForward, input, weight, bias, engine);
}

Tensor grad_input_in(const Tensor& grad_output, const Tensor& weight, const Sizes& stride,
                     const Sizes& padding, const Sizes& output_padding, int64_t groups,
                     const Sizes& dilation, const std::string& engine) {
  const Problem problem =
      check_grad_input(grad_output, weight, {stride, padding, output_padding, groups, dilation});
  return run_data_pass(problem, Pass::kGradInput, grad_output, weight, std::nullopt, engine);
}

Tensor grad_weight_in(const Tensor& grad_output, const Tensor& input, const Sizes& stride,
                      const Sizes& padding, const Sizes& output_padding, int64_t groups,
                      const Sizes& dilation, const std::string& engine) {
  const Problem problem =
      check_grad_weight(grad_output, input, {stride, padding, output_padding, groups, dilation});
  require_grad_weight_engine(engine);
  const int device = grad_output.get_device_index();
  const DeviceGuard guard(device);
  require_capability(device);
  Tensor result =
      allocate(problem.weight_size(), result_is_channels_last(grad_output, input), grad_output);
  if (result.numel() == 0) return result;
  run(GradWeightCall{.problem = problem,
                     .type = data_type_of(grad_output),
                     .grad_output = pointer_to(grad_output),
                     .input = pointer_to(input),
                     .result = pointer_to(result),
                     .allow_tf32 = allows_tf32(grad_output),
                     .device = limits_of(device),
                     .stream = current_stream(device),
                     .like = grad_output},
      engine);
  return result;
}

Tensor forward(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias,
               const Sizes& stride, const Sizes& padding, const Sizes& output_padding,
               int64_t groups, const Sizes& dilation) {
  return forward_in(input, weight, bias, stride, padding, output_padding, groups, dilation,
                    std::string(kAutomatic));
}

Tensor grad_input(const Tensor& grad_output, const Tensor& weight, const Sizes& stride,
                  const Sizes& padding, const Sizes& output_padding, int64_t groups,
                  const Sizes& dilation) {
  return grad_input_in(grad_output, weight, stride, padding, output_padding, groups, dilation,
                       std::string(kAutomatic));
}

Tensor grad_weight(const Tensor& grad_output, const Tensor& input, const Sizes& stride,
                   const Sizes& padding, const Sizes& output_padding, int64_t groups,
                   const Sizes& dilation) {
  return grad_weight_in(grad_output, input, stride, padding, output_padding, groups, dilation,
                        std::string(kAutomatic));
}

Sizes device_limits(int64_t device) {
  const DeviceGuard guard(static_cast<int32_t>(device));
  const Device limits = limits_of(static_cast<int>(device));
  return {limits.multiprocessors, limits.shared_per_block, limits.shared_per_multiprocessor,
          limits.has_wgmma};
}

}  // namespace
}  // namespace convt3d

STABLE_TORCH_LIBRARY_IMPL(convt3d, CUDA, m) {
  m.impl("forward", TORCH_BOX(&convt3d::forward));
  m.impl("grad_input", TORCH_BOX(&convt3d::grad_input));
  m.impl("grad_weight", TORCH_BOX(&convt3d::grad_weight));
  m.impl("_forward", TORCH_BOX(&convt3d::forward_in));
  m.impl("_grad_input", TORCH_BOX(&convt3d::grad_input_in));
  m.impl("_grad_weight", TORCH_BOX(&convt3d::grad_weight_in));
}

STABLE_TORCH_LIBRARY_IMPL(convt3d, CompositeExplicitAutograd, m) {
  m.impl("_device_limits", TORCH_BOX(&convt3d::device_limits));
}

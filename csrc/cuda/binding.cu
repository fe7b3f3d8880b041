// The CUDA implementation's torch side: checks, allocation, device and stream, then a launch.
#include <cuda_runtime_api.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/macros.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <stdexcept>
#include <string>

#include "../operators.h"
#include "kernels/depthwise.h"
#include "kernels/direct.h"
#include "kernels/gemm_data.h"
#include "kernels/gemm_grad_weight.h"
#include "plan.h"
#include "plan_depthwise.h"
#include "plan_grad_weight.h"
#include "plan_wgmma.h"
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

Device limits_of(int device) {
  return {attribute(cudaDevAttrMultiProcessorCount, device),
          attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, device),
          attribute(cudaDevAttrMaxSharedMemoryPerMultiprocessor, device), has_warp_roles()};
}

// forward (operand: input) or grad_input (operand: grad_output).
Tensor run_data_pass(const Problem& problem, Pass pass, const Tensor& operand, const Tensor& weight,
                     const std::optional<Tensor>& bias) {
  const int device = operand.get_device_index();
  const DeviceGuard guard(device);
  require_capability(device);
  const cudaStream_t stream = current_stream(device);
  const bool forward = pass == Pass::kForward;
  Tensor result = allocate(forward ? problem.output_size() : problem.input_size(),
                           result_is_channels_last(operand, weight), operand);
  const DataType type = data_type_of(operand);
  const TensorPointer operand_pointer = pointer_to(operand), weight_pointer = pointer_to(weight),
                      result_pointer = pointer_to(result);
  const VectorPointer bias_pointer =
      bias ? VectorPointer{bias->data_ptr(), bias->stride(0)} : VectorPointer{nullptr, 0};
  if (result.numel() == 0) return result;

  if (const std::optional<DepthwisePlan> plan = plan_depthwise_data(problem, pass, type)) {
    STD_CUDA_CHECK(launch_depthwise_data(problem, pass, type, *plan, operand_pointer,
                                         weight_pointer, bias_pointer, result_pointer, stream));
    return result;
  }
  const Device limits = limits_of(device);
  const bool allow_tf32 = allows_tf32(operand);
  const bool channels_last = result_pointer.stride[1] < result_pointer.stride[4];
  if (const std::optional<WgmmaDataPlan> plan = plan_wgmma_data(
          problem, pass, type, operand_pointer, result_pointer, allow_tf32, limits)) {
    const Tensor scratch =
        allocate_bytes(wgmma_data_sizes(problem, pass, channels_last, *plan).packed_bytes, operand);
    STD_CUDA_CHECK(launch_wgmma_data(problem, pass, type, *plan, operand_pointer, weight_pointer,
                                     bias_pointer, result_pointer, scratch.data_ptr(),
                                     limits.multiprocessors, stream));
    return result;
  }
  const int64_t operand_channels =
      forward ? problem.in_channels_per_group() : problem.out_channels_per_group();
  const bool fast_operand = loads_in_vectors(operand_pointer, operand_channels, type);
  const std::optional<GemmDataPlan> plan =
      plan_data(problem, pass, type, fast_operand, channels_last, limits);
  if (plan && tile_offsets_fit(*plan, operand_pointer, result_pointer)) {
    const GemmDataSizes sizes = gemm_data_sizes(problem, pass, type, *plan);
    const Tensor scratch = allocate_bytes(sizes.scratch_bytes, operand);
    STD_CUDA_CHECK(launch_gemm_data(problem, pass, type, *plan, operand_pointer, weight_pointer,
                                    bias_pointer, result_pointer, allow_tf32, scratch.data_ptr(),
                                    stream));
  } else if (forward) {
    STD_CUDA_CHECK(launch_direct_forward(problem, type, operand_pointer, weight_pointer,
                                         bias_pointer, result_pointer, stream));
  } else {
    STD_CUDA_CHECK(launch_direct_grad_input(problem, type, operand_pointer, weight_pointer,
                                            result_pointer, stream));
  }
  return result;
}

Tensor forward(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias,
               const Sizes& stride, const Sizes& padding, const Sizes& output_padding,
               int64_t groups, const Sizes& dilation) {
  const Problem problem =
      check_forward(input, weight, bias, {stride, padding, output_padding, groups, dilation});
  return run_data_pass(problem, Pass::kForward, input, weight, bias);
}

Tensor grad_input(const Tensor& grad_output, const Tensor& weight, const Sizes& stride,
                  const Sizes& padding, const Sizes& output_padding, int64_t groups,
                  const Sizes& dilation) {
  const Problem problem =
      check_grad_input(grad_output, weight, {stride, padding, output_padding, groups, dilation});
  return run_data_pass(problem, Pass::kGradInput, grad_output, weight, std::nullopt);
}

Tensor grad_weight(const Tensor& grad_output, const Tensor& input, const Sizes& stride,
                   const Sizes& padding, const Sizes& output_padding, int64_t groups,
                   const Sizes& dilation) {
  const Problem problem =
      check_grad_weight(grad_output, input, {stride, padding, output_padding, groups, dilation});
  const int device = grad_output.get_device_index();
  const DeviceGuard guard(device);
  require_capability(device);
  const cudaStream_t stream = current_stream(device);
  Tensor result =
      allocate(problem.weight_size(), result_is_channels_last(grad_output, input), grad_output);
  const DataType type = data_type_of(grad_output);
  const TensorPointer grad_pointer = pointer_to(grad_output), input_pointer = pointer_to(input),
                      result_pointer = pointer_to(result);
  if (result.numel() == 0) return result;

  if (const std::optional<DepthwisePlan> plan = plan_depthwise_grad_weight(problem, type)) {
    const Tensor workspace = allocate_bytes(
        depthwise_grad_weight_workspace(problem, type, *plan, grad_pointer, input_pointer),
        grad_output);
    STD_CUDA_CHECK(launch_depthwise_grad_weight(problem, type, *plan, grad_pointer, input_pointer,
                                                result_pointer, workspace.data_ptr(), stream));
    return result;
  }
  const auto size_of = [&problem](int64_t channels, int64_t Axis::* extent) {
    return std::array<int64_t, 5>{problem.batch, channels, problem.axes[0].*extent,
                                  problem.axes[1].*extent, problem.axes[2].*extent};
  };
  const std::optional<GemmGradWeightPlan> plan =
      plan_grad_weight(problem, type,
                       widest_fill(grad_pointer, size_of(problem.out_channels, &Axis::output),
                                   problem.out_channels_per_group(), type),
                       widest_fill(input_pointer, size_of(problem.in_channels, &Axis::input),
                                   problem.in_channels_per_group(), type),
                       has_warp_roles(), limits_of(device));
  if (plan && grad_weight_offsets_fit(*plan, grad_pointer, input_pointer)) {
    const GemmGradWeightSizes sizes = gemm_grad_weight_sizes(problem, type, *plan);
    const Tensor workspace = allocate_bytes(sizes.workspace_bytes, grad_output);
    STD_CUDA_CHECK(launch_gemm_grad_weight(problem, type, *plan, grad_pointer, input_pointer,
                                           result_pointer, allows_tf32(grad_output),
                                           workspace.data_ptr(), stream));
  } else {
    STD_CUDA_CHECK(launch_direct_grad_weight(problem, type, grad_pointer, input_pointer,
                                             result_pointer, stream));
  }
  return result;
}

}  // namespace
}  // namespace convt3d

STABLE_TORCH_LIBRARY_IMPL(convt3d, CUDA, m) {
  m.impl("forward", TORCH_BOX(&convt3d::forward));
  m.impl("grad_input", TORCH_BOX(&convt3d::grad_input));
  m.impl("grad_weight", TORCH_BOX(&convt3d::grad_weight));
}

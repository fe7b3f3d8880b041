// The few PyTorch operators that the CPU implementation is built on, called through the
// dispatcher (LibTorch stable ABI), and tensors over plain memory to call them with.
//
// Every operand goes in as a fresh tensor over memory, never as the caller's tensor: it carries
// no requires_grad, so that `out=` operators work also where autograd is not switched off.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/stableivalue_conversions.h>

#include <array>
#include <optional>
#include <type_traits>

#include "../operators.h"

namespace convt3d::cpu {

template <typename T>
constexpr ScalarType scalar_type() {
  if constexpr (std::is_same_v<T, float>) return ScalarType::Float;
  if constexpr (std::is_same_v<T, double>) return ScalarType::Double;
  if constexpr (std::is_same_v<T, int64_t>) return ScalarType::Long;
}

inline torch::stable::Device cpu_device() {
  return torch::stable::Device(torch::headeronly::DeviceType::CPU);
}

// Uninitialised memory.
template <typename T>
Tensor scratch(const Sizes& size) {
  return torch::stable::empty(size, scalar_type<T>());
}

template <typename T>
T* data(const Tensor& tensor) {
  return static_cast<T*>(tensor.mutable_data_ptr());
}

template <typename T>
Tensor over(const T* memory, const Sizes& size, const Sizes& stride) {
  return torch::stable::from_blob(const_cast<T*>(memory), size, stride, cpu_device(),
                                  scalar_type<T>());
}

// out = a @ b. BLAS for floating point; leading dimensions are free in all three.
inline void mm_out(const Tensor& a, const Tensor& b, const Tensor& out) {
  using torch::stable::detail::from;
  std::array<StableIValue, 3> stack{from(a), from(b), from(out)};
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::mm", "out", stack.data(), TORCH_ABI_VERSION));
  (void)torch::stable::detail::to<Tensor>(stack[0]);
}

struct ConvolutionArguments {
  Sizes stride, padding, dilation;
  int64_t groups;
};

// An ordinary (not transposed) convolution without bias.
inline Tensor convolution(const Tensor& input, const Tensor& weight,
                          const ConvolutionArguments& arguments) {
  using torch::stable::detail::from;
  std::array<StableIValue, 9> stack{from(input),
                                    from(weight),
                                    from(std::nullopt),
                                    from(arguments.stride),
                                    from(arguments.padding),
                                    from(arguments.dilation),
                                    from(false),
                                    from(Sizes(3, 0)),
                                    from(arguments.groups)};
  TORCH_ERROR_CODE_CHECK(
      torch_call_dispatcher("aten::convolution", "", stack.data(), TORCH_ABI_VERSION));
  return torch::stable::detail::to<Tensor>(stack[0]);
}

enum class ConvolutionGradient { kInput, kWeight };

// One gradient of that convolution. The operand whose gradient is wanted only gives its shape.
inline Tensor convolution_backward(const Tensor& grad_output, const Tensor& input,
                                   const Tensor& weight, const ConvolutionArguments& arguments,
                                   ConvolutionGradient which) {
  using torch::stable::detail::from;
  const bool input_wanted = which == ConvolutionGradient::kInput;
  const std::array<bool, 3> wanted{input_wanted, !input_wanted, false};
  const torch::headeronly::HeaderOnlyArrayRef<bool> mask(wanted.data(), wanted.size());
  std::array<StableIValue, 11> stack{from(grad_output),
                                     from(input),
                                     from(weight),
                                     from(std::nullopt),
                                     from(arguments.stride),
                                     from(arguments.padding),
                                     from(arguments.dilation),
                                     from(false),
                                     from(Sizes(3, 0)),
                                     from(arguments.groups),
                                     from(mask)};
  TORCH_ERROR_CODE_CHECK(
      torch_call_dispatcher("aten::convolution_backward", "", stack.data(), TORCH_ABI_VERSION));
  std::array<Tensor, 3> gradients;
  for (int i = 0; i < 3; ++i) gradients[i] = torch::stable::detail::to<Tensor>(stack[i]);
  return gradients[input_wanted ? 0 : 1];
}

}  // namespace convt3d::cpu

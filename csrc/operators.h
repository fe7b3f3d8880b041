// What the CPU and the CUDA implementation share on the torch side: checks of tensors (dtype,
// device, layout), the problem they form and the allocation of results.
#pragma once

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <optional>

#include "geometry.h"

namespace convt3d {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

Sizes sizes_of(const Tensor& tensor);
Sizes strides_of(const Tensor& tensor);

// Each checks its tensors completely and throws std::runtime_error before anything is allocated.
Problem check_forward(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias,
                      const Arguments& arguments);
Problem check_grad_input(const Tensor& grad_output, const Tensor& weight,
                         const Arguments& arguments);
Problem check_grad_weight(const Tensor& grad_output, const Tensor& input,
                          const Arguments& arguments);

// ATen's rule: a result is channels_last_3d when one of the two operands suggests it.
bool result_is_channels_last(const Tensor& a, const Tensor& b);
// Uninitialised dense tensor with the dtype and device of `like`.
Tensor allocate(const Sizes& size, bool channels_last, const Tensor& like);
// Uninitialised scratch memory on the device of `like`.
Tensor allocate_bytes(int64_t bytes, const Tensor& like);

}  // namespace convt3d

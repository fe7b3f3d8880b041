// Transposed convolution through PyTorch's ordinary convolution, whose roles are exchanged:
// forward is its data gradient, grad_input its forward. float32 only.
#pragma once

#include "activation.h"

namespace convt3d::cpu {

// Needs at least two input planes. Activations may have any strides; `weight` and `grad_weight`
// are contiguous (in_channels, out_channels / groups, kD, kH, kW).
void convolution_forward(const Problem& problem, const Activation<float>& input,
                         const float* weight, const float* bias, const Activation<float>& output);
void convolution_grad_input(const Problem& problem, const Activation<float>& grad_output,
                            const float* weight, const Activation<float>& grad_input);
void convolution_grad_weight(const Problem& problem, const Activation<float>& grad_output,
                             const Activation<float>& input, float* grad_weight);

}  // namespace convt3d::cpu

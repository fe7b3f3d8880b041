// Transposed convolution through PyTorch's ordinary convolution with the roles exchanged: the
// output is the convolution's input, so forward is its data gradient, grad_input its forward and
// grad_weight its weight gradient. PyTorch gives ordinary convolutions to oneDNN far more often
// than transposed ones, and oneDNN has faster kernels for some of them (groups). float32 only.
//
// `weight` and `grad_weight` have the layout (in_channels, out_channels / groups, kD, kH, kW).
#pragma once

#include "activation.h"

namespace convt3d::cpu {

// ---- Direct: one call on whole tensors ------------------------------------------------------

// PyTorch gives the problem to oneDNN, at every batch size, and the geometry is one that an
// ordinary convolution can have.
bool convolves_directly(const Problem& problem);

// Five-dimensional tensors, dense and all of one memory format, which is that of the result.
Tensor direct_forward(const Problem& problem, const Tensor& input, const Tensor& weight,
                      const float* bias, bool channels_last);
Tensor direct_grad_input(const Problem& problem, const Tensor& grad_output, const Tensor& weight);
Tensor direct_grad_weight(const Problem& problem, const Tensor& grad_output, const Tensor& input,
                          const Tensor& weight_like);

// ---- Packed: in pieces, over channels-last copies ----------------------------------------------

// Products in the sum of one element of forward, of grad_input.
int64_t products_per_output(const Problem& problem);
int64_t products_per_input(const Problem& problem);

// oneDNN's channels-last kernels add thousands of products to one register, one after the other,
// and the relative error of float32 then exceeds 1e-6. Packed sums longer than this are split over
// blocks of channels, one convolution each, whose results are added.
bool is_long(int64_t products);

// Any geometry with two input planes or more; activations with any strides, `weight` dense in
// either memory format, `grad_weight` contiguous.
void packed_forward(const Problem& problem, const Activation<float>& input, const Tensor& weight,
                    const float* bias, const Activation<float>& output);
void packed_grad_input(const Problem& problem, const Activation<float>& grad_output,
                       const Tensor& weight, const Activation<float>& grad_input);
void packed_grad_weight(const Problem& problem, const Activation<float>& grad_output,
                        const Activation<float>& input, float* grad_weight);

}  // namespace convt3d::cpu

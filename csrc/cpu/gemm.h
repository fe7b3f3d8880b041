// Transposed convolution as one matrix product per slice of input rows plus a movement of elements.
#pragma once

#include "activation.h"

namespace convt3d::cpu {

// No two taps meet in one output element: the movement is an interleave, not a sum.
bool taps_are_disjoint(const Problem& problem);

// The input (and for channels-last the output too) must be dense: contiguous, or, where the taps
// are disjoint, channels-last. The other activation may have any strides. `weight` and
// `grad_weight` are contiguous (in_channels, out_channels / groups, kD, kH, kW).
// T: float, double, int64_t.
template <typename T>
void gemm_forward(const Problem& problem, const Activation<T>& input, const T* weight,
                  const T* bias, const Activation<T>& output);
template <typename T>
void gemm_grad_input(const Problem& problem, const Activation<T>& grad_output, const T* weight,
                     const Activation<T>& grad_input);
template <typename T>
void gemm_grad_weight(const Problem& problem, const Activation<T>& grad_output,
                      const Activation<T>& input, T* grad_weight);

}  // namespace convt3d::cpu

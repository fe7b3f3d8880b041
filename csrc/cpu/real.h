// The three operators for one real dtype.
#pragma once

#include "memory.h"
#include "plan.h"

namespace convt3d::cpu {

// Activations have five dimensions and any strides, `bias` is contiguous (nullptr: none); results
// are dense in the format asked for. T: float, double, int64_t.

template <typename T>
Tensor real_forward(const Problem& problem, const Tensor& input, const Tensor& weight,
                    const T* bias, bool channels_last) {
  const Lattice lattice(problem);
  const Problem& reduced = lattice.problem;
  const bool direct_operands = !lattice.reduced && is_dense(input, channels_last);
  const Method method = plan<T>(Pass::kForward, reduced, channels_last, direct_operands);
  const Sizes size = batched_size(problem, problem.out_channels, &Axis::output);
  if constexpr (std::is_same_v<T, float>)
    if (method == Method::kDirect)
      return in_format(
          direct_forward(problem, input, dense_in_some_format(weight), bias, channels_last),
          channels_last);

  const Tensor w = method == Method::kGemm ? dense(weight, false, scalar_type<T>())
                                           : dense_in_some_format(weight);
  const Tensor output = empty(size, channels_last, scalar_type<T>());
  prefer_large_pages(output);
  const Activation<T> y = activation_of<T>(output);
  if (lattice.reduced) fill_output(problem, y, bias);
  if (lattice.empty) return output;
  if (method == Method::kGemm) {
    const Tensor x =
        aligned(dense(input, channels_last && taps_are_disjoint(reduced), scalar_type<T>()));
    gemm_forward(reduced, activation_of<T>(x), data<T>(aligned(w)), bias, lattice.of(y));
  } else if constexpr (std::is_same_v<T, float>) {
    packed_forward(reduced, activation_of<T>(input), w, bias, lattice.of(y));
  }
  return output;
}

template <typename T>
Tensor real_grad_input(const Problem& problem, const Tensor& grad_output, const Tensor& weight,
                       bool channels_last) {
  const Lattice lattice(problem);
  const Problem& reduced = lattice.problem;
  const Sizes size = batched_size(problem, problem.in_channels, &Axis::input);
  if (lattice.empty) return zeros<T>(size, channels_last);
  const bool direct_operands = !lattice.reduced && is_dense(grad_output, channels_last);
  const Method method = plan<T>(Pass::kGradInput, reduced, channels_last, direct_operands);
  if constexpr (std::is_same_v<T, float>)
    if (method == Method::kDirect)
      return in_format(direct_grad_input(problem, grad_output, dense_in_some_format(weight)),
                       channels_last);

  const Tensor w = method == Method::kGemm ? dense(weight, false, scalar_type<T>())
                                           : dense_in_some_format(weight);
  const Activation<T> gy = lattice.of(activation_of<T>(grad_output));
  const bool computed_channels_last =
      channels_last && (method != Method::kGemm || taps_are_disjoint(reduced));
  const Tensor result = empty(size, computed_channels_last, scalar_type<T>());
  prefer_large_pages(result);
  if (method == Method::kGemm) {
    gemm_grad_input(reduced, gy, data<T>(aligned(w)), activation_of<T>(result));
  } else if constexpr (std::is_same_v<T, float>) {
    packed_grad_input(reduced, gy, w, activation_of<T>(result));
  }
  return in_format(result, channels_last);
}

// In any format.
template <typename T>
Tensor real_grad_weight(const Problem& problem, const Tensor& grad_output, const Tensor& input,
                        bool channels_last) {
  const Lattice lattice(problem);
  const Problem& reduced = lattice.problem;
  const Sizes size = problem.weight_size();
  if (lattice.empty || problem.batch == 0) return zeros<T>(size, false);
  const bool direct_operands =
      !lattice.reduced && is_dense(grad_output, channels_last) && is_dense(input, channels_last);
  const Method method = plan<T>(Pass::kGradWeight, reduced, channels_last, direct_operands);
  if constexpr (std::is_same_v<T, float>)
    if (method == Method::kDirect)
      return direct_grad_weight(problem, grad_output, input,
                                empty(size, channels_last, scalar_type<T>()));

  const Tensor result = empty(size, false, scalar_type<T>());
  const Activation<T> gy = lattice.of(activation_of<T>(grad_output));
  if (method == Method::kGemm) {
    const Tensor x =
        aligned(dense(input, channels_last && taps_are_disjoint(reduced), scalar_type<T>()));
    gemm_grad_weight(reduced, gy, activation_of<T>(x), data<T>(result));
  } else if constexpr (std::is_same_v<T, float>) {
    packed_grad_weight(reduced, gy, activation_of<T>(input), data<T>(result));
  }
  return result;
}

}  // namespace convt3d::cpu

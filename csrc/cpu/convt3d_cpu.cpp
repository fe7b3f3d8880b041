// The operators on CPU: checks, then any dtype, layout and rank brought down to activations of
// float32, float64 or int64 with five dimensions (real.h, plan.h).
#include "complex.h"
#include "real.h"

namespace convt3d {
namespace cpu {
namespace {

using OptionalTensor = std::optional<Tensor>;

// ---- Complex dtypes through real ones -------------------------------------------------------

// The problem of the real operands: twice the channels.
Problem doubled(Problem problem) {
  problem.in_channels *= 2;
  problem.out_channels *= 2;
  return problem;
}

ComplexActivation complex_input(const Problem& problem) {
  const auto& axes = problem.axes;
  return {problem.batch, problem.groups, problem.in_channels_per_group(),
          axes[0].input * axes[1].input * axes[2].input};
}
ComplexActivation complex_output(const Problem& problem) {
  const auto& axes = problem.axes;
  return {problem.batch, problem.groups, problem.out_channels_per_group(),
          axes[0].output * axes[1].output * axes[2].output};
}
ComplexWeight complex_weight(const Problem& problem) {
  const auto& axes = problem.axes;
  return {problem.groups, problem.in_channels_per_group(), problem.out_channels_per_group(),
          axes[0].kernel * axes[1].kernel * axes[2].kernel};
}

template <typename T>
constexpr ScalarType complex_type() {
  return std::is_same_v<T, float> ? ScalarType::ComplexFloat : ScalarType::ComplexDouble;
}

template <typename T>
Tensor split_input(const Problem& problem, const Tensor& input) {
  const Tensor complex = in_format(input, false);
  const Problem real = doubled(problem);
  const Tensor parts = scratch<T>(batched_size(real, real.in_channels, &Axis::input));
  split_activation(complex_input(problem), data<T>(complex), data<T>(parts));
  return parts;
}

template <typename T>
Tensor split_output(const Problem& problem, const Tensor& output) {
  const Tensor complex = in_format(output, false);
  const Problem real = doubled(problem);
  const Tensor parts = scratch<T>(batched_size(real, real.out_channels, &Axis::output));
  split_activation(complex_output(problem), data<T>(complex), data<T>(parts));
  return parts;
}

template <typename T>
Tensor split(const Problem& problem, const Tensor& weight, bool transposed) {
  const Tensor complex = in_format(weight, false);
  const Tensor parts = scratch<T>(doubled(problem).weight_size());
  split_weight(complex_weight(problem), transposed, data<T>(complex), data<T>(parts));
  return parts;
}

template <typename T>
Tensor complex_forward(const Problem& problem, const Tensor& input, const Tensor& weight,
                       const OptionalTensor& bias) {
  OptionalTensor parts;
  if (bias) {
    parts = scratch<T>({2 * problem.out_channels});
    split_activation({1, problem.groups, problem.out_channels_per_group(), 1}, data<T>(*bias),
                     data<T>(*parts));
  }
  const Tensor y =
      real_forward<T>(doubled(problem), split_input<T>(problem, input),
                      split<T>(problem, weight, false), parts ? data<T>(*parts) : nullptr, false);
  const Tensor output =
      empty(batched_size(problem, problem.out_channels, &Axis::output), false, complex_type<T>());
  merge_activation(complex_output(problem), data<T>(y), data<T>(output));
  return output;
}

template <typename T>
Tensor complex_grad_input(const Problem& problem, const Tensor& grad_output, const Tensor& weight) {
  const Tensor gx = real_grad_input<T>(doubled(problem), split_output<T>(problem, grad_output),
                                       split<T>(problem, weight, true), false);
  const Tensor result =
      empty(batched_size(problem, problem.in_channels, &Axis::input), false, complex_type<T>());
  merge_activation(complex_input(problem), data<T>(gx), data<T>(result));
  return result;
}

template <typename T>
Tensor complex_grad_weight(const Problem& problem, const Tensor& grad_output, const Tensor& input) {
  const Tensor gw =
      in_format(real_grad_weight<T>(doubled(problem), split_output<T>(problem, grad_output),
                                    split_input<T>(problem, input), false),
                false);
  const Tensor result = empty(problem.weight_size(), false, complex_type<T>());
  merge_weight(complex_weight(problem), data<T>(gw), data<T>(result));
  return result;
}

// ---- Every dtype ------------------------------------------------------------------------------

// What a dtype is computed in: 16-bit types in float32, so that a sum is rounded once.
ScalarType compute_type(ScalarType type) {
  switch (type) {
    case ScalarType::Half:
    case ScalarType::BFloat16:
      return ScalarType::Float;
    case ScalarType::ComplexHalf:
      return ScalarType::ComplexFloat;
    default:
      return type;
  }
}

// Calls real(T()) or complex(T()) for the real type T that carries a compute dtype.
template <typename Real, typename Complex>
Tensor with_type(ScalarType type, const Real& real, const Complex& complex) {
  switch (type) {
    case ScalarType::Float:
      return real(float());
    case ScalarType::Double:
      return real(double());
    case ScalarType::Long:
      return real(int64_t());
    case ScalarType::ComplexFloat:
      return complex(float());
    default:
      return complex(double());
  }
}

// An activation or a weight in the compute dtype, in its own memory format.
Tensor operand(const Tensor& tensor) {
  const Tensor whole = batched(tensor);
  const ScalarType type = compute_type(tensor.scalar_type());
  return type == tensor.scalar_type() ? whole : dense(whole, is_dense(whole, true), type);
}

// The result of an operator: `computed` in dtype, format and rank of the result.
Tensor finish(const Tensor& computed, bool channels_last, ScalarType type, bool has_batch) {
  const Tensor result = dense(computed, channels_last, type);
  return has_batch ? result : torch::stable::squeeze(result, 0);
}

Tensor forward(const Tensor& input, const Tensor& weight, const OptionalTensor& bias,
               const Sizes& stride, const Sizes& padding, const Sizes& output_padding,
               int64_t groups, const Sizes& dilation) {
  const Problem problem =
      check_forward(input, weight, bias, {stride, padding, output_padding, groups, dilation});
  const bool channels_last = result_is_channels_last(input, weight);
  if (problem.batch == 0) return allocate(problem.output_size(), channels_last, input);
  const Tensor x = operand(input), w = operand(weight);
  OptionalTensor b;
  if (bias) {
    b = torch::stable::empty({problem.out_channels}, x.scalar_type());
    torch::stable::copy_(*b, *bias);
  }
  const Tensor y = with_type(
      x.scalar_type(),
      [&](auto real) {
        using T = decltype(real);
        return real_forward<T>(problem, x, w, b ? data<T>(*b) : nullptr, channels_last);
      },
      [&](auto real) { return complex_forward<decltype(real)>(problem, x, w, b); });
  return finish(y, channels_last, input.scalar_type(), problem.batched);
}

Tensor grad_input(const Tensor& grad_output, const Tensor& weight, const Sizes& stride,
                  const Sizes& padding, const Sizes& output_padding, int64_t groups,
                  const Sizes& dilation) {
  const Problem problem =
      check_grad_input(grad_output, weight, {stride, padding, output_padding, groups, dilation});
  const bool channels_last = result_is_channels_last(grad_output, weight);
  if (problem.batch == 0) return allocate(problem.input_size(), channels_last, grad_output);
  const Tensor gy = operand(grad_output), w = operand(weight);
  const Tensor gx = with_type(
      gy.scalar_type(),
      [&](auto real) { return real_grad_input<decltype(real)>(problem, gy, w, channels_last); },
      [&](auto real) { return complex_grad_input<decltype(real)>(problem, gy, w); });
  return finish(gx, channels_last, grad_output.scalar_type(), problem.batched);
}

Tensor grad_weight(const Tensor& grad_output, const Tensor& input, const Sizes& stride,
                   const Sizes& padding, const Sizes& output_padding, int64_t groups,
                   const Sizes& dilation) {
  const Problem problem =
      check_grad_weight(grad_output, input, {stride, padding, output_padding, groups, dilation});
  const bool channels_last = result_is_channels_last(grad_output, input);
  const Tensor gy = operand(grad_output), x = operand(input);
  const Tensor gw = with_type(
      gy.scalar_type(),
      [&](auto real) { return real_grad_weight<decltype(real)>(problem, gy, x, channels_last); },
      [&](auto real) { return complex_grad_weight<decltype(real)>(problem, gy, x); });
  return finish(gw, channels_last, grad_output.scalar_type(), true);
}

}  // namespace
}  // namespace cpu
}  // namespace convt3d

STABLE_TORCH_LIBRARY_IMPL(convt3d, CPU, m) {
  m.impl("forward", TORCH_BOX(&convt3d::cpu::forward));
  m.impl("grad_input", TORCH_BOX(&convt3d::cpu::grad_input));
  m.impl("grad_weight", TORCH_BOX(&convt3d::cpu::grad_weight));
}

// The operators on CPU: brings any dtype, layout and rank down to activations of float32, float64
// or int64, which the engines of plan.h compute.
#include "complex.h"
#include "memory.h"
#include "plan.h"

namespace convt3d {
namespace cpu {
namespace {

using OptionalTensor = std::optional<Tensor>;

// ---- One real dtype ------------------------------------------------------------------------

// `bias` is contiguous.
template <typename T>
void real_forward(const Problem& problem, const Tensor& input, const Tensor& weight,
                  const OptionalTensor& bias, const Tensor& output) {
  const Lattice lattice(problem);
  const Engine engine = plan<T>(lattice.problem);
  const Tensor w = dense(weight, false, scalar_type<T>());
  const T* b_data = bias ? data<T>(*bias) : nullptr;
  const Activation<T> y = activation_of<T>(output);
  if (lattice.reduced) fill_output(problem, y, b_data);
  if (lattice.empty) return;
  if (engine == Engine::kGemm) {
    const bool channels_last = wants_channels_last<T>(lattice.problem, is_dense(output, true));
    const Tensor x = dense(input, channels_last, scalar_type<T>());
    gemm_forward(lattice.problem, activation_of<T>(x), data<T>(w), b_data, lattice.of(y));
  } else if constexpr (std::is_same_v<T, float>) {
    convolution_forward(lattice.problem, activation_of<T>(input), data<T>(w), b_data,
                        lattice.of(y));
  }
}

template <typename T>
void real_grad_input(const Problem& problem, const Tensor& grad_output, const Tensor& weight,
                     const Tensor& grad_input) {
  const Lattice lattice(problem);
  if (lattice.empty) {
    Tensor zeros = alias(grad_input);
    torch::stable::zero_(zeros);
    return;
  }
  const Engine engine = plan<T>(lattice.problem);
  const Tensor w = dense(weight, false, scalar_type<T>());
  const Activation<T> gy = lattice.of(activation_of<T>(grad_output));
  if (engine == Engine::kGemm) {
    const bool offered = is_dense(grad_input, true) && !is_dense(grad_input, false);
    const bool channels_last = wants_channels_last<T>(lattice.problem, offered);
    const Tensor gx = channels_last == offered
                          ? grad_input
                          : empty(sizes_of(grad_input), channels_last, scalar_type<T>());
    gemm_grad_input(lattice.problem, gy, data<T>(w), activation_of<T>(gx));
    if (channels_last != offered) copy(grad_input, gx);
  } else if constexpr (std::is_same_v<T, float>) {
    convolution_grad_input(lattice.problem, gy, data<T>(w), activation_of<T>(grad_input));
  }
}

// `grad_weight` is contiguous.
template <typename T>
void real_grad_weight(const Problem& problem, const Tensor& grad_output, const Tensor& input,
                      const Tensor& grad_weight) {
  const Lattice lattice(problem);
  if (lattice.empty || problem.batch == 0) {
    Tensor zeros = alias(grad_weight);
    torch::stable::zero_(zeros);
    return;
  }
  const Engine engine = plan<T>(lattice.problem);
  const Activation<T> gy = lattice.of(activation_of<T>(grad_output));
  if (engine == Engine::kGemm) {
    const bool channels_last = wants_channels_last<T>(lattice.problem, is_dense(input, true));
    const Tensor x = dense(input, channels_last, scalar_type<T>());
    gemm_grad_weight(lattice.problem, gy, activation_of<T>(x), data<T>(grad_weight));
  } else if constexpr (std::is_same_v<T, float>) {
    convolution_grad_weight(lattice.problem, gy, activation_of<T>(input), data<T>(grad_weight));
  }
}

// ---- Complex dtypes through real ones -------------------------------------------------------

bool is_complex(ScalarType type) {
  return type == ScalarType::ComplexHalf || type == ScalarType::ComplexFloat ||
         type == ScalarType::ComplexDouble;
}

// The problem of the real operands: twice the channels.
Problem doubled(Problem problem) {
  problem.in_channels *= 2;
  problem.out_channels *= 2;
  problem.batched = true;
  return problem;
}

int64_t taps_of(const Problem& problem) {
  return problem.axes[0].kernel * problem.axes[1].kernel * problem.axes[2].kernel;
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
  return {problem.groups, problem.in_channels_per_group(), problem.out_channels_per_group(),
          taps_of(problem)};
}

template <typename T>
constexpr ScalarType complex_type() {
  return std::is_same_v<T, float> ? ScalarType::ComplexFloat : ScalarType::ComplexDouble;
}

template <typename T>
Tensor split(const ComplexActivation& size, const Tensor& tensor, const Sizes& real_size) {
  const Tensor complex = dense(tensor, false, complex_type<T>());
  const Tensor real = scratch<T>(real_size);
  split_activation(size, data<T>(complex), data<T>(real));
  return real;
}

template <typename T>
Tensor split(const Problem& problem, const Tensor& weight, bool transposed) {
  const Tensor complex = dense(weight, false, complex_type<T>());
  const Tensor real = scratch<T>(doubled(problem).weight_size());
  split_weight(complex_weight(problem), transposed, data<T>(complex), data<T>(real));
  return real;
}

template <typename T>
void merge(const ComplexActivation& size, const Tensor& real, const Tensor& to) {
  const Tensor complex = empty(sizes_of(to), false, complex_type<T>());
  merge_activation(size, data<T>(real), data<T>(complex));
  copy(to, complex);
}

template <typename T>
void complex_forward(const Problem& problem, const Tensor& input, const Tensor& weight,
                     const OptionalTensor& bias, const Tensor& output) {
  const Problem real = doubled(problem);
  const Tensor y = scratch<T>(real.output_size());
  OptionalTensor b;
  if (bias) {
    b = scratch<T>({real.out_channels});
    split_activation({1, problem.groups, problem.out_channels_per_group(), 1}, data<T>(*bias),
                     data<T>(*b));
  }
  real_forward<T>(real, split<T>(complex_input(problem), input, real.input_size()),
                  split<T>(problem, weight, false), b, y);
  merge<T>(complex_output(problem), y, output);
}

template <typename T>
void complex_grad_input(const Problem& problem, const Tensor& grad_output, const Tensor& weight,
                        const Tensor& grad_input) {
  const Problem real = doubled(problem);
  const Tensor gx = scratch<T>(real.input_size());
  real_grad_input<T>(real, split<T>(complex_output(problem), grad_output, real.output_size()),
                     split<T>(problem, weight, true), gx);
  merge<T>(complex_input(problem), gx, grad_input);
}

template <typename T>
void complex_grad_weight(const Problem& problem, const Tensor& grad_output, const Tensor& input,
                         const Tensor& grad_weight) {
  const Problem real = doubled(problem);
  const Tensor gw = scratch<T>(real.weight_size());
  real_grad_weight<T>(real, split<T>(complex_output(problem), grad_output, real.output_size()),
                      split<T>(complex_input(problem), input, real.input_size()), gw);
  merge_weight(complex_weight(problem), data<T>(gw), data<T>(grad_weight));
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

// Calls body with a value of the real type that carries `type`.
template <typename Body>
void with_real_type(ScalarType type, const Body& body) {
  switch (type) {
    case ScalarType::Double:
    case ScalarType::ComplexDouble:
      return body(double());
    case ScalarType::Long:
      return body(int64_t());
    default:
      return body(float());
  }
}

// An operand in the compute dtype, in its own memory format.
Tensor operand(const Tensor& tensor) {
  const ScalarType type = compute_type(tensor.scalar_type());
  if (type == tensor.scalar_type()) return alias(tensor);
  return dense(tensor, is_dense(tensor, true), type);
}

// Memory for a result in the compute dtype: the result itself where that is its dtype.
Tensor computed(const Tensor& result) {
  const ScalarType type = compute_type(result.scalar_type());
  if (type == result.scalar_type()) return result;
  return empty(sizes_of(result), is_dense(result, true), type);
}

Tensor forward(const Tensor& input, const Tensor& weight, const OptionalTensor& bias,
               const Sizes& stride, const Sizes& padding, const Sizes& output_padding,
               int64_t groups, const Sizes& dilation) {
  const Problem problem =
      check_forward(input, weight, bias, {stride, padding, output_padding, groups, dilation});
  const Tensor output =
      allocate(problem.output_size(), result_is_channels_last(input, weight), input);
  if (output.numel() == 0) return output;
  const Tensor y = computed(output);
  prefer_large_pages(y);
  OptionalTensor b;
  if (bias) {
    b = torch::stable::empty({problem.out_channels}, y.scalar_type());
    copy(*b, *bias);
  }
  with_real_type(y.scalar_type(), [&](auto real) {
    using T = decltype(real);
    if constexpr (!std::is_same_v<T, int64_t>)
      if (is_complex(y.scalar_type()))
        return complex_forward<T>(problem, operand(input), operand(weight), b, y);
    real_forward<T>(problem, operand(input), operand(weight), b, y);
  });
  if (y.get() != output.get()) copy(output, y);
  return output;
}

Tensor grad_input(const Tensor& grad_output, const Tensor& weight, const Sizes& stride,
                  const Sizes& padding, const Sizes& output_padding, int64_t groups,
                  const Sizes& dilation) {
  const Problem problem =
      check_grad_input(grad_output, weight, {stride, padding, output_padding, groups, dilation});
  const Tensor result =
      allocate(problem.input_size(), result_is_channels_last(grad_output, weight), grad_output);
  if (result.numel() == 0) return result;
  const Tensor gx = computed(result);
  prefer_large_pages(gx);
  with_real_type(gx.scalar_type(), [&](auto real) {
    using T = decltype(real);
    if constexpr (!std::is_same_v<T, int64_t>)
      if (is_complex(gx.scalar_type()))
        return complex_grad_input<T>(problem, operand(grad_output), operand(weight), gx);
    real_grad_input<T>(problem, operand(grad_output), operand(weight), gx);
  });
  if (gx.get() != result.get()) copy(result, gx);
  return result;
}

Tensor grad_weight(const Tensor& grad_output, const Tensor& input, const Sizes& stride,
                   const Sizes& padding, const Sizes& output_padding, int64_t groups,
                   const Sizes& dilation) {
  const Problem problem =
      check_grad_weight(grad_output, input, {stride, padding, output_padding, groups, dilation});
  const Tensor result =
      allocate(problem.weight_size(), result_is_channels_last(grad_output, input), grad_output);
  if (result.numel() == 0) return result;
  const ScalarType type = compute_type(result.scalar_type());
  const bool in_place = type == result.scalar_type() && is_dense(result, false);
  const Tensor gw = in_place ? result : empty(sizes_of(result), false, type);
  with_real_type(type, [&](auto real) {
    using T = decltype(real);
    if constexpr (!std::is_same_v<T, int64_t>)
      if (is_complex(type))
        return complex_grad_weight<T>(problem, operand(grad_output), operand(input), gw);
    real_grad_weight<T>(problem, operand(grad_output), operand(input), gw);
  });
  if (!in_place) copy(result, gw);
  return result;
}

}  // namespace
}  // namespace cpu
}  // namespace convt3d

STABLE_TORCH_LIBRARY_IMPL(convt3d, CPU, m) {
  m.impl("forward", TORCH_BOX(&convt3d::cpu::forward));
  m.impl("grad_input", TORCH_BOX(&convt3d::cpu::grad_input));
  m.impl("grad_weight", TORCH_BOX(&convt3d::cpu::grad_weight));
}

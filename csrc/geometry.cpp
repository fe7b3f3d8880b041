// Checks and derived sizes. meta/shape.py repeats these conditions, in this order, with these
// texts.
#include "geometry.h"

#include <sstream>
#include <stdexcept>
#include <string>

namespace convt3d {
namespace {

// How a part of an error's text is written; a function, so that a condition that holds formats
// nothing.
template <typename Part>
void put(std::ostream& text, const Part& part) {
  text << part;
}

void put(std::ostream& text, const Sizes& size) {
  text << '[';
  for (size_t i = 0; i < size.size(); ++i) text << (i ? ", " : "") << size[i];
  text << ']';
}

// "(a x b x c)" over one field of the three axes.
struct PerAxis {
  const std::array<Axis, 3>& axes;
  int64_t Axis::* field;
};

void put(std::ostream& text, const PerAxis& of) {
  text << '(' << of.axes[0].*of.field << " x " << of.axes[1].*of.field << " x "
       << of.axes[2].*of.field << ')';
}

template <typename... Parts>
void require(bool condition, const Parts&... parts) {
  if (condition) return;
  std::ostringstream text;
  (put(text, parts), ...);
  throw std::runtime_error(text.str());
}

Sizes expand(const Sizes& values, const char* name) {
  require(values.size() == 1 || values.size() == 3, "expected ", name,
          " to be a single integer value or a list of 3 values to match the convolution "
          "dimensions, but got ",
          name, "=", values);
  return values.size() == 1 ? Sizes(3, values[0]) : values;
}

bool any_below(const Sizes& values, int64_t bound) {
  for (int64_t value : values)
    if (value < bound) return true;
  return false;
}

// Expands and checks the arguments; sizes and kernel are filled in by the caller.
Problem begin_problem(const Arguments& arguments) {
  const Sizes stride = expand(arguments.stride, "stride");
  const Sizes padding = expand(arguments.padding, "padding");
  const Sizes output_padding = expand(arguments.output_padding, "output_padding");
  const Sizes dilation = expand(arguments.dilation, "dilation");
  require(arguments.groups > 0, "non-positive groups is not supported");
  require(!any_below(stride, 1), "non-positive stride is not supported");
  require(!any_below(padding, 0), "negative padding is not supported");
  require(!any_below(output_padding, 0), "negative output_padding is not supported");
  require(!any_below(dilation, 1),
          "dilation should be greater than zero, but got dilation_depth: ", dilation[0],
          ", dilation_height: ", dilation[1], ", dilation_width: ", dilation[2]);
  Problem problem{};
  problem.groups = arguments.groups;
  bool fits = true;
  for (int a = 0; a < 3; ++a) {
    problem.axes[a] = {0, 0, 0, stride[a], padding[a], output_padding[a], dilation[a]};
    fits = fits && (output_padding[a] < stride[a] || output_padding[a] < dilation[a]);
  }
  require(fits,
          "output padding must be smaller than either stride or dilation, but got "
          "output_padding_depth: ",
          output_padding[0], " output_padding_height: ", output_padding[1],
          " output_padding_width: ", output_padding[2], " stride_depth: ", stride[0],
          " stride_height: ", stride[1], " stride_width: ", stride[2],
          " dilation_depth: ", dilation[0], " dilation_height: ", dilation[1],
          " dilation_width: ", dilation[2]);
  return problem;
}

void require_activation(const Sizes& size, const char* name) {
  require(size.size() == 4 || size.size() == 5, "Expected 4D (unbatched) or 5D (batched) ", name,
          " to conv_transpose3d, but got ", name, " of size: ", size);
  bool positive = true;
  for (size_t i = size.size() - 3; i < size.size(); ++i) positive = positive && size[i] > 0;
  require(positive, "Only zero batch or zero channel inputs are supported, but got ", name,
          " shape: ", size);
}

void require_weight(const Sizes& weight, int64_t groups) {
  require(weight.size() == 5, "Expected 5-dimensional weight for conv_transpose3d, but got ",
          weight.size(), "-dimensional weight of size ", weight, " instead");
  require(weight[0] >= groups, "Given groups=", groups, ", expected weight to be at least ", groups,
          " at dimension 0, but got weight of size ", weight, " instead");
  require(weight[0] % groups == 0, "Given groups=", groups, ", expected weight to be divisible by ",
          groups, " at dimension 0, but got weight of size ", weight, " instead");
  require(!any_below(Sizes(weight.begin() + 1, weight.end()), 1),
          "non-empty 5D (in_channels x out_channels/groups x kernel_depth x kernel_height x "
          "kernel_width) tensor expected for weight, but got: ",
          weight);
}

// Batch, channels and the three spatial sizes of an activation of 4 or 5 dimensions.
struct Activation {
  int64_t batch;
  int64_t channels;
  const int64_t* spatial;
};

Activation read_activation(const Sizes& size) {
  const size_t channel = size.size() - 4;
  return {channel == 1 ? size[0] : 1, size[channel], size.data() + channel + 1};
}

void set_weight(Problem& problem, const Sizes& weight) {
  problem.in_channels = weight[0];
  problem.out_channels = weight[1] * problem.groups;
  for (int a = 0; a < 3; ++a) problem.axes[a].kernel = weight[a + 2];
}

Sizes activation_size(const Problem& problem, int64_t channels, int64_t Axis::* field) {
  Sizes size;
  if (problem.batched) size.push_back(problem.batch);
  size.push_back(channels);
  for (const Axis& axis : problem.axes) size.push_back(axis.*field);
  return size;
}

}  // namespace

Sizes Problem::input_size() const { return activation_size(*this, in_channels, &Axis::input); }
Sizes Problem::output_size() const { return activation_size(*this, out_channels, &Axis::output); }
Sizes Problem::weight_size() const {
  return {in_channels, out_channels_per_group(), axes[0].kernel, axes[1].kernel, axes[2].kernel};
}

Problem forward_problem(const Sizes& input, const Sizes& weight, const std::optional<Sizes>& bias,
                        const Arguments& arguments) {
  require_activation(input, "input");
  Problem problem = begin_problem(arguments);
  require_weight(weight, problem.groups);
  set_weight(problem, weight);
  const Activation in = read_activation(input);
  require(in.channels == weight[0], "Given transposed=1, weight of size ", weight,
          ", expected input", input, " to have ", weight[0], " channels, but got ", in.channels,
          " channels instead");
  if (bias)
    require(bias->size() == 1 && (*bias)[0] == problem.out_channels,
            "Given transposed=1, weight of size ", weight,
            ", expected bias to be 1-dimensional with ", problem.out_channels,
            " elements, but got bias of size ", *bias, " instead");
  problem.batched = input.size() == 5;
  problem.batch = in.batch;
  bool positive = true;
  for (int a = 0; a < 3; ++a) {
    Axis& axis = problem.axes[a];
    axis.input = in.spatial[a];
    axis.output = (axis.input - 1) * axis.stride - 2 * axis.padding +
                  axis.dilation * (axis.kernel - 1) + axis.output_padding + 1;
    positive = positive && axis.output > 0;
  }
  require(positive, "Given input size per channel: ", PerAxis{problem.axes, &Axis::input},
          ". Calculated output size per channel: ", PerAxis{problem.axes, &Axis::output},
          ". Output size is too small");
  return problem;
}

Problem grad_input_problem(const Sizes& grad_output, const Sizes& weight,
                           const Arguments& arguments) {
  require_activation(grad_output, "grad_output");
  Problem problem = begin_problem(arguments);
  require_weight(weight, problem.groups);
  set_weight(problem, weight);
  const Activation out = read_activation(grad_output);
  require(out.channels == problem.out_channels, "Given transposed=1, weight of size ", weight,
          " and groups=", problem.groups, ", expected grad_output", grad_output, " to have ",
          problem.out_channels, " channels, but got ", out.channels, " channels instead");
  problem.batched = grad_output.size() == 5;
  problem.batch = out.batch;
  bool fits = true;
  for (int a = 0; a < 3; ++a) {
    Axis& axis = problem.axes[a];
    axis.output = out.spatial[a];
    const int64_t steps = axis.output - 1 + 2 * axis.padding - axis.output_padding -
                          axis.dilation * (axis.kernel - 1);  // (input - 1) * stride
    fits = fits && steps >= 0 && steps % axis.stride == 0;
    axis.input = steps / axis.stride + 1;
  }
  require(fits, "grad_output of size ", grad_output,
          " is not the size of an output for weight of size ", weight,
          " with these stride, padding, output_padding and dilation");
  return problem;
}

Problem grad_weight_problem(const Sizes& grad_output, const Sizes& input,
                            const Arguments& arguments) {
  require_activation(grad_output, "grad_output");
  require_activation(input, "input");
  Problem problem = begin_problem(arguments);
  const Activation out = read_activation(grad_output);
  const Activation in = read_activation(input);
  require(grad_output.size() == input.size() && out.batch == in.batch,
          "expected grad_output and input of the same batch size, but got grad_output of size ",
          grad_output, " and input of size ", input);
  require(in.channels > 0 && out.channels > 0 && in.channels % problem.groups == 0 &&
              out.channels % problem.groups == 0,
          "Given groups=", problem.groups,
          ", expected the channels of grad_output and input to be positive and divisible by ",
          problem.groups, ", but got grad_output of size ", grad_output, " and input of size ",
          input);
  problem.batched = input.size() == 5;
  problem.batch = in.batch;
  problem.in_channels = in.channels;
  problem.out_channels = out.channels;
  bool fits = true;
  for (int a = 0; a < 3; ++a) {
    Axis& axis = problem.axes[a];
    axis.input = in.spatial[a];
    axis.output = out.spatial[a];
    const int64_t reach = axis.output - 1 + 2 * axis.padding - axis.output_padding -
                          (axis.input - 1) * axis.stride;  // (kernel - 1) * dilation
    fits = fits && reach >= 0 && reach % axis.dilation == 0;
    axis.kernel = reach / axis.dilation + 1;
  }
  require(fits, "no kernel size takes input of size ", input, " to grad_output of size ",
          grad_output, " with these stride, padding, output_padding and dilation");
  return problem;
}

bool suggests_channels_last_3d(Sizes size, Sizes stride) {
  if (size.size() == 4) {  // what unsqueeze(0) makes of it
    stride.insert(stride.begin(), size[0] * stride[0]);
    size.insert(size.begin(), 1);
  }
  if (size.size() != 5 || stride[1] == 0) return false;
  int64_t smallest = 0;
  for (int dim : {1, 4, 3, 2, 0}) {
    if (size[dim] == 0 || stride[dim] < smallest) return false;
    // A tensor of one position whose strides are all equal counts as contiguous.
    if (dim == 0 && smallest == stride[1]) return false;
    smallest = stride[dim] * size[dim];
  }
  return true;
}

Sizes dense_strides(const Sizes& size, bool channels_last) {
  const size_t rank = size.size();
  Sizes stride(rank);
  int64_t step = 1;
  const auto place = [&](size_t dim) {
    stride[dim] = step;
    // ATen counts an empty dimension as one element in contiguous strides only.
    step *= channels_last || size[dim] > 0 ? size[dim] : 1;
  };
  if (channels_last) place(rank - 4);
  for (size_t dim = rank; dim-- > rank - 3;) place(dim);
  if (!channels_last) place(rank - 4);
  if (rank == 5) place(0);
  return stride;
}

}  // namespace convt3d

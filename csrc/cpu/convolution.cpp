// Data flow of the packed form: a sample is cut along depth into chunks of equal size, and one or
// two chunks at a time are
//
//   packed      into channels-last, on the output's side with explicit zeros where a tap points
//               outside and the convolution's own padding cannot say so
//   convolved   by aten::convolution or aten::convolution_backward
//   unpacked    into the caller's layout; where the output planes of neighbouring chunks overlap
//               (forward), the later chunk adds, in order
//
// Why chunks: their temporaries stay in cache and are reused by the allocator. A channels-last copy
// of a whole large activation spends more time in page faults than the convolution takes. Why two:
// PyTorch gives a float32 convolution to oneDNN when the batch is larger than one, and only
// sometimes when it is one (takes_onednn below); its own kernels are several times slower.
// Why channels-last: oneDNN computes on it directly, but reorders large plain tensors into blocked
// ones and back.
#include "convolution.h"

#include "memory.h"

namespace convt3d::cpu {
namespace {

constexpr int64_t kPackedBytesPerThread = 2 << 20;

// What one axis of the ordinary convolution looks like.
struct Side {
  int64_t extent;   // on the output's side
  int64_t origin;   // the output position of its first element
  int64_t padding;  // left to the convolution
};

// Output positions, before cropping, that `inputs` input positions reach.
int64_t reach(const Axis& axis, int64_t inputs) {
  return axis.stride * (inputs - 1) + axis.dilation * (axis.kernel - 1) + 1;
}

// Whether an ordinary convolution of `output` positions makes exactly `input` of them: not so when
// output_padding is as large as the stride (allowed with a larger dilation). Padding beyond "same"
// and kernels longer than the output are refused too: there oneDNN 3.12 (weight gradients and
// channels-last above all) reads outside its operands. Explicit zeros have neither.
bool has_ordinary_geometry(const Axis& axis) {
  const int64_t window = reach(axis, 1);
  const int64_t rest = axis.output + 2 * axis.padding - reach(axis, axis.input);
  return rest >= 0 && rest < axis.stride && 2 * axis.padding < window && window <= axis.output;
}

Side whole(const Axis& axis) {
  if (has_ordinary_geometry(axis)) return {axis.output, 0, axis.padding};
  return {reach(axis, axis.input), -axis.padding, 0};
}

// Whether PyTorch gives an ordinary float32 convolution with a batch of one to oneDNN (its
// use_mkldnn); `rows` is the product of the output's channels, depth and height.
bool takes_onednn(const Problem& problem, int64_t rows) {
  return problem.groups > 1 || (problem.axes[1].kernel > 3 && problem.axes[2].kernel > 3) ||
         rows > 20480;
}

int64_t product(const Sizes& size) {
  int64_t result = 1;
  for (int64_t extent : size) result *= extent;
  return result;
}

ConvolutionArguments arguments_of(const Problem& problem, const Sizes& padding) {
  ConvolutionArguments arguments{{}, padding, {}, problem.groups};
  for (const Axis& axis : problem.axes) {
    arguments.stride.push_back(axis.stride);
    arguments.dilation.push_back(axis.dilation);
  }
  return arguments;
}

Sizes padding_of(const Problem& problem) {
  return {problem.axes[0].padding, problem.axes[1].padding, problem.axes[2].padding};
}

Tensor with_format(const float* memory, const Sizes& size, bool channels_last) {
  return over(memory, size, dense_strides(size, channels_last));
}

Tensor with_format(const Tensor& memory, const Sizes& size, bool channels_last) {
  return with_format(data<float>(memory), size, channels_last);
}

class Packed {
 public:
  explicit Packed(const Problem& problem)
      : problem_(problem),
        d_(problem.axes[0]),
        h_(problem.axes[1]),
        w_(problem.axes[2]),
        height_(whole(h_)),
        width_(whole(w_)) {
    const int64_t plane = problem.out_channels * height_.extent * width_.extent;
    const int64_t calls =
        std::max<int64_t>(1, plane * reach(d_, d_.input) * static_cast<int64_t>(sizeof(float)) /
                                 (kPackedBytesPerThread * torch::stable::get_num_threads()));
    depth_ = whole(d_);
    chunks_ = 1;
    planes_ = d_.input;
    if (calls > 1 ||
        !takes_onednn(problem, problem.out_channels * depth_.extent * height_.extent)) {
      chunks_ = 2;
      planes_ = ceil_div(d_.input, calls * chunks_);
      depth_ = {reach(d_, planes_), -d_.padding, 0};
    }
    input_size_ = {chunks_, problem.in_channels, planes_, h_.input, w_.input};
    output_size_ = {chunks_, problem.out_channels, depth_.extent, height_.extent, width_.extent};
    arguments_ = arguments_of(problem, {depth_.padding, height_.padding, width_.padding});
  }

  // Without `add` the result replaces what is there and gets the bias, else it is added to it.
  void forward(const Activation<float>& x, const Tensor& weight, const float* bias,
               const Activation<float>& y, bool add) {
    const Tensor packed_input = scratch<float>({product(input_size_)});
    const Tensor shape_only = scratch<float>({product(output_size_)});
    for_each_call([&](int64_t n, int64_t first) {
      pack_input(x, n, first, data<float>(packed_input));
      const Tensor result = convolution_backward(with_format(packed_input, input_size_, true),
                                                 with_format(shape_only, output_size_, true),
                                                 weight, arguments_, ConvolutionGradient::kInput);
      const Activation<float> chunks = activation_of<float>(result);
      unpack_output(chunks, n, first, bias, y, add);
    });
  }

  void grad_input(const Activation<float>& gy, const Tensor& weight, const Activation<float>& gx,
                  bool add) {
    const Tensor packed = scratch<float>({product(output_size_)});
    for_each_call([&](int64_t n, int64_t first) {
      pack_output(gy, n, first, data<float>(packed));
      const Tensor result =
          convolution(with_format(packed, output_size_, true), weight, arguments_);
      const Activation<float> chunks = activation_of<float>(result);
      const float* no_bias = nullptr;
      for_each_input_row(first, [&](int64_t chunk, int64_t depth, int64_t plane, int64_t row) {
        if (plane >= d_.input) return;
        const float* from = chunks.at(chunk, 0, depth, row);
        const auto copy = add ? copy_row<true, float> : copy_row<false, float>;
        copy(gx.at(n, 0, plane, row), gx.channel, gx.axes[2], from, chunks.channel, chunks.axes[2],
             no_bias, problem_.in_channels, w_.input);
      });
    });
  }

  void grad_weight(const Activation<float>& gy, const Activation<float>& x, float* gw) {
    const Tensor packed_input = scratch<float>({product(input_size_)});
    const Tensor packed_output = scratch<float>({product(output_size_)});
    const int64_t elements = product(problem_.weight_size());
    std::memset(gw, 0, elements * sizeof(float));
    for_each_call([&](int64_t n, int64_t first) {
      pack_input(x, n, first, data<float>(packed_input));
      pack_output(gy, n, first, data<float>(packed_output));
      const Tensor part = torch::stable::contiguous(
          convolution_backward(with_format(packed_input, input_size_, true),
                               with_format(packed_output, output_size_, true),
                               with_format(gw, problem_.weight_size(), false), arguments_,
                               ConvolutionGradient::kWeight));
      const float* from = data<float>(part);
      torch::stable::parallel_for(0, elements, kGrain, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) gw[i] += from[i];
      });
    });
  }

 private:
  // Calls never span samples: a sample is computed in the same shapes whatever the batch.
  template <typename Body>
  void for_each_call(const Body& body) const {
    for (int64_t n = 0; n < problem_.batch; ++n)
      for (int64_t first = 0; first < d_.input; first += chunks_ * planes_) body(n, first);
  }

  // body(chunk, depth in it, plane of the activation, row) for the input's side of one call.
  template <typename Body>
  void for_each_input_row(int64_t first, const Body& body) const {
    parallel(chunks_ * planes_ * h_.input, problem_.in_channels * w_.input, [&](int64_t i) {
      const int64_t plane = i / h_.input;
      body(plane / planes_, plane % planes_, first + plane, i % h_.input);
    });
  }

  void pack_input(const Activation<float>& x, int64_t n, int64_t first, float* to) const {
    const int64_t channels = problem_.in_channels, row_size = channels * w_.input;
    for_each_input_row(first, [&](int64_t chunk, int64_t depth, int64_t plane, int64_t row) {
      float* target = to + ((chunk * planes_ + depth) * h_.input + row) * row_size;
      if (plane < d_.input) {
        gather_channels(target, static_cast<const float*>(x.at(n, 0, plane, row)), channels,
                        w_.input, x.channel, x.axes[2]);
      } else {
        std::fill_n(target, row_size, 0.0f);
      }
    });
  }

  void pack_output(const Activation<float>& gy, int64_t n, int64_t first, float* to) const {
    const int64_t channels = problem_.out_channels;
    const int64_t before = std::min(-width_.origin, width_.extent);
    const int64_t inside = std::clamp<int64_t>(w_.output, 0, width_.extent - before);
    parallel(chunks_ * depth_.extent * height_.extent, channels * width_.extent, [&](int64_t i) {
      const int64_t plane = i / height_.extent, chunk = plane / depth_.extent;
      const int64_t d =
          (first + chunk * planes_) * d_.stride + depth_.origin + plane % depth_.extent;
      const int64_t h = i % height_.extent + height_.origin;
      float* target = to + i * channels * width_.extent;
      if (d < 0 || d >= d_.output || h < 0 || h >= h_.output) {
        std::fill_n(target, channels * width_.extent, 0.0f);
        return;
      }
      std::fill_n(target, channels * before, 0.0f);
      gather_channels(target + channels * before, static_cast<const float*>(gy.at(n, 0, d, h)),
                      channels, inside, gy.channel, gy.axes[2]);
      const int64_t end = before + inside;
      std::fill_n(target + channels * end, channels * (width_.extent - end), 0.0f);
    });
  }

  // The output planes of the call whose first input plane is `first`. The call before it has
  // finished all planes below its own end and this one adds to them; planes where no tap points
  // get bias alone. With `add` everything was finished before and is added to.
  void unpack_output(const Activation<float>& chunks, int64_t n, int64_t first, const float* bias,
                     const Activation<float>& y, bool add) const {
    const int64_t step = planes_ * d_.stride;
    const int64_t reach = std::max(depth_.extent - step, int64_t{0});  // past a chunk's own planes
    const int64_t begin = first * d_.stride + depth_.origin;
    const int64_t written = first == 0 ? begin : begin + reach;
    const bool last = first + chunks_ * planes_ >= d_.input;
    const int64_t end = last ? std::max(begin, d_.output) : begin + chunks_ * step + reach;
    const int64_t channels = problem_.out_channels;
    const int64_t with_taps = std::clamp<int64_t>(width_.extent + width_.origin, 0, w_.output);
    parallel((end - begin) * h_.output, channels * w_.output, [&](int64_t i) {
      const int64_t d = begin + i / h_.output, row = i % h_.output, h = row - height_.origin;
      if (d < 0 || d >= d_.output) return;
      float* to = y.at(n, 0, d, row);
      bool fresh = !add && d >= written;
      const auto finish = [&](int64_t count) {
        fill_row(to + count * y.axes[2], y.channel, y.axes[2], bias, channels, w_.output - count);
      };
      for (int64_t chunk = 0; chunk < chunks_ && h < height_.extent; ++chunk) {
        const int64_t plane = d - begin - chunk * step;
        if (plane < 0 || plane >= depth_.extent) continue;
        const float* from = chunks.at(chunk, 0, plane, h) - width_.origin * chunks.axes[2];
        if (fresh) {
          copy_row<false>(to, y.channel, y.axes[2], from, chunks.channel, chunks.axes[2], bias,
                          channels, with_taps);
          finish(with_taps);
        } else {
          copy_row<true>(to, y.channel, y.axes[2], from, chunks.channel, chunks.axes[2], bias,
                         channels, with_taps);
        }
        fresh = false;
      }
      if (fresh) finish(0);
    });
  }

  const Problem& problem_;
  const Axis &d_, &h_, &w_;
  const Side height_, width_;
  Side depth_;               // of one chunk; its origin is that of the first one
  int64_t chunks_, planes_;  // per call; input planes per chunk
  Sizes input_size_, output_size_;
  ConvolutionArguments arguments_;
};

// ---- Long sums in blocks ------------------------------------------------------------------------

// kLongestSum: 96 channels by 27 taps, with a relative error of up to 9.2e-7. What is split is
// split well below that, because the sums of the blocks are added one after the other too.
constexpr int64_t kLongestSum = 2592;
constexpr int64_t kProductsPerBlock = 2048;
constexpr int64_t kVector = 16;  // floats: what oneDNN divides channels into

// How many of a group's channels one convolution sums over.
int64_t channels_per_block(int64_t channels, int64_t products) {
  if (!is_long(products)) return channels;
  const int64_t most =
      std::max<int64_t>(kProductsPerBlock * channels / products / kVector, 1) * kVector;
  return std::min(channels,
                  ceil_div(ceil_div(channels, ceil_div(channels, most)), kVector) * kVector);
}

Activation<float> from_channel(Activation<float> activation, int64_t channel) {
  activation.data += channel * activation.channel;
  return activation;
}

// Rows [first_in, first_in + in) and columns [first_out, first_out + out) of a dense weight, as a
// dense one of the same memory format. Whole rows are not copied.
Tensor weight_block(const Tensor& weight, int64_t first_in, int64_t in, int64_t first_out,
                    int64_t out) {
  const Sizes all = sizes_of(weight), stride = strides_of(weight);
  const Sizes size{in, out, all[2], all[3], all[4]};
  const float* start = data<float>(weight) + first_in * stride[0] + first_out * stride[1];
  const Tensor view = over(start, size, stride);
  return out == all[1] ? view : dense(view, is_dense(weight, true), ScalarType::Float);
}

}  // namespace

int64_t products_per_output(const Problem& problem) {
  int64_t products = problem.in_channels_per_group();
  for (const Axis& axis : problem.axes)
    products *= ceil_div(axis.kernel, TapTable<int64_t>(axis).period);
  return products;
}

int64_t products_per_input(const Problem& problem) {
  const auto& axes = problem.axes;
  return problem.out_channels_per_group() * axes[0].kernel * axes[1].kernel * axes[2].kernel;
}

bool is_long(int64_t products) { return products > kLongestSum; }

bool convolves_directly(const Problem& problem) {
  const auto& axes = problem.axes;
  return std::all_of(axes.begin(), axes.end(), has_ordinary_geometry) &&
         takes_onednn(problem, problem.out_channels * axes[0].output * axes[1].output);
}

Tensor direct_forward(const Problem& problem, const Tensor& input, const Tensor& weight,
                      const float* bias, bool channels_last) {
  const auto& axes = problem.axes;
  const Sizes size{problem.batch, problem.out_channels, axes[0].output, axes[1].output,
                   axes[2].output};
  const Tensor shape_only = scratch<float>({product(size)});
  const Tensor result =
      convolution_backward(input, with_format(shape_only, size, channels_last), weight,
                           arguments_of(problem, padding_of(problem)), ConvolutionGradient::kInput);
  if (bias) add_bias(problem, activation_of<float>(result), bias);
  return result;
}

Tensor direct_grad_input(const Problem& problem, const Tensor& grad_output, const Tensor& weight) {
  return convolution(grad_output, weight, arguments_of(problem, padding_of(problem)));
}

Tensor direct_grad_weight(const Problem& problem, const Tensor& grad_output, const Tensor& input,
                          const Tensor& weight_like) {
  return convolution_backward(input, grad_output, weight_like,
                              arguments_of(problem, padding_of(problem)),
                              ConvolutionGradient::kWeight);
}

void packed_forward(const Problem& problem, const Activation<float>& input, const Tensor& weight,
                    const float* bias, const Activation<float>& output) {
  const int64_t in = problem.in_channels_per_group(), out = problem.out_channels_per_group();
  const int64_t block = channels_per_block(in, products_per_output(problem));
  if (block == in) return Packed(problem).forward(input, weight, bias, output, false);
  Problem part = problem;
  part.groups = 1;
  part.out_channels = out;
  for (int64_t g = 0; g < problem.groups; ++g)
    for (int64_t c = 0; c < in; c += block) {
      const int64_t first = g * in + c;
      part.in_channels = std::min(block, in - c);
      Packed(part).forward(from_channel(input, first),
                           weight_block(weight, first, part.in_channels, 0, out),
                           bias ? bias + g * out : nullptr, from_channel(output, g * out), c > 0);
    }
}

void packed_grad_input(const Problem& problem, const Activation<float>& grad_output,
                       const Tensor& weight, const Activation<float>& grad_input) {
  const int64_t in = problem.in_channels_per_group(), out = problem.out_channels_per_group();
  const int64_t block = channels_per_block(out, products_per_input(problem));
  if (block == out) return Packed(problem).grad_input(grad_output, weight, grad_input, false);
  Problem part = problem;
  part.groups = 1;
  part.in_channels = in;
  for (int64_t g = 0; g < problem.groups; ++g)
    for (int64_t c = 0; c < out; c += block) {
      part.out_channels = std::min(block, out - c);
      Packed(part).grad_input(from_channel(grad_output, g * out + c),
                              weight_block(weight, g * in, in, c, part.out_channels),
                              from_channel(grad_input, g * in), c > 0);
    }
}

void packed_grad_weight(const Problem& problem, const Activation<float>& grad_output,
                        const Activation<float>& input, float* grad_weight) {
  Packed(problem).grad_weight(grad_output, input, grad_weight);
}

}  // namespace convt3d::cpu

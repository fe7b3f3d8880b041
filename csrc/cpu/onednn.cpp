// Data flow: a sample is cut along depth into chunks of equal size, and two chunks at a time are
//
//   packed      into channels-last, the output's side with explicit zeros wherever a tap points
//               outside (so paddings of any size are all the same, and none is left for oneDNN)
//   convolved   by aten::convolution or aten::convolution_backward
//   unpacked    into the caller's layout; where the output planes of neighbouring chunks overlap
//               (forward), the later chunk adds, in order
//
// Why chunks: their temporaries are small enough to stay in cache and to be reused by the
// allocator. A channels-last copy of a whole activation spends more time in page faults than the
// convolution takes. Why two: PyTorch hands a float32 convolution to oneDNN when the batch is
// larger than one, and only sometimes (large planes, groups, large kernels) when it is one; its
// own kernels are several times slower. Why channels-last: oneDNN computes on it directly, but
// reorders plain layouts into blocked ones and back, inside, for the whole tensor.
#include "onednn.h"

namespace convt3d::cpu {
namespace {

constexpr int64_t kPackedBytesPerThread = 2 << 20;
constexpr int64_t kChunks = 2;  // per call

class Convolution {
 public:
  explicit Convolution(const Problem& problem)
      : problem_(problem),
        d_(problem.axes[0]),
        h_(problem.axes[1]),
        w_(problem.axes[2]),
        height_(extent(h_, h_.input)),
        width_(extent(w_, w_.input)) {
    const int64_t plane_bytes = problem.out_channels * height_ * width_ * sizeof(float);
    const int64_t calls =
        std::max<int64_t>(1, plane_bytes * extent(d_, d_.input) /
                                 (kPackedBytesPerThread * torch::stable::get_num_threads()));
    planes_ = ceil_div(d_.input, calls * kChunks);
    depth_ = extent(d_, planes_);
    input_size_ = {kChunks, problem.in_channels, planes_, h_.input, w_.input};
    output_size_ = {kChunks, problem.out_channels, depth_, height_, width_};
    for (const Axis& axis : problem.axes) {
      stride_.push_back(axis.stride);
      dilation_.push_back(axis.dilation);
    }
  }

  void forward(const Activation<float>& x, const float* weight, const float* bias,
               const Activation<float>& y) {
    const Tensor packed_input = scratch<float>({product(input_size_)});
    const Tensor shape_only = scratch<float>({product(output_size_)});
    for_each_call([&](int64_t n, int64_t first) {
      pack_input(x, n, first, data<float>(packed_input));
      const Tensor result = convolution_backward(
          channels_last(packed_input, input_size_), channels_last(shape_only, output_size_),
          weight_tensor(weight), stride_, dilation_, problem_.groups, ConvolutionGradient::kInput);
      const Activation<float> chunks = activation_of<float>(result);
      for (int64_t chunk = 0; chunk < kChunks; ++chunk)
        unpack_output(chunks, chunk, n, first + chunk * planes_, bias, y);
    });
  }

  void grad_input(const Activation<float>& gy, const float* weight, const Activation<float>& gx) {
    const Tensor packed = scratch<float>({product(output_size_)});
    for_each_call([&](int64_t n, int64_t first) {
      pack_output(gy, n, first, data<float>(packed));
      const Tensor result = convolution(channels_last(packed, output_size_), weight_tensor(weight),
                                        stride_, dilation_, problem_.groups);
      const Activation<float> chunks = activation_of<float>(result);
      const float* no_bias = nullptr;
      for_each_input_row(first, [&](int64_t chunk, int64_t depth, int64_t plane, int64_t row) {
        if (plane < d_.input)
          copy_row<false>(gx.at(n, 0, plane, row), gx.channel, gx.axes[2],
                          static_cast<const float*>(chunks.at(chunk, 0, depth, row)),
                          chunks.channel, chunks.axes[2], no_bias, problem_.in_channels, w_.input);
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
      const Tensor part = torch::stable::contiguous(convolution_backward(
          channels_last(packed_input, input_size_), channels_last(packed_output, output_size_),
          weight_tensor(gw), stride_, dilation_, problem_.groups, ConvolutionGradient::kWeight));
      const float* from = data<float>(part);
      torch::stable::parallel_for(0, elements, kGrain, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) gw[i] += from[i];
      });
    });
  }

 private:
  // Output positions, before cropping, that `inputs` input positions reach.
  static int64_t extent(const Axis& axis, int64_t inputs) {
    return axis.stride * (inputs - 1) + axis.dilation * (axis.kernel - 1) + 1;
  }
  static int64_t product(const Sizes& size) {
    int64_t result = 1;
    for (int64_t extent : size) result *= extent;
    return result;
  }
  static Tensor channels_last(const Tensor& memory, const Sizes& size) {
    return over(data<float>(memory), size, dense_strides(size, true));
  }
  Tensor weight_tensor(const float* weight) const {
    const Sizes size = problem_.weight_size();
    return over(weight, size, dense_strides(size, false));
  }

  // Calls never span samples: shapes, and with them oneDNN's order of summation, are the same
  // whatever the batch.
  template <typename Body>
  void for_each_call(const Body& body) const {
    for (int64_t n = 0; n < problem_.batch; ++n)
      for (int64_t first = 0; first < d_.input; first += kChunks * planes_) body(n, first);
  }

  // body(chunk, depth in it, plane of the activation, row) for the input's side of one call.
  template <typename Body>
  void for_each_input_row(int64_t first, const Body& body) const {
    parallel(kChunks * planes_ * h_.input, problem_.in_channels * w_.input, [&](int64_t i) {
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
    const int64_t before = std::min(w_.padding, width_);
    const int64_t inside = std::clamp<int64_t>(w_.output, 0, width_ - before);
    parallel(kChunks * depth_ * height_, channels * width_, [&](int64_t i) {
      const int64_t plane = i / height_;
      const int64_t d =
          (first + plane / depth_ * planes_) * d_.stride + plane % depth_ - d_.padding;
      const int64_t h = i % height_ - h_.padding;
      float* target = to + i * channels * width_;
      if (d < 0 || d >= d_.output || h < 0 || h >= h_.output) {
        std::fill_n(target, channels * width_, 0.0f);
        return;
      }
      std::fill_n(target, channels * before, 0.0f);
      gather_channels(target + channels * before, static_cast<const float*>(gy.at(n, 0, d, h)),
                      channels, inside, gy.channel, gy.axes[2]);
      const int64_t end = before + inside;
      std::fill_n(target + channels * end, channels * (width_ - end), 0.0f);
    });
  }

  // The output planes of the chunk whose first input plane is `first`.
  void unpack_output(const Activation<float>& chunks, int64_t chunk, int64_t n, int64_t first,
                     const float* bias, const Activation<float>& y) const {
    if (first >= d_.input) return;
    // Before cropping, the chunk before this one has finished planes below `written`, and this one
    // has to leave all planes below `end` finished, with bias alone where no tap points.
    const int64_t step = std::max(depth_, planes_ * d_.stride);
    const int64_t begin = first * d_.stride;
    const int64_t written = first == 0 ? 0 : begin - planes_ * d_.stride + step;
    const bool last = first + planes_ >= d_.input;
    const int64_t end = last ? std::max(begin, d_.output + d_.padding) : begin + step;
    const int64_t channels = problem_.out_channels;
    const int64_t with_taps = std::clamp<int64_t>(width_ - w_.padding, 0, w_.output);
    parallel((end - begin) * h_.output, channels * w_.output, [&](int64_t i) {
      const int64_t plane = i / h_.output, row = i % h_.output;
      const int64_t d = begin + plane - d_.padding, h = row + h_.padding;
      if (d < 0 || d >= d_.output) return;
      const bool fresh = begin + plane >= written;
      const int64_t count = plane < depth_ && h < height_ ? with_taps : 0;
      float* to = y.at(n, 0, d, row);
      const float* from =
          count ? chunks.at(chunk, 0, plane, h) + w_.padding * chunks.axes[2] : nullptr;
      if (fresh) {
        copy_row<false>(to, y.channel, y.axes[2], from, chunks.channel, chunks.axes[2], bias,
                        channels, count);
        fill_row(to + count * y.axes[2], y.channel, y.axes[2], bias, channels, w_.output - count);
      } else {
        copy_row<true>(to, y.channel, y.axes[2], from, chunks.channel, chunks.axes[2], bias,
                       channels, count);
      }
    });
  }

  const Problem& problem_;
  const Axis &d_, &h_, &w_;
  const int64_t height_, width_;  // extents of the output's side before cropping
  int64_t planes_, depth_;        // of one chunk, on the input's and on the output's side
  Sizes input_size_, output_size_, stride_, dilation_;
};

}  // namespace

void convolution_forward(const Problem& problem, const Activation<float>& input,
                         const float* weight, const float* bias, const Activation<float>& output) {
  Convolution(problem).forward(input, weight, bias, output);
}

void convolution_grad_input(const Problem& problem, const Activation<float>& grad_output,
                            const float* weight, const Activation<float>& grad_input) {
  Convolution(problem).grad_input(grad_output, weight, grad_input);
}

void convolution_grad_weight(const Problem& problem, const Activation<float>& grad_output,
                             const Activation<float>& input, float* grad_weight) {
  Convolution(problem).grad_weight(grad_output, input, grad_weight);
}

}  // namespace convt3d::cpu

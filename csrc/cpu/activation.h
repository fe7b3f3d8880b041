// Activations as plain memory with strides, and the movements between them that the engines need.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "aten.h"
#include "transpose.h"

namespace convt3d::cpu {

// Memory of an activation (batch, channel, depth, height, width); strides in elements. The strides
// of a sub-lattice of the output (every second position, say) are just larger.
template <typename T>
struct Activation {
  T* data;
  int64_t batch;
  int64_t channel;
  std::array<int64_t, 3> axes;

  T* at(int64_t n, int64_t c, int64_t d, int64_t h) const {
    return data + n * batch + c * channel + d * axes[0] + h * axes[1];
  }
};

// Of a tensor with five dimensions or four (no batch).
template <typename T>
Activation<T> activation_of(const Tensor& tensor) {
  const Sizes stride = strides_of(tensor);
  const size_t channel = stride.size() - 4;
  return {static_cast<T*>(tensor.mutable_data_ptr()),
          channel == 1 ? stride[0] : 0,
          stride[channel],
          {stride[channel + 1], stride[channel + 2], stride[channel + 3]}};
}

// Work below this many elements is not worth another thread.
constexpr int64_t kGrain = 16384;

// Runs body(i) for every i in [0, count), where each moves about `elements` elements.
template <typename Body>
void parallel(int64_t count, int64_t elements, const Body& body) {
  const int64_t grain = std::max<int64_t>(1, kGrain / std::max<int64_t>(1, elements));
  torch::stable::parallel_for(0, count, grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) body(i);
  });
}

// Channels moved together where a row changes between channels-last and anything else: one cache
// line of float32 on the channels-last side.
constexpr int64_t kChannelBlock = 16;

// to[c + channels * w] = from[c * channel + w * width]: a row into channels-last.
template <typename T>
void gather_channels(T* to, const T* from, int64_t channels, int64_t positions, int64_t channel,
                     int64_t width) {
  if (channel == 1 && width == channels) {
    std::memcpy(to, from, channels * positions * sizeof(T));
    return;
  }
  if (width == 1) {
    const T* none = nullptr;
    transpose<false>(to, channels, from, channel, channels, positions, none);
    return;
  }
  for (int64_t c0 = 0; c0 < channels; c0 += kChannelBlock) {
    const int64_t block = std::min(kChannelBlock, channels - c0);
    const T* source = from + c0 * channel;
    T* target = to + c0;
    if (block == kChannelBlock) {
      for (int64_t w = 0; w < positions; ++w)
        for (int64_t c = 0; c < kChannelBlock; ++c)
          target[w * channels + c] = source[c * channel + w * width];
    } else {
      for (int64_t w = 0; w < positions; ++w)
        for (int64_t c = 0; c < block; ++c)
          target[w * channels + c] = source[c * channel + w * width];
    }
  }
}

// A row of `positions` by `channels` with any strides on either side. With kAdd it is added to
// what is there, else it replaces it and gets the bias (nullptr: none).
template <bool kAdd, typename T>
void copy_row(T* to, int64_t to_channel, int64_t to_width, const T* from, int64_t from_channel,
              int64_t from_width, const T* bias, int64_t channels, int64_t positions) {
  if (to_channel == 1 && from_channel == 1) {
    for (int64_t w = 0; w < positions; ++w) {
      T* target = to + w * to_width;
      const T* source = from + w * from_width;
      if (bias) {
        for (int64_t c = 0; c < channels; ++c) put<kAdd>(target[c], source[c], bias[c]);
      } else {
        for (int64_t c = 0; c < channels; ++c) put<kAdd>(target[c], source[c], T(0));
      }
    }
    return;
  }
  if (to_width == 1 && from_channel == 1) {
    transpose<kAdd>(to, to_channel, from, from_width, positions, channels, bias);
    return;
  }
  for (int64_t c = 0; c < channels; ++c) {
    T* target = to + c * to_channel;
    const T* source = from + c * from_channel;
    const T offset = bias ? bias[c] : T(0);
    if (to_width == 1) {
      for (int64_t w = 0; w < positions; ++w) put<kAdd>(target[w], source[w * from_width], offset);
    } else {
      for (int64_t w = 0; w < positions; ++w)
        put<kAdd>(target[w * to_width], source[w * from_width], offset);
    }
  }
}

// A row of bias alone.
template <typename T>
void fill_row(T* to, int64_t to_channel, int64_t to_width, const T* bias, int64_t channels,
              int64_t positions) {
  if (to_channel == 1) {
    for (int64_t w = 0; w < positions; ++w)
      for (int64_t c = 0; c < channels; ++c) to[w * to_width + c] = bias ? bias[c] : T(0);
    return;
  }
  for (int64_t c = 0; c < channels; ++c) {
    T* target = to + c * to_channel;
    const T value = bias ? bias[c] : T(0);
    if (to_width == 1) {
      std::fill_n(target, positions, value);
    } else {
      for (int64_t w = 0; w < positions; ++w) target[w * to_width] = value;
    }
  }
}

// Bias everywhere.
template <typename T>
void fill_output(const Problem& problem, const Activation<T>& output, const T* bias) {
  const auto& axes = problem.axes;
  const int64_t rows = axes[0].output * axes[1].output;
  parallel(problem.batch * rows, problem.out_channels * axes[2].output, [&](int64_t i) {
    const int64_t row = i % rows;
    fill_row(output.at(i / rows, 0, row / axes[1].output, row % axes[1].output), output.channel,
             output.axes[2], bias, problem.out_channels, axes[2].output);
  });
}

// output += bias, for a dense output in either memory format.
template <typename T>
void add_bias(const Problem& problem, const Activation<T>& output, const T* bias) {
  const auto& axes = problem.axes;
  const int64_t channels = problem.out_channels;
  const int64_t positions = axes[0].output * axes[1].output * axes[2].output;
  if (output.channel == 1) {
    parallel(problem.batch * positions, channels, [&](int64_t i) {
      T* to = output.data + i * channels;
      for (int64_t c = 0; c < channels; ++c) to[c] += bias[c];
    });
  } else {
    parallel(problem.batch * channels, positions, [&](int64_t i) {
      T* to = output.data + i * positions;
      const T offset = bias[i % channels];
      for (int64_t p = 0; p < positions; ++p) to[p] += offset;
    });
  }
}

}  // namespace convt3d::cpu

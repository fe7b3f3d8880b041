#include "tensor.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cmath>
#include <cstring>
#include <numeric>

#include "block.h"
#include "instructions.h"

namespace convt3d::emulator {
namespace {

constexpr int64_t kGuard = 4096;  // bytes before and behind

int64_t product_of(const Sizes& size) {
  return std::accumulate(size.begin(), size.end(), int64_t{1}, std::multiplies<>());
}

double load(DataType type, const char* source) {
  const auto as = [source](auto value) {
    std::memcpy(&value, source, sizeof(value));
    return value;
  };
  switch (type) {
    case DataType::kFloat16:
      return __half2float(as(__half{}));
    case DataType::kBFloat16:
      return __bfloat162float(as(__nv_bfloat16{}));
    case DataType::kFloat32:
      return as(float{});
    case DataType::kFloat64:
      return as(double{});
    default:
      fail("complex tensors are not emulated");
  }
}

void store(DataType type, char* target, double value) {
  const auto write = [target](auto rounded) { std::memcpy(target, &rounded, sizeof(rounded)); };
  switch (type) {
    case DataType::kFloat16:
      return write(__float2half_rn(static_cast<float>(value)));
    case DataType::kBFloat16:
      return write(__float2bfloat16_rn(static_cast<float>(value)));
    case DataType::kFloat32:
      return write(static_cast<float>(value));
    case DataType::kFloat64:
      return write(value);
    default:
      fail("complex tensors are not emulated");
  }
}

double epsilon_of(DataType type) {
  switch (type) {
    case DataType::kFloat16:
      return 0x1p-11;
    case DataType::kBFloat16:
      return 0x1p-8;
    case DataType::kFloat32:
      return 0x1p-24;
    default:
      return 0x1p-53;
  }
}

double rounded_to_tf32(double value) {
  const auto narrow = static_cast<float>(value);
  uint32_t bits;
  std::memcpy(&bits, &narrow, sizeof(bits));
  bits = round_to_tf32(bits);
  float result;
  std::memcpy(&result, &bits, sizeof(result));
  return result;
}

}  // namespace

// ---- Tensors -----------------------------------------------------------------------------------
HostTensor::HostTensor(DataType type, const Sizes& size, Layout layout, const Padding& padding)
    : type_(type), size_(size), first_(padding.offset) {
  size_.resize(5, 1);
  const int channels_last[] = {1, 4, 3, 2, 0}, contiguous[] = {4, 3, 2, 1, 0};
  int64_t stride = 1;
  for (int i = 0; i < 5; ++i) {
    const int dimension = layout == Layout::kContiguous ? contiguous[i] : channels_last[i];
    stride_[dimension] = stride;
    stride *= size_[dimension] + padding.extra[dimension];
  }
  memory_.resize(2 * kGuard + 128 + (stride + first_) * element_bytes(type));
  base_ = kGuard + (128 - reinterpret_cast<intptr_t>(memory_.data() + kGuard) % 128) % 128;
  poison();
}

TensorPointer HostTensor::pointer() {
  return {memory_.data() + base_ + first_ * element_bytes(type_), stride_};
}

int64_t HostTensor::elements() const { return product_of(size_); }

int64_t HostTensor::place(int64_t index) const {
  int64_t at = first_;
  for (int dimension = 4; dimension >= 0; --dimension) {
    at += index % size_[dimension] * stride_[dimension];
    index /= size_[dimension];
  }
  return base_ + at * element_bytes(type_);
}

double HostTensor::at(int64_t index) const { return load(type_, memory_.data() + place(index)); }

void HostTensor::set(int64_t index, double value) {
  store(type_, memory_.data() + place(index), value);
}

void HostTensor::fill_random(std::mt19937_64& random) {
  std::uniform_real_distribution<double> values(-1, 1);
  for (int64_t i = 0; i < elements(); ++i) set(i, values(random));
}

void HostTensor::poison() { std::memset(memory_.data(), 0xff, memory_.size()); }

bool HostTensor::is_surrounded_by_poison() const {
  std::vector<char> other = memory_;
  const int bytes = element_bytes(type_);
  const int64_t lines = elements() / size_[4];
  for (int64_t line = 0; line < lines; ++line) {
    char* at = other.data() + place(line * size_[4]);
    for (int64_t w = 0; w < size_[4]; ++w, at += stride_[4] * bytes) std::memset(at, 0xff, bytes);
  }
  // All the same, and the first is poison.
  return other[0] == '\xff' && std::memcmp(other.data(), other.data() + 1, other.size() - 1) == 0;
}

// ---- The definition ----------------------------------------------------------------------------
namespace {

// Channels fastest: (batch, positions, channels), or (taps, in channels, out channels).
struct Wide {
  std::vector<double> value;
  int64_t outer, channels, inner;

  Wide(const HostTensor* tensor, const Sizes& size, bool is_weight, bool to_tf32)
      : outer(is_weight ? 1 : size[0]),
        channels(is_weight ? size[0] * size[1] : size[1]),
        inner(size[2] * size[3] * size[4]) {
    value.assign(outer * channels * inner, 0);
    if (tensor == nullptr) return;
    for (int64_t i = 0; i < static_cast<int64_t>(value.size()); ++i) {
      const double element = tensor->at(i);
      value[place(i)] = to_tf32 ? rounded_to_tf32(element) : element;
    }
  }
  int64_t place(int64_t index) const {
    const int64_t position = index % inner, channel = index / inner % channels;
    return (index / inner / channels * inner + position) * channels + channel;
  }
};

// Calls `use` with the positions of input, output and tap that meet, for all of them.
template <typename Use>
void for_each_meeting(const Problem& problem, Use&& use) {
  const auto& [d, h, w] = problem.axes;
  const auto output_of = [](const Axis& axis, int64_t input, int64_t tap) {
    const int64_t output = axis.stride * input - axis.padding + axis.dilation * tap;
    return output < axis.output ? output : -1;
  };
  for (int64_t z = 0; z < d.input; ++z)
    for (int64_t kz = 0; kz < d.kernel; ++kz) {
      const int64_t oz = output_of(d, z, kz);
      if (oz < 0) continue;
      for (int64_t y = 0; y < h.input; ++y)
        for (int64_t ky = 0; ky < h.kernel; ++ky) {
          const int64_t oy = output_of(h, y, ky);
          if (oy < 0) continue;
          for (int64_t x = 0; x < w.input; ++x)
            for (int64_t kx = 0; kx < w.kernel; ++kx) {
              const int64_t ox = output_of(w, x, kx);
              if (ox < 0) continue;
              use((z * h.input + y) * w.input + x, (oz * h.output + oy) * w.output + ox,
                  (kz * h.kernel + ky) * w.kernel + kx);
            }
        }
    }
}

}  // namespace

Expected definition(const Problem& problem, Operation operation, const HostTensor& first,
                    const HostTensor& second, const HostTensor* bias, bool to_tf32) {
  const bool forward = operation == Operation::kForward;
  const bool grad_weight = operation == Operation::kGradWeight;
  const auto five = [](Sizes size) { return size; };
  const Sizes input_size = five(problem.input_size()), output_size = five(problem.output_size());
  Wide x(forward ? &first : grad_weight ? &second : nullptr, input_size, false, to_tf32);
  Wide y(forward ? nullptr : &first, output_size, false, to_tf32);
  Wide k(grad_weight ? nullptr : &second, problem.weight_size(), true, to_tf32);
  Wide& result = forward ? y : grad_weight ? k : x;
  std::vector<double> magnitude(result.value.size(), 0);
  std::vector<int> terms(result.value.size(), 0);
  const int64_t in = problem.in_channels_per_group(), out = problem.out_channels_per_group();
  for_each_meeting(problem, [&](int64_t at_x, int64_t at_y, int64_t tap) {
    for (int64_t n = 0; n < problem.batch; ++n)
      for (int64_t group = 0; group < problem.groups; ++group) {
        const int64_t xs = (n * x.inner + at_x) * x.channels + group * in;
        const int64_t ys = (n * y.inner + at_y) * y.channels + group * out;
        for (int64_t i = 0; i < in; ++i) {
          const int64_t ks = (tap * problem.in_channels + group * in + i) * out;
          if (forward)
            for (int64_t o = 0; o < out; ++o) {
              const double term = x.value[xs + i] * k.value[ks + o];
              y.value[ys + o] += term;
              magnitude[ys + o] += std::abs(term);
              ++terms[ys + o];
            }
          else if (grad_weight)
            for (int64_t o = 0; o < out; ++o) {
              const double term = x.value[xs + i] * y.value[ys + o];
              k.value[ks + o] += term;
              magnitude[ks + o] += std::abs(term);
              ++terms[ks + o];
            }
          else
            for (int64_t o = 0; o < out; ++o) {
              const double term = y.value[ys + o] * k.value[ks + o];
              x.value[xs + i] += term;
              magnitude[xs + i] += std::abs(term);
              ++terms[xs + i];
            }
        }
      }
  });
  const size_t count = result.value.size();
  Expected expected{std::vector<double>(count), std::vector<double>(count),
                    std::vector<int>(count)};
  for (size_t i = 0; i < count; ++i) {
    const int64_t at = result.place(static_cast<int64_t>(i));
    const double added =
        bias != nullptr ? bias->at(static_cast<int64_t>(i) / result.inner % result.channels) : 0;
    expected.value[i] = result.value[at] + added;
    expected.magnitude[i] = magnitude[at] + std::abs(added);
    expected.terms[i] = terms[at] + 1;
  }
  return expected;
}

std::string difference(const HostTensor& result, const Expected& expected, DataType type) {
  constexpr int kShown = 5;
  const double sums = type == DataType::kFloat64 ? 0x1p-52 : 0x1p-23;
  std::string text;
  int64_t wrong = 0;
  for (int64_t i = 0; i < result.elements(); ++i) {
    const double found = result.at(i), wanted = expected.value[i];
    const double allowed = 4 * sums * std::sqrt(expected.terms[i]) * expected.magnitude[i] +
                           1.01 * epsilon_of(type) * std::abs(wanted) + 1e-7;
    if (std::abs(found - wanted) <= allowed) continue;
    if (++wrong > kShown) continue;
    int64_t at[5], rest = i;
    for (int d = 4; d >= 0; --d) {
      at[d] = rest % result.size()[d];
      rest /= result.size()[d];
    }
    char line[200];
    std::snprintf(line, sizeof(line), "  (%d, %d, %d, %d, %d): %g instead of %g, +- %g\n",
                  static_cast<int>(at[0]), static_cast<int>(at[1]), static_cast<int>(at[2]),
                  static_cast<int>(at[3]), static_cast<int>(at[4]), found, wanted, allowed);
    text += line;
  }
  if (wrong > 0)
    text = std::to_string(wrong) + " of " + std::to_string(result.elements()) +
           " elements differ:\n" + text;
  return text;
}

}  // namespace convt3d::emulator

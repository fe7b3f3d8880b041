// Shapes, checks and index algebra of the 3-D transposed convolution. No torch, no CUDA headers.
// meta/shape.py is the Python twin of the checks: same conditions, same order, same texts.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <vector>

#if defined(__CUDACC__)
#define CONVT3D_HOST_DEVICE __host__ __device__
#else
#define CONVT3D_HOST_DEVICE
#endif

namespace convt3d {

using Sizes = std::vector<int64_t>;

// One spatial axis of a problem. Output position o, input position i and tap k meet where
//   o = stride * i - padding + dilation * k.
struct Axis {
  int64_t input;
  int64_t output;
  int64_t kernel;
  int64_t stride;
  int64_t padding;
  int64_t output_padding;
  int64_t dilation;
};

// Axes in the order depth, height, width.
struct Problem {
  int64_t batch;
  int64_t in_channels;
  int64_t out_channels;
  int64_t groups;
  bool batched;  // false: the tensors have no batch dimension and `batch` is 1
  std::array<Axis, 3> axes;

  int64_t in_channels_per_group() const { return in_channels / groups; }
  int64_t out_channels_per_group() const { return out_channels / groups; }
  Sizes input_size() const;
  Sizes output_size() const;
  Sizes weight_size() const;
};

// The operator's arguments as they arrive: a list of one element stands for all three axes.
struct Arguments {
  Sizes stride;
  Sizes padding;
  Sizes output_padding;
  int64_t groups;
  Sizes dilation;
};

// Each of these throws std::runtime_error with PyTorch's wording where the sizes do not fit.
Problem forward_problem(const Sizes& input, const Sizes& weight, const std::optional<Sizes>& bias,
                        const Arguments& arguments);
Problem grad_input_problem(const Sizes& grad_output, const Sizes& weight,
                           const Arguments& arguments);
Problem grad_weight_problem(const Sizes& grad_output, const Sizes& input,
                            const Arguments& arguments);

// ATen's suggest_memory_format: whether 5-D strides say channels_last_3d. Other ranks never do;
// an unbatched 4-D activation is asked after ATen's unsqueeze(0).
bool suggests_channels_last_3d(Sizes size, Sizes stride);
// Strides of a dense tensor of 5 or (unbatched) 4 dimensions in either memory format.
Sizes dense_strides(const Sizes& size, bool channels_last);

// ---- The tap table, in closed form ---------------------------------------------------------
// With u = o + padding = stride * q + r, tap k serves residue r(k) = dilation * k mod stride and
// reads input q - shift(k), shift(k) = floor(dilation * k / stride). The taps of one residue are
// first, first + period, first + 2 * period, ... and their shifts grow by shift_step each.
template <typename Index>
struct TapTable {
  Index input;
  Index output;
  Index kernel;
  Index stride;
  Index padding;
  Index dilation;
  Index common;      // gcd(stride, dilation): residues that are no multiple of it have no tap
  Index period;      // stride / common
  Index shift_step;  // dilation / common
  Index inverse;     // of shift_step modulo period

  explicit TapTable(const Axis& axis)
      : input(static_cast<Index>(axis.input)),
        output(static_cast<Index>(axis.output)),
        kernel(static_cast<Index>(axis.kernel)),
        stride(static_cast<Index>(axis.stride)),
        padding(static_cast<Index>(axis.padding)),
        dilation(static_cast<Index>(axis.dilation)) {
    Index a = stride, b = dilation;
    while (b != 0) {
      const Index rest = a % b;
      a = b;
      b = rest;
    }
    common = a;
    period = stride / common;
    shift_step = dilation / common;
    // Extended Euclid: keeps u * shift_step congruent to v modulo period.
    Index u = 0, next_u = 1, v = period, next_v = shift_step % period;
    while (next_v != 0) {
      const Index quotient = v / next_v;
      const Index rest_u = u - quotient * next_u, rest_v = v - quotient * next_v;
      u = next_u;
      next_u = rest_u;
      v = next_v;
      next_v = rest_v;
    }
    inverse = ((u % period) + period) % period;
  }

  CONVT3D_HOST_DEVICE Index residue(Index tap) const { return dilation * tap % stride; }
  CONVT3D_HOST_DEVICE Index shift(Index tap) const { return dilation * tap / stride; }
  // The smallest tap of a residue, whether or not the kernel is long enough to have it; -1: none.
  CONVT3D_HOST_DEVICE Index first_tap(Index residue) const {
    if (residue % common != 0) return -1;
    // The factors are below `period`: the product needs 64 bits when the index has 32.
    return static_cast<Index>(static_cast<int64_t>(residue / common) * inverse % period);
  }
};

// `count` partners of one position along one axis: tap, tap + tap_step, ... meet positions
// position, position + position_step, ...
template <typename Index>
struct Partners {
  Index tap;
  Index position;
  Index count;
};

template <typename Index>
CONVT3D_HOST_DEVICE Index ceil_div(Index a, Index b) {
  return (a + b - 1) / b;  // a >= 0, b > 0
}

// Taps and input positions that make up output position `output`:
// taps rise by table.period, inputs fall by table.shift_step.
template <typename Index>
CONVT3D_HOST_DEVICE Partners<Index> partners_of_output(const TapTable<Index>& table, Index output) {
  const Index u = output + table.padding;
  const Index residue = u % table.stride;
  const Index first = table.first_tap(residue);
  if (first < 0 || first >= table.kernel) return {0, 0, 0};
  const Index start = u / table.stride - table.shift(first);  // the input of tap `first`
  if (start < 0) return {0, 0, 0};
  Index skipped = 0;  // taps whose input lies behind the last position
  if (start >= table.input) skipped = ceil_div(start - (table.input - 1), table.shift_step);
  const Index by_kernel = (table.kernel - 1 - first) / table.period;
  const Index by_input = start / table.shift_step;
  const Index last = by_kernel < by_input ? by_kernel : by_input;
  if (last < skipped) return {0, 0, 0};
  return {first + skipped * table.period, start - skipped * table.shift_step, last - skipped + 1};
}

// Taps and output positions that input position `input` contributes to:
// taps rise by 1, outputs rise by table.dilation.
template <typename Index>
CONVT3D_HOST_DEVICE Partners<Index> partners_of_input(const TapTable<Index>& table, Index input) {
  const Index start = table.stride * input - table.padding;  // the output of tap 0
  const Index first = start < 0 ? ceil_div(-start, table.dilation) : 0;
  if (start >= table.output || first >= table.kernel) return {0, 0, 0};
  const Index by_output = (table.output - 1 - start) / table.dilation;
  const Index last = by_output < table.kernel - 1 ? by_output : table.kernel - 1;
  if (last < first) return {0, 0, 0};
  return {first, start + first * table.dilation, last - first + 1};
}

// Inputs whose product with tap `tap` falls inside the output; `tap` here is the first input,
// `position` its output: inputs rise by 1, outputs rise by table.stride.
template <typename Index>
CONVT3D_HOST_DEVICE Partners<Index> partners_of_tap(const TapTable<Index>& table, Index tap) {
  const Index start = table.dilation * tap - table.padding;  // the output of input 0
  const Index first = start < 0 ? ceil_div(-start, table.stride) : 0;
  if (start >= table.output || first >= table.input) return {0, 0, 0};
  const Index by_output = (table.output - 1 - start) / table.stride;
  const Index last = by_output < table.input - 1 ? by_output : table.input - 1;
  if (last < first) return {0, 0, 0};
  return {first, start + first * table.stride, last - first + 1};
}

}  // namespace convt3d

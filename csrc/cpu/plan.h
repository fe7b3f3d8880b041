// Which engine computes what, with the reason per row.
#pragma once

#include <type_traits>

#include "gemm.h"
#include "onednn.h"

namespace convt3d::cpu {

enum class Engine { kGemm, kConvolution };

template <typename T>
Engine plan(const Problem& problem) {
  // Taps that never meet (kernel <= stride): the product is all the arithmetic there is and the
  // results only have to be interleaved. oneDNN's convolutions take up to five times as long here.
  if (taps_are_disjoint(problem)) return Engine::kGemm;
  // oneDNN's convolutions know no float64 and no integers.
  if (!std::is_same_v<T, float>) return Engine::kGemm;
  // Cannot be cut in two along depth (see onednn.cpp).
  if (problem.axes[0].input < 2) return Engine::kGemm;
  // Overlapping taps: the columns of a matrix product would be (kernel / stride)^3 times the
  // output, while a convolution sums in registers.
  return Engine::kConvolution;
}

// The memory format in which the engine wants the input, and the gradient of it, dense.
// The output's side may have any strides.
template <typename T>
bool wants_channels_last(const Problem& problem, bool offered) {
  // Sums of overlapping taps are made in contiguous rows.
  return offered && (plan<T>(problem) == Engine::kConvolution || taps_are_disjoint(problem));
}

// ---- Only one in stride^3 output elements has a tap when stride and dilation share a factor ----
// u = o + padding = stride * i + dilation * k is then a multiple of the factor, and the problem is
// a smaller one on the sub-lattice of such o. Everything else is bias.
struct Lattice {
  Problem problem;                // with the factor taken out of stride, dilation and output
  std::array<int64_t, 3> factor;  // distance of its output positions in the original output
  std::array<int64_t, 3> offset;  // the first of them
  bool reduced;                   // some factor is not 1
  bool empty;                     // no output element has a tap

  explicit Lattice(const Problem& original) : problem(original), reduced(false), empty(false) {
    for (int a = 0; a < 3; ++a) {
      Axis& axis = problem.axes[a];
      factor[a] = TapTable<int64_t>(axis).common;
      reduced = reduced || factor[a] != 1;
      const int64_t first = ceil_div(axis.padding, factor[a]);  // the first u / factor with o >= 0
      offset[a] = first * factor[a] - axis.padding;
      axis.output = offset[a] < axis.output ? ceil_div(axis.output - offset[a], factor[a]) : 0;
      axis.padding = first;
      axis.stride /= factor[a];
      axis.dilation /= factor[a];
      empty = empty || axis.output == 0;
    }
  }

  template <typename T>
  Activation<T> of(Activation<T> output) const {
    for (int a = 0; a < 3; ++a) {
      output.data += offset[a] * output.axes[a];
      output.axes[a] *= factor[a];
    }
    return output;
  }
};

}  // namespace convt3d::cpu

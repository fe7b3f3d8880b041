// How a problem is computed: a table with the reason per row (measured on two cores with AVX-512;
// the batch has no say, so that a sample is computed alike whatever its batch), and the sub-lattice
// of the output that the taps reach.
#pragma once

#include <type_traits>

#include "convolution.h"
#include "gemm.h"

namespace convt3d::cpu {

enum class Pass { kForward, kGradInput, kGradWeight };
enum class Method { kGemm, kDirect, kPacked };

// An activation on the output's side from here on is large: what ATen allocates for it, and for
// oneDNN's copies of it, comes from fresh pages on every call (glibc's limit is 32 MiB).
constexpr int64_t kLargeBytes = 16 << 20;

// `channels_last`: the format of the result. `dense`: the activations are whole and dense in it.
template <typename T>
Method plan(Pass pass, const Problem& problem, bool channels_last, bool dense) {
  // oneDNN's convolutions know no float64 and no integers.
  if (!std::is_same_v<T, float>) return Method::kGemm;

  const auto& axes = problem.axes;
  // One call on whole channels-last tensors would not split long sums (plain ones it does).
  const bool precise =
      !channels_last || pass == Pass::kGradWeight ||
      !is_long(pass == Pass::kForward ? products_per_output(problem) : products_per_input(problem));
  // Of one output channel, oneDNN sums differently in batches of one and of two.
  const bool alike = pass != Pass::kForward || problem.out_channels_per_group() > 1;
  const bool direct = dense && precise && alike && convolves_directly(problem);
  const int64_t bytes = static_cast<int64_t>(sizeof(float)) * problem.out_channels *
                        axes[0].output * axes[1].output * axes[2].output;

  // Input rows of one position make some of oneDNN's kernels read outside their operands.
  if (axes[2].input < 2) return Method::kGemm;
  if (taps_are_disjoint(problem)) {
    // kernel <= stride, forward: the product is all the arithmetic there is, and its results only
    // have to be interleaved. oneDNN takes two to five times as long.
    if (pass == Pass::kForward) return Method::kGemm;
    // The gradients' strided reads oneDNN does well, while it is spared the large tensors.
    return direct && bytes < kLargeBytes ? Method::kDirect : Method::kGemm;
  }
  // A single input plane cannot be cut in two, which is what makes a small problem oneDNN's.
  if (axes[0].input < 2 && !direct) return Method::kGemm;
  // oneDNN's weight gradient in plain layout takes twice to three times as long as in channels-last
  // when there are groups or dilation.
  if (pass == Pass::kGradWeight && !channels_last &&
      (problem.groups > 1 || axes[2].dilation > 1 || axes[1].dilation > 1))
    return Method::kPacked;
  // Forward with a stride is a fifth faster in channels-last. That pays for the copies, and for one
  // call per sample, unless samples are tiny.
  const bool strided = axes[0].stride > 1 || axes[1].stride > 1 || axes[2].stride > 1;
  const int64_t positions = axes[0].input * axes[1].input * axes[2].input;
  if (pass == Pass::kForward && !channels_last && strided && positions >= 2048)
    return Method::kPacked;
  // Small and one of oneDNN's own: any copy costs more than it brings.
  if (direct && bytes < kLargeBytes) return Method::kDirect;
  // Overlapping taps otherwise. (The columns of a matrix product would be up to the number of taps
  // times the input; a convolution sums in registers.)
  return Method::kPacked;
}

// ---- Only one in stride^3 output elements has a tap when stride and dilation share a factor ----
// u = o + padding = stride * i + dilation * k is then a multiple of the factor, and the problem is
// a smaller one on the sub-lattice of such o. Everything else is bias.
struct Lattice {
  Problem problem;                // with the factor taken out of stride, dilation and output
  std::array<int64_t, 3> factor;  // distance of its output positions in the original output
  std::array<int64_t, 3> offset;  // the first of them
  bool reduced = false;           // some factor is not 1
  bool empty = false;             // no output element has a tap

  explicit Lattice(const Problem& original) : problem(original) {
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

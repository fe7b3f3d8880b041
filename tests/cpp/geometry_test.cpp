// csrc/geometry.h against the definition, exhaustively over small axes.
//
// Tap k of input position i belongs to output position o where o = stride*i - padding + dilation*k.
// Exits with 1 and the first few differences, or prints how many axes agreed.
#include "../../csrc/geometry.h"

#include <algorithm>
#include <cstdio>
#include <stdexcept>
#include <string>
#include <vector>

using convt3d::Arguments;
using convt3d::Axis;
using convt3d::Partners;
using convt3d::Problem;
using convt3d::Sizes;
using convt3d::TapTable;

namespace {

int failures = 0;

void fail(const Axis& a, const char* what, int64_t at) {
  if (++failures > 10) return;
  std::printf(
      "%s at %lld: input %lld kernel %lld stride %lld padding %lld output_padding %lld "
      "dilation %lld\n",
      what, static_cast<long long>(at), static_cast<long long>(a.input),
      static_cast<long long>(a.kernel), static_cast<long long>(a.stride),
      static_cast<long long>(a.padding), static_cast<long long>(a.output_padding),
      static_cast<long long>(a.dilation));
}

void expect(bool condition, const char* what) {
  if (condition) return;
  ++failures;
  std::printf("not so: %s\n", what);
}

struct Pair {
  int64_t tap;
  int64_t position;
  bool operator==(const Pair&) const = default;
};

template <typename Index>
std::vector<Pair> listed(const Partners<Index>& partners, int64_t tap_step, int64_t position_step) {
  std::vector<Pair> pairs;
  for (int64_t j = 0; j < partners.count; ++j)
    pairs.push_back({partners.tap + j * tap_step, partners.position + j * position_step});
  return pairs;
}

int64_t output_of(const Axis& a, int64_t input, int64_t tap) {
  return a.stride * input - a.padding + a.dilation * tap;
}

template <typename Index>
void check_taps(const Axis& a) {
  const TapTable<Index> table(a);
  for (int64_t residue = 0; residue < a.stride; ++residue) {
    int64_t first = -1;  // of a kernel as long as it takes
    for (int64_t tap = a.stride - 1; tap >= 0; --tap)
      if (a.dilation * tap % a.stride == residue) first = tap;
    if (table.first_tap(static_cast<Index>(residue)) != first) fail(a, "first_tap", residue);
  }
  for (int64_t tap = 0; tap < a.kernel; ++tap) {
    const Index t = static_cast<Index>(tap);
    // Whatever the padding, o + padding = stride * (input + shift) + residue.
    const int64_t u = output_of(a, 0, tap) + a.padding;
    if (table.stride * table.shift(t) + table.residue(t) != u) fail(a, "shift and residue", tap);
    if (table.residue(t) < 0 || table.residue(t) >= a.stride) fail(a, "residue's range", tap);
    const Index next = static_cast<Index>(tap + table.period);
    if (table.residue(next) != table.residue(t)) fail(a, "period", tap);
    if (table.shift(next) != table.shift(t) + table.shift_step) fail(a, "shift_step", tap);
  }
}

template <typename Index>
void check_partners(const Axis& a) {
  const TapTable<Index> table(a);
  for (int64_t output = 0; output < a.output; ++output) {
    std::vector<Pair> wanted;
    for (int64_t tap = 0; tap < a.kernel; ++tap)
      for (int64_t input = 0; input < a.input; ++input)
        if (output_of(a, input, tap) == output) wanted.push_back({tap, input});
    const auto found = partners_of_output(table, static_cast<Index>(output));
    if (listed(found, table.period, -table.shift_step) != wanted)
      fail(a, "partners_of_output", output);
  }
  for (int64_t input = 0; input < a.input; ++input) {
    std::vector<Pair> wanted;
    for (int64_t tap = 0; tap < a.kernel; ++tap) {
      const int64_t output = output_of(a, input, tap);
      if (output >= 0 && output < a.output) wanted.push_back({tap, output});
    }
    const auto found = partners_of_input(table, static_cast<Index>(input));
    if (listed(found, 1, a.dilation) != wanted) fail(a, "partners_of_input", input);
  }
  for (int64_t tap = 0; tap < a.kernel; ++tap) {
    std::vector<Pair> wanted;
    for (int64_t input = 0; input < a.input; ++input) {
      const int64_t output = output_of(a, input, tap);
      if (output >= 0 && output < a.output) wanted.push_back({input, output});
    }
    const auto found = partners_of_tap(table, static_cast<Index>(tap));
    if (listed(found, 1, a.stride) != wanted) fail(a, "partners_of_tap", tap);
  }
}

// The problem of one axis, through the public functions, so that they agree with one another.
void check_problems(const Axis& a) {
  const Sizes input{2, 4, a.input, 1, 3}, weight{4, 3, a.kernel, 2, 1};
  const Arguments arguments{
      {a.stride, 1, 2}, {a.padding, 0, 0}, {a.output_padding, 0, 1}, 2, {a.dilation, 1, 1}};
  const Problem problem = forward_problem(input, weight, Sizes{6}, arguments);
  if (problem.axes[0].output != a.output) fail(a, "output size", problem.axes[0].output);
  if (problem.input_size() != input || problem.weight_size() != weight) fail(a, "sizes", 0);
  const Sizes output = problem.output_size();
  if (output != Sizes{2, 6, a.output, 2, 6}) fail(a, "output_size", 0);
  if (grad_input_problem(output, weight, arguments).input_size() != input)
    fail(a, "grad_input_problem", 0);
  if (grad_weight_problem(output, input, arguments).weight_size() != weight)
    fail(a, "grad_weight_problem", 0);
}

int check_all_axes() {
  int count = 0;
  for (int64_t stride = 1; stride <= 5; ++stride)
    for (int64_t dilation = 1; dilation <= 5; ++dilation)
      for (int64_t kernel = 1; kernel <= 6; ++kernel)
        for (int64_t padding = 0; padding <= 4; ++padding)
          for (int64_t input = 1; input <= 5; ++input)
            for (int64_t extra = 0; extra < std::max(stride, dilation); ++extra) {
              const int64_t output =
                  (input - 1) * stride - 2 * padding + dilation * (kernel - 1) + extra + 1;
              if (output < 1) continue;
              const Axis axis{input, output, kernel, stride, padding, extra, dilation};
              check_taps<int32_t>(axis);
              check_taps<int64_t>(axis);
              check_partners<int32_t>(axis);
              check_partners<int64_t>(axis);
              check_problems(axis);
              ++count;
            }
  return count;
}

// Axes whose positions or products need 64 bits, or nearly 32.
void check_large_axes() {
  const int64_t stride = 46339, kernel = 3;
  const Axis coprime{5, 4 * stride + 46337 * (kernel - 1) + 1, kernel, stride, 0, 0, 46337};
  check_taps<int32_t>(coprime);
  check_taps<int64_t>(coprime);
  const int64_t far = int64_t{3} << 31;
  const TapTable<int64_t> table(Axis{far, 2 * far + 1, 3, 2, 1, 0, 1});
  const auto at = partners_of_output(table, 2 * far - 3);  // u = 2 * (far - 1): taps 0 and 2
  expect(at.count == 2 && at.tap == 0 && at.position == far - 1, "partners beyond 2^32");
}

void check_strides() {
  const Sizes batched{2, 3, 4, 5, 6}, unbatched{3, 4, 5, 6};
  expect(convt3d::dense_strides(batched, false) == Sizes{360, 120, 30, 6, 1}, "contiguous");
  expect(convt3d::dense_strides(batched, true) == Sizes{360, 1, 90, 18, 3}, "channels_last_3d");
  expect(convt3d::dense_strides(unbatched, false) == Sizes{120, 30, 6, 1}, "unbatched");
  expect(convt3d::dense_strides(unbatched, true) == Sizes{1, 90, 18, 3}, "unbatched, last");
  expect(convt3d::suggests_channels_last_3d(batched, {360, 1, 90, 18, 3}), "suggests");
  expect(!convt3d::suggests_channels_last_3d(batched, {360, 120, 30, 6, 1}), "suggests not");
  expect(!convt3d::suggests_channels_last_3d(batched, {0, 0, 0, 0, 0}), "expanded");
  expect(!convt3d::suggests_channels_last_3d({3, 4, 5}, {1, 15, 3}), "three dimensions");
}

template <typename Call>
void expect_error(const Call& call, const std::string& part) {
  try {
    call();
  } catch (const std::runtime_error& error) {
    if (std::string(error.what()).find(part) == std::string::npos) {
      ++failures;
      std::printf("expected \"%s\", got \"%s\"\n", part.c_str(), error.what());
    }
    return;
  }
  ++failures;
  std::printf("not refused: %s\n", part.c_str());
}

void check_errors() {
  const Sizes input{1, 4, 5, 5, 5}, weight{4, 2, 3, 3, 3};
  const Arguments plain{{1}, {0}, {0}, 1, {1}};
  const auto forward = [&](const Arguments& arguments) {
    return [&, arguments] { forward_problem(input, weight, std::nullopt, arguments); };
  };
  expect(forward_problem(input, weight, std::nullopt, plain).output_size() == Sizes{1, 2, 7, 7, 7},
         "one element stands for three");
  expect_error(forward({{1, 1}, {0}, {0}, 1, {1}}), "expected stride to be a single integer value");
  expect_error(forward({{0}, {0}, {0}, 1, {1}}), "non-positive stride");
  expect_error(forward({{1}, {-1}, {0}, 1, {1}}), "negative padding");
  expect_error(forward({{1}, {0}, {1}, 1, {1}}), "output padding must be smaller");
  expect_error(forward({{1}, {0}, {0}, 3, {1}}), "divisible by 3");
  expect_error(forward({{1}, {4}, {0}, 1, {1}}), "Output size is too small");
  expect_error([&] { grad_input_problem({1, 2, 2, 7, 7}, weight, plain); }, "is not the size of");
  expect_error([&] { grad_weight_problem({1, 2, 4, 7, 7}, input, plain); }, "no kernel size takes");
}

}  // namespace

int main() {
  const int count = check_all_axes();
  check_large_axes();
  check_strides();
  check_errors();
  if (failures) {
    std::printf("%d differences\n", failures);
    return 1;
  }
  std::printf("%d axes agree\n", count);
  return 0;
}

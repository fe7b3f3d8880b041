#include "problem.h"

#include <algorithm>
#include <cstdio>
#include <initializer_list>
#include <sstream>

#include "block.h"

namespace convt3d::emulator {
namespace {

void set_output(Axis& axis) {
  axis.output = (axis.input - 1) * axis.stride - 2 * axis.padding +
                axis.dilation * (axis.kernel - 1) + axis.output_padding + 1;
}

// Products of a whole pass.
double products_of(const Problem& problem) {
  double products = static_cast<double>(problem.batch) * problem.in_channels *
                    static_cast<double>(problem.out_channels_per_group());
  for (const Axis& axis : problem.axes) products *= static_cast<double>(axis.input * axis.kernel);
  return products;
}

}  // namespace

Problem random_problem(std::mt19937_64& random, const Family& family) {
  const auto between = [&random](int64_t low, int64_t high) {
    return low + static_cast<int64_t>(random() % static_cast<uint64_t>(high - low + 1));
  };
  const auto one_of = [&random](std::initializer_list<int64_t> values) {
    return values.begin()[random() % values.size()];
  };
  for (;;) {
    Problem problem{};
    problem.batched = true;
    problem.batch = one_of({1, 1, 2, 3, 5});
    problem.groups = one_of({1, 1, 1, 2, 3});
    const bool aligned = family.aligned && between(0, 9) > 0;
    const auto channels = [&] {
      return one_of({8, 16, 32, 48, 64, aligned ? 8 * between(1, 12) : between(1, 100)});
    };
    if (family.depthwise) {
      problem.groups = one_of({2, 8, 24, 32, between(2, 70)});
      const auto some = [&] { return one_of({1, 1, 1, 2, 3}); };
      problem.in_channels = problem.groups * some();
      problem.out_channels = problem.groups * some();
    } else {
      problem.in_channels = problem.groups * channels();
      problem.out_channels = problem.groups * (family.heads ? between(1, 8) : channels());
    }
    if (family.wide) {
      problem.groups = one_of({1, 1, 1, 2});
      const auto many = [&] {
        return problem.groups * (problem.groups > 1 ? 64 * between(1, 2) : 8 * between(5, 20));
      };
      problem.in_channels = many();
      problem.out_channels = many();
    }
    const bool usual = family.depthwise && between(0, 2) > 0;
    const int64_t which = between(0, 4);
    const bool small = between(0, 3) == 0, same = between(0, 1) == 0;
    if (small) problem.batch = between(1, 20);
    const int64_t common[3] = {one_of({1, 2, 3, 4, 5}), one_of({1, 2, 2, 3, 4}), between(0, 2)};
    for (int a = 0; a < 3; ++a) {
      Axis& axis = problem.axes[a];
      axis.input = small ? between(1, 9) : a == 0 ? between(1, 8) : between(1, 34);
      // Lines that start and end on 16-byte boundaries are read in longer runs.
      if (a == 2 && !small) axis.input = one_of({axis.input, 4 * between(1, 8), 8 * between(1, 4)});
      axis.kernel = same ? common[0] : one_of({1, 2, 3, 3, 4, 5});
      axis.stride = same ? common[1] : one_of({1, 1, 2, 2, 3, 4});
      axis.padding = same ? common[2] : between(0, 4);
      axis.dilation = same ? 1 : one_of({1, 1, 1, 2, 3});
      if (usual) {  // the taps that depthwise engines have kernels of their own for
        constexpr int64_t kUsual[][3] = {{3, 1, 1}, {2, 2, 0}, {3, 2, 1}, {4, 2, 1}, {5, 2, 2}};
        axis = {axis.input, 0, kUsual[which][0], kUsual[which][1], kUsual[which][2], 0, 1};
      }
      if (family.heads && a == 2 && between(0, 3) > 0) axis.input = 4 * between(1, 8);
      if (family.lines && a == 2 && between(0, 7) > 0) axis.input = 8 * between(1, 4);
      axis.output_padding = between(0, std::max(axis.stride, axis.dilation) - 1);
      set_output(axis);
    }
    const bool exists = std::all_of(problem.axes.begin(), problem.axes.end(),
                                    [](const Axis& axis) { return axis.output > 0; });
    const double products = products_of(problem);
    if (family.lines && problem.axes[2].output % 8 != 0 && between(0, 31) > 0) continue;
    if (family.heads && problem.out_channels / problem.groups * problem.axes[0].kernel *
                                problem.axes[1].kernel * problem.axes[2].kernel >
                            160)
      continue;
    if (exists && products <= family.products) return problem;
  }
}

std::string text_of(const Problem& problem) {
  std::ostringstream text;
  text << "batch=" << problem.batch << " in=" << problem.in_channels
       << " out=" << problem.out_channels << " groups=" << problem.groups;
  const auto add = [&](const char* name, int64_t Axis::* field) {
    text << ' ' << name << '=' << problem.axes[0].*field << ',' << problem.axes[1].*field << ','
         << problem.axes[2].*field;
  };
  add("size", &Axis::input);
  add("kernel", &Axis::kernel);
  add("stride", &Axis::stride);
  add("padding", &Axis::padding);
  add("output_padding", &Axis::output_padding);
  add("dilation", &Axis::dilation);
  return text.str();
}

Problem problem_of(const std::string& text) {
  Problem problem{1, 1, 1, 1, true, {}};
  problem.axes.fill({1, 0, 1, 1, 0, 0, 1});
  std::istringstream words(text);
  for (std::string word; words >> word;) {
    const size_t equals = word.find('=');
    const std::string name = word.substr(0, equals);
    const char* const values = equals == word.npos ? "" : word.c_str() + equals + 1;
    long long number[3];
    const int count = std::sscanf(values, "%lld,%lld,%lld", number, number + 1, number + 2);
    const auto set_axes = [&](int64_t Axis::* field) {
      if (count != 3) fail("'%s' is not name=d,h,w", word.c_str());
      for (int a = 0; a < 3; ++a) problem.axes[a].*field = number[a];
    };
    const auto set = [&](int64_t& field) {
      if (count != 1) fail("'%s' is not name=number", word.c_str());
      field = number[0];
    };
    if (name == "batch")
      set(problem.batch);
    else if (name == "in")
      set(problem.in_channels);
    else if (name == "out")
      set(problem.out_channels);
    else if (name == "groups")
      set(problem.groups);
    else if (name == "size")
      set_axes(&Axis::input);
    else if (name == "kernel")
      set_axes(&Axis::kernel);
    else if (name == "stride")
      set_axes(&Axis::stride);
    else if (name == "padding")
      set_axes(&Axis::padding);
    else if (name == "output_padding")
      set_axes(&Axis::output_padding);
    else if (name == "dilation")
      set_axes(&Axis::dilation);
    else
      fail("a problem has no '%s'", name.c_str());
  }
  for (Axis& axis : problem.axes) set_output(axis);
  return problem;
}

}  // namespace convt3d::emulator

// The depthwise kernels' threads, run one after the other on the CPU, against the definition.
//
// Values are small integers, so that sums are exact in any order. What must not be read is NaN, and
// so is every result before. Exits with 1 and the first few differences, or prints how many
// problems agreed.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <limits>
#include <random>
#include <vector>

#include "../../csrc/cuda/kernels/depthwise_grad_weight_thread.h"

using namespace convt3d;

namespace {

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr int kGuard = 64;  // NaN before and after each tensor
std::mt19937 generator(1);

int below(int limit) { return static_cast<int>(generator() % static_cast<unsigned>(limit)); }

enum class Layout { kContiguous, kChannelsLast, kSliced };

// A tensor amid NaN.
struct Memory {
  std::vector<float> values;
  TensorPointer tensor;
  std::array<int64_t, 5> size;

  Memory(const std::array<int64_t, 5>& size, Layout layout, bool random) : size(size) {
    const auto [n, c, d, h, w] = size;
    const int64_t step = layout == Layout::kSliced ? 2 : 1;
    values.assign(static_cast<size_t>(n * c * d * h * w * step + 2 * kGuard), kNaN);
    tensor.data = values.data() + kGuard;
    if (reinterpret_cast<uintptr_t>(tensor.data) % 16 != 0)
      tensor.data = values.data() + kGuard + 4 - reinterpret_cast<uintptr_t>(tensor.data) / 4 % 4;
    tensor.stride = layout == Layout::kChannelsLast
                        ? std::array<int64_t, 5>{c * d * h * w, 1, c * h * w, c * w, c}
                        : std::array<int64_t, 5>{step * c * d * h * w, step * d * h * w,
                                                 step * h * w, step * w, step};
    if (random) visit([](float& value, const auto&) { value = static_cast<float>(below(9) - 4); });
  }
  float& at(const std::array<int64_t, 5>& place) {
    int64_t offset = 0;
    for (int i = 0; i < 5; ++i) offset += place[i] * tensor.stride[i];
    return static_cast<float*>(tensor.data)[offset];
  }
  template <typename Use>
  void visit(Use&& use) {
    std::array<int64_t, 5> i{};
    for (i[0] = 0; i[0] < size[0]; ++i[0])
      for (i[1] = 0; i[1] < size[1]; ++i[1])
        for (i[2] = 0; i[2] < size[2]; ++i[2])
          for (i[3] = 0; i[3] < size[3]; ++i[3])
            for (i[4] = 0; i[4] < size[4]; ++i[4]) use(at(i), i);
  }
  int64_t written() const {
    return std::count_if(values.begin(), values.end(), [](float v) { return !std::isnan(v); });
  }
};

template <class Block>
void run_grid(const DepthwiseArguments& args, int vector, Block&& block) {
  std::vector<Elements<float, 4>> weights(static_cast<size_t>(weight_bytes(args, vector) / 16 + 1));
  const unsigned blocks =
      static_cast<unsigned>(args.map.slabs) * args.map.groups_w * args.map.groups_h;
  for (unsigned x = 0; x < blocks; ++x)
    for (int y = 0; y < divide_up(args.tiles_d, args.tiles_d_per_block); ++y)
      for (int z = 0; z < std::min(args.batch, 2); ++z)
        block(x, y, z, std::min(args.batch, 2), &weights[0].at[0]);
}

template <class Tile>
void run_fixed(const DepthwiseArguments& args) {
  constexpr int kKernel = Tile::Axis::kKernel;
  run_grid(args, Tile::kVector, [&](unsigned x, int y, int z, int samples, float* weights) {
    for (unsigned thread = 0; thread < kDepthwiseThreads; ++thread)
      fill_weights<float, Tile::kVector>(args, thread_place(args.map, x, thread).slab, kKernel,
                                         kKernel, kKernel, thread, weights);
    for (unsigned thread = 0; thread < kDepthwiseThreads; ++thread) {
      const ThreadPlace place = thread_place(args.map, x, thread);
      if (!has_work<Tile::kVector>(args, place, Tile::Axis::results(Tile::kTileW))) continue;
      const auto lines = partners_of<Tile::Axis::kPass>(args.height, place.row_h);
      for_each_tile(args, y, z, samples, [&](int d, int n) {
        fixed_thread<float, Tile>(args, place, lines, d, n, weights);
      });
    }
  });
}

template <Pass kPass, int kVector>
void run_any(const DepthwiseArguments& args) {
  run_grid(args, kVector, [&](unsigned x, int y, int z, int samples, float* weights) {
    for (unsigned thread = 0; thread < kDepthwiseThreads; ++thread)
      fill_weights<float, kVector>(args, thread_place(args.map, x, thread).slab, args.depth.kernel,
                                   args.height.kernel, args.width.kernel, thread, weights);
    for (unsigned thread = 0; thread < kDepthwiseThreads; ++thread) {
      const ThreadPlace place = thread_place(args.map, x, thread);
      if (!has_work<kVector>(args, place, 1)) continue;
      const auto ph = partners_of<kPass>(args.height, place.row_h);
      const auto pw = partners_of<kPass>(args.width, place.tile_w);
      for_each_tile(args, y, z, samples, [&](int d, int n) {
        any_thread<float, kPass, kVector>(args, place, ph, pw, d, n, weights);
      });
    }
  });
}

void run(const DepthwiseArguments& args, DepthwiseShape shape, Pass pass, bool vectors) {
  if (shape == DepthwiseShape::kAny) {
    if (pass == Pass::kForward)
      return vectors ? run_any<Pass::kForward, 4>(args) : run_any<Pass::kForward, 1>(args);
    return vectors ? run_any<Pass::kGradInput, 4>(args) : run_any<Pass::kGradInput, 1>(args);
  }
  dispatch_shape(shape, [&](auto tag) {
    constexpr DepthwiseShape kShape = decltype(tag)::value;
    if (pass == Pass::kForward)
      return vectors ? run_fixed<DataTile<kShape, Pass::kForward, true>>(args)
                     : run_fixed<DataTile<kShape, Pass::kForward, false>>(args);
    return vectors ? run_fixed<DataTile<kShape, Pass::kGradInput, true>>(args)
                   : run_fixed<DataTile<kShape, Pass::kGradInput, false>>(args);
  });
}

struct Shape {
  DepthwiseShape shape;
  int kernel, stride, padding;
};
constexpr Shape kFixed[] = {{DepthwiseShape::kKernel3, 3, 1, 1},
                            {DepthwiseShape::kKernel2Stride2, 2, 2, 0},
                            {DepthwiseShape::kKernel3Stride2, 3, 2, 1},
                            {DepthwiseShape::kKernel4Stride2, 4, 2, 1},
                            {DepthwiseShape::kKernel5Stride2, 5, 2, 2}};

template <class Tile>
void run_weight(const DepthwiseWeightArguments& args) {
  constexpr int kKernel = Tile::Axis::kKernel, kPairs = kKernel * kKernel;
  std::vector<float> shared(kPairs * kDepthwiseThreads);
  for (int slab = 0; slab < args.data.map.slabs; ++slab)
    for (int kh = 0; kh < kKernel; ++kh)
      for (int split = 0; split < args.splits; ++split) {
        for (unsigned thread = 0; thread < kDepthwiseThreads; ++thread) {
          float sum[kPairs] = {};
          sum_weight_tiles<float, Tile>(args, slab, kh, split, thread, sum);
          for (int pair = 0; pair < kPairs; ++pair)
            shared[pair * kDepthwiseThreads + thread] = sum[pair];
        }
        for (unsigned thread = 0; thread < kDepthwiseThreads; ++thread)
          add_threads(args, slab, kh, split, thread, shared.data());
      }
  for (int item = 0; item < args.rows * kPairs * kKernel; ++item) add_splits<float>(args, item);
}

// A random problem of a fixed shape, or of any.
bool random_problem(int index, Problem* problem, DepthwiseShape* shape) {
  const int fixed = index % 8;
  *shape = fixed < 5 ? kFixed[fixed].shape : DepthwiseShape::kAny;
  for (Axis& axis : problem->axes) {
    axis.input = 1 + below(below(2) ? 4 : 13);
    if (below(4) == 0) axis.input = 8;
    if (fixed < 5) {
      axis.kernel = kFixed[fixed].kernel;
      axis.stride = kFixed[fixed].stride;
      axis.padding = kFixed[fixed].padding;
      axis.dilation = 1;
    } else {
      axis.kernel = 1 + below(5);
      axis.stride = 1 + below(4);
      axis.padding = below(5);
      axis.dilation = 1 + below(3);
    }
    axis.output_padding = below(static_cast<int>(std::max(axis.stride, axis.dilation)));
    axis.output = (axis.input - 1) * axis.stride - 2 * axis.padding +
                  axis.dilation * (axis.kernel - 1) + axis.output_padding + 1;
    if (axis.output < 1) return false;
  }
  constexpr int kPerGroup[][2] = {{1, 1}, {1, 1}, {1, 2}, {2, 1}, {1, 3}, {2, 2}, {4, 2}};
  const auto& per_group = kPerGroup[below(7)];
  problem->groups = below(2) ? 4 * (1 + below(9)) : 1 + below(9);
  problem->batch = 1 + below(3);
  problem->in_channels = problem->groups * per_group[0];
  problem->out_channels = problem->groups * per_group[1];
  int64_t work = problem->batch * problem->groups;
  for (const Axis& axis : problem->axes) work *= std::max(axis.input, axis.output);
  return work < 30'000;
}

std::array<int64_t, 5> size_of(const Problem& problem, bool output) {
  std::array<int64_t, 5> size{problem.batch, output ? problem.out_channels : problem.in_channels};
  for (int a = 0; a < 3; ++a) size[2 + a] = output ? problem.axes[a].output : problem.axes[a].input;
  return size;
}
std::array<int64_t, 5> weight_size_of(const Problem& problem) {
  return {problem.in_channels, problem.out_channels_per_group(), problem.axes[0].kernel,
          problem.axes[1].kernel, problem.axes[2].kernel};
}

// Calls `use` with the places in input and output that meet at place `k` of the weight.
template <typename Use>
void for_each_pair(const Problem& problem, const std::array<int64_t, 5>& k, Use&& use) {
  const std::array<Axis, 3>& axes = problem.axes;
  const int64_t out_channel =
      k[0] / problem.in_channels_per_group() * problem.out_channels_per_group() + k[1];
  std::array<int64_t, 3> i;
  for (int64_t n = 0; n < problem.batch; ++n)
    for (i[0] = 0; i[0] < axes[0].input; ++i[0])
      for (i[1] = 0; i[1] < axes[1].input; ++i[1])
        for (i[2] = 0; i[2] < axes[2].input; ++i[2]) {
          std::array<int64_t, 5> input{n, k[0], i[0], i[1], i[2]}, output{n, out_channel};
          bool inside = true;
          for (int a = 0; a < 3; ++a) {
            const int64_t o = axes[a].stride * i[a] - axes[a].padding + axes[a].dilation * k[2 + a];
            inside = inside && o >= 0 && o < axes[a].output;
            output[2 + a] = o;
          }
          if (inside) use(input, output);
        }
}

bool same(Memory& result, Memory& wanted) {
  bool same = result.written() == wanted.written();
  result.visit([&](float& value, const auto& at) { same = same && value == wanted.at(at); });
  return same;
}

bool data_agrees(const Problem& problem, DepthwiseShape shape, Pass pass, Layout layout) {
  const bool forward = pass == Pass::kForward;
  Memory operand(size_of(problem, !forward), layout, true);
  Memory weight(weight_size_of(problem), layout, true);
  Memory result(size_of(problem, forward),
                layout == Layout::kChannelsLast ? layout : Layout::kContiguous, false);
  Memory bias({1, 1, 1, 1, forward ? problem.out_channels : problem.in_channels}, layout, true);
  const bool has_bias = forward && below(2);

  bool vectors = false;
  const DepthwisePlan plan{shape, 1 + below(32)};
  const DepthwiseArguments args = depthwise_arguments(
      problem, pass, sizeof(float), plan, operand.tensor, weight.tensor,
      has_bias ? VectorPointer{bias.tensor.data, bias.tensor.stride[4]} : VectorPointer{nullptr, 0},
      result.tensor, &vectors);
  run(args, shape, pass, vectors);

  Memory wanted(size_of(problem, forward), Layout::kContiguous, false);
  wanted.visit(
      [&](float& value, const auto& at) { value = has_bias ? bias.at({0, 0, 0, 0, at[1]}) : 0; });
  weight.visit([&](float& tap, const auto& k) {
    for_each_pair(problem, k, [&](const auto& input, const auto& output) {
      wanted.at(forward ? output : input) += operand.at(forward ? input : output) * tap;
    });
  });
  return same(result, wanted);
}

bool weight_agrees(const Problem& problem, DepthwiseShape shape, Layout layout) {
  Memory input(size_of(problem, false), layout, true);
  Memory grad_output(size_of(problem, true), layout, true);
  Memory result(weight_size_of(problem),
                layout == Layout::kChannelsLast ? layout : Layout::kContiguous, false);
  DepthwiseWeightArguments args = depthwise_weight_arguments(
      problem, sizeof(float), shape, grad_output.tensor, input.tensor, result.tensor);
  std::vector<float> workspace(depthwise_workspace_bytes(args) / sizeof(float), kNaN);
  args.workspace = workspace.data();
  dispatch_shape(shape, [&](auto tag) { run_weight<WeightTile<decltype(tag)::value>>(args); });

  Memory wanted(weight_size_of(problem), Layout::kContiguous, false);
  wanted.visit([&](float& value, const auto& k) {
    value = 0;
    for_each_pair(problem, k, [&](const auto& from, const auto& to) {
      value += input.at(from) * grad_output.at(to);
    });
  });
  return same(result, wanted);
}

void report(const Problem& problem, DepthwiseShape shape, const char* pass, Layout layout) {
  std::printf("%s, layout %d, shape %d, batch %d, channels %d to %d, groups %d\n", pass,
              static_cast<int>(layout), static_cast<int>(shape), static_cast<int>(problem.batch),
              static_cast<int>(problem.in_channels), static_cast<int>(problem.out_channels),
              static_cast<int>(problem.groups));
  for (const Axis& a : problem.axes)
    std::printf("  input %d output %d kernel %d stride %d padding %d dilation %d\n",
                static_cast<int>(a.input), static_cast<int>(a.output), static_cast<int>(a.kernel),
                static_cast<int>(a.stride), static_cast<int>(a.padding),
                static_cast<int>(a.dilation));
}

}  // namespace

int main() {
  int problems = 0, failures = 0;
  for (int index = 0; index < 500; ++index) {
    Problem problem{};
    problem.batched = true;
    DepthwiseShape shape;
    if (!random_problem(index, &problem, &shape)) continue;
    for (Layout layout : {Layout::kContiguous, Layout::kChannelsLast, Layout::kSliced}) {
      const auto count = [&](bool agrees, const char* pass) {
        ++problems;
        if (!agrees && ++failures <= 10) report(problem, shape, pass, layout);
      };
      count(data_agrees(problem, shape, Pass::kForward, layout), "forward");
      count(data_agrees(problem, shape, Pass::kGradInput, layout), "grad_input");
      if (shape != DepthwiseShape::kAny)
        count(weight_agrees(problem, shape, layout), "grad_weight");
    }
  }
  if (failures) {
    std::printf("%d differences\n", failures);
    return 1;
  }
  std::printf("%d problems agree\n", problems);
  return 0;
}

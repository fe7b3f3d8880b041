#include "plan_depthwise.h"

#include <algorithm>

#include "kernels/depthwise_geometry.h"

namespace convt3d {
namespace {

constexpr int64_t kMostPerGroup = 4;          // input or output channels
constexpr int64_t kMostProducts = 8;          // of one group at one tap
constexpr int64_t kMostExtent = 1 << 22;      // of an axis, counted in 32 bits
constexpr int64_t kMostWorkspace = 64 << 20;  // bytes
constexpr int64_t kMostBlocks = int64_t{1} << 31;

// Why the kernels do not take a problem; nullptr: they do.
const char* refusal_of(const Problem& problem, DataType type) {
  if (type != DataType::kFloat16 && type != DataType::kBFloat16 && type != DataType::kFloat32)
    return "it has kernels of float16, bfloat16 and float32 only";
  const int64_t in = problem.in_channels_per_group(), out = problem.out_channels_per_group();
  if (problem.groups == 1 || in > kMostPerGroup || out > kMostPerGroup || in * out > kMostProducts)
    return "it is for several groups of at most four channels, and of at most eight products";
  bool fits = problem.batch < kMostExtent &&
              std::max(problem.in_channels, problem.out_channels) < kMostExtent;
  int64_t taps = 1;
  for (const Axis& axis : problem.axes) {
    fits = fits && axis.input < kMostExtent / axis.stride && axis.output < kMostExtent &&
           axis.padding < kMostExtent && axis.kernel < kMostExtent / axis.dilation &&
           axis.kernel <= 64;
    taps *= axis.kernel;
  }
  const int64_t lines = std::max(problem.axes[1].input, problem.axes[1].output) *
                        std::max(problem.axes[2].input, problem.axes[2].output);
  return fits && taps <= 2048 &&
                 lines < kMostBlocks / std::max(problem.in_channels, problem.out_channels)
             ? nullptr
             : "its sizes exceed what the kernel counts";
}

// Whether all axes have this kernel, stride and padding, and no dilation.
bool is_shape(const Problem& problem, int kernel, int stride, int padding) {
  return std::all_of(problem.axes.begin(), problem.axes.end(), [=](const Axis& axis) {
    return axis.kernel == kernel && axis.stride == stride && axis.padding == padding &&
           axis.dilation == 1;
  });
}

DepthwiseShape shape_of(const Problem& problem) {
  if (is_shape(problem, 3, 1, 1)) return DepthwiseShape::kKernel3;
  if (is_shape(problem, 2, 2, 0)) return DepthwiseShape::kKernel2Stride2;
  if (is_shape(problem, 3, 2, 1)) return DepthwiseShape::kKernel3Stride2;
  if (is_shape(problem, 4, 2, 1)) return DepthwiseShape::kKernel4Stride2;
  if (is_shape(problem, 5, 2, 2)) return DepthwiseShape::kKernel5Stride2;
  return DepthwiseShape::kAny;
}

}  // namespace

Planned<DepthwisePlan> plan_depthwise_data(const Problem& problem, Pass pass, DataType type) {
  if (const char* refusal = refusal_of(problem, type)) return Refusal{refusal};
  DepthwisePlan plan{};
  plan.shape = shape_of(problem);
  // With stride 1 every operand serves 27 results: a block with fewer channels covers more
  // positions, of which fewer are halo. Otherwise whole lines of channels are stored.
  plan.most_lanes = plan.shape == DepthwiseShape::kKernel3 ? 8 : 32;
  int64_t floats =
      pass == Pass::kForward ? problem.in_channels_per_group() : problem.out_channels_per_group();
  for (const Axis& axis : problem.axes) floats *= axis.kernel;
  const int64_t lane_bytes = floats * kDepthwiseVector * static_cast<int64_t>(sizeof(float));
  plan.most_lanes =
      static_cast<int>(std::min<int64_t>(plan.most_lanes, kDepthwiseSharedBytes / lane_bytes));
  if (plan.most_lanes == 0) return Refusal{"the weights of a group exceed shared memory"};
  return {plan, 0};
}

Planned<DepthwisePlan> plan_depthwise_grad_weight(const Problem& problem, DataType type) {
  if (const char* refusal = refusal_of(problem, type)) return Refusal{refusal};
  const DepthwisePlan plan{shape_of(problem), 0};
  // Without positions there is no tile.
  int64_t positions = problem.batch;
  int64_t bytes =
      problem.in_channels * problem.out_channels_per_group() * static_cast<int64_t>(sizeof(float));
  for (const Axis& axis : problem.axes) {
    positions *= axis.input;
    bytes *= axis.kernel;
  }
  if (plan.shape == DepthwiseShape::kAny)
    return Refusal{"it has instances of the commonest kernels only"};
  if (positions == 0 || bytes > kMostWorkspace)
    return Refusal{"there are no positions, or more weights than the workspace holds"};
  return {plan, 0};
}

}  // namespace convt3d

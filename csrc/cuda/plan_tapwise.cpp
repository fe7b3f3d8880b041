#include "plan_tapwise.h"

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <limits>
#include <vector>

#include "plan_cache.h"
#include "plan_wgmma.h"
#include "plan_wgmma_cost.h"

namespace convt3d {
namespace {

// Small images, which this kernel is for, come in many; or in few, as volumes do.
constexpr int64_t kLargeBatch = 32, kSmallBatch = 2;

// ---- Cost model, in clocks of one multiprocessor of an H200 -------------------------------------
constexpr double kProductShare = 0.88;   // of the matrix units' rate, at most
constexpr double kRowClocks = 3.2;       // per row of 128 bytes, of both operands
constexpr double kApartRowClocks = 3.7;  // where a position's channels are no more than that
constexpr double kFloat32Rows = 0.9;     // times that
constexpr double kStageLatency = 1200;   // until what is asked for is there
constexpr double kStepClocks = 130;      // least: barriers
constexpr double kStoredBytes = 7.7;     // of results, per clock and warpgroup
constexpr double kItemClocks = 1000;     // first step of an item, drained pipeline behind its last
constexpr double kSegmentClocks = 150;   // the same of a segment within an item
constexpr double kSegmentBytes = 20;     // of sums left in memory, or added there, per clock
constexpr double kKernelClocks = 4000;   // start and end
constexpr double kCacheBytes = 50e6;  // L2: what taps share of an operand stays there, if it fits

// Tensors come from and go to memory once; an operand that does not stay in the cache comes twice.
double memory_clocks(const Problem& problem, Pass pass, int unit_elements, bool stays,
                     const Device& device) {
  const double input = elements_of(problem.input_size());
  const double output = elements_of(problem.output_size());
  const double again = stays ? 0 : pass == Pass::kForward ? input : output;
  return (input + output + again) * 16 / unit_elements / kMemoryBytes / device.multiprocessors;
}

// Bytes of the operand that so many blocks read for one tap of depth.
double working_set(const Problem& problem, Pass pass, const TapwisePlan& plan, int blocks) {
  double bytes =
      static_cast<double>(pass == Pass::kForward ? problem.in_channels : problem.out_channels);
  bytes *= 16. / plan.unit_elements * plan.tile[0] * plan.tile[1];
  for (int a = 1; a < 3; ++a) bytes *= plan.axes[a].span(plan.tile[a + 1]);
  return bytes * blocks;
}

double step_clocks(const TapwisePlan& plan, const TapwiseSizes& sizes) {
  const double multiplied = 2. * plan.blocks * kTapwiseUnits / 2 * product_clocks(plan.columns);
  const double row = (sizes.chunks > 1 ? kRowClocks : kApartRowClocks) *
                     (plan.unit_elements == 4 ? kFloat32Rows : 1);
  const double copied = (sizes.box_rows + plan.columns) * row;
  return std::max({multiplied / kProductShare, copied, (kStageLatency + copied) / (plan.stages - 1),
                   kStepClocks});
}

// Clocks of the block that ends last.
double clocks_of(const Problem& problem, Pass pass, const TapwisePlan& plan,
                 const TapwiseSizes& sizes, const Device& device) {
  const double step = step_clocks(plan, sizes);
  const double stored = 64. * plan.blocks * plan.columns * 16 / plan.unit_elements / kStoredBytes;
  const double sum_bytes = 4. * tapwise_rows(plan) * plan.columns;
  const int parts = plan.split ? plan.segments : 1;
  // One warpgroup multiplies while the other stores.
  double end = kItemClocks + stored / 2;
  if (plan.split) end += 2 * sum_bytes / kSegmentBytes;  // left, and a share of the adding
  int64_t tiles = problem.groups * sizes.channel_tiles * parts;
  for (int count : sizes.tiles) tiles *= count;
  // Items of a plane are alike, those with most taps come first: blocks take them in turns.
  const int blocks = static_cast<int>(std::min<int64_t>(sizes.items, device.multiprocessors));
  std::vector<double> clocks(blocks);
  std::vector<int> taps;
  for (int d = 0; d < plan.axes[0].planes; ++d)
    for (int h = 0; h < plan.axes[1].planes; ++h)
      for (int w = 0; w < plan.axes[2].planes; ++w)
        taps.push_back(plan.axes[0].taps_of(d) * plan.axes[1].taps_of(h) * plan.axes[2].taps_of(w));
  std::sort(taps.rbegin(), taps.rend());
  int next = 0;
  for (int count : taps) {
    const double steps = static_cast<double>(count) * sizes.chunks / parts;
    const double item =
        steps * step + end + (plan.split ? 0 : (plan.segments - 1) * kSegmentClocks);
    const double rounds = static_cast<double>(tiles / blocks) * item;
    const int rest = static_cast<int>(tiles % blocks);
    for (double& block : clocks) block += rounds;
    for (int i = 0; i < rest; ++i) {
      clocks[next] += item;
      next = next + 1 == blocks ? 0 : next + 1;
    }
  }
  const bool stays = working_set(problem, pass, plan, blocks) <= kCacheBytes;
  return kKernelClocks +
         overlapped(*std::max_element(clocks.begin(), clocks.end()),
                    memory_clocks(problem, pass, plan.unit_elements, stays, device));
}

// ---- Candidates --------------------------------------------------------------------------------
struct Search {
  const Problem& problem;
  Pass pass;
  const Device& device;
  Alternatives<TapwisePlan>* alternatives;
  TapwisePlan best{};
  double clocks = std::numeric_limits<double>::infinity();

  // `plan.segments`: prescribed; 0: searched for.
  void shapes(TapwisePlan plan) {
    const int prescribed = plan.segments;
    for (const TapwiseShape& shape : kTapwiseShapes) {
      if (!exists(shape, plan.unit_elements)) continue;
      plan.columns = shape.columns;
      plan.blocks = shape.blocks;
      constexpr int kBarrierBytes = 16, kMostStages = 12, kLeastStages = 3;
      const int stage = (tapwise_rows(plan) + plan.columns) * kTapwiseRowBytes;
      plan.stages = std::min(device.shared_per_block / (stage + kBarrierBytes), kMostStages);
      if (plan.stages < kLeastStages) continue;
      for (int segments : {1, 2, 4, 8}) {
        if (prescribed != 0 && segments != prescribed) continue;
        if (segments > 1 && segments * kLeastSteps > least_steps(plan)) continue;
        plan.segments = segments;
        for (bool split : {false, true}) {
          if (split ? segments == 1 : segments > 1 && !adds_segments(plan.columns, plan.blocks))
            continue;
          plan.split = split;
          tiles(plan);
        }
      }
    }
  }

  // Of a plane.
  static constexpr int kLeastSteps = 8;  // of a segment
  int least_steps(const TapwisePlan& plan) const {
    int taps = 1;
    for (const WindowAxis& axis : plan.axes) {
      int least = axis.taps_of(0);
      for (int plane = 1; plane < axis.planes; ++plane)
        least = std::min(least, axis.taps_of(plane));
      taps *= least;
    }
    const int64_t channels =
        pass == Pass::kForward ? problem.in_channels_per_group() : problem.out_channels_per_group();
    const int64_t step = kTapwiseUnits * plan.unit_elements;
    return static_cast<int>(taps * ((channels + step - 1) / step));
  }

  void tiles(TapwisePlan plan) {
    const int rows = tapwise_rows(plan);
    // What a box covers of the tensor along an axis is at most 256 elements.
    const auto most_of = [&](int a, int room) {
      const int covered = (256 - 1) / plan.axes[a].operand_step + 1;
      return std::max(1, std::min(room, covered));
    };
    for (int w : even_tiles(plan.axes[2].positions, most_of(2, rows)))
      for (int h : even_tiles(plan.axes[1].positions, most_of(1, rows / w)))
        for (int d : even_tiles(plan.axes[0].positions, most_of(0, rows / (w * h)))) {
          const int room = d < plan.axes[0].positions ? 1 : rows / (w * h * d);
          plan.tile[0] = even_tiles(problem.batch, std::max(room, 1)).front();
          plan.tile[1] = d;
          plan.tile[2] = h;
          plan.tile[3] = w;
          consider(plan);
        }
  }

  void consider(const TapwisePlan& plan) {
    const TapwiseSizes sizes = tapwise_sizes(problem, pass, plan);
    constexpr int64_t kMostSums = int64_t{64} << 20;  // bytes
    if (sizes.items > std::numeric_limits<int>::max() || sizes.workspace_bytes > kMostSums) return;
    const double cost = clocks_of(problem, pass, plan, sizes, device);
    if (cost < clocks) {
      clocks = cost;
      best = plan;
    }
    if (alternatives != nullptr)
      alternatives->offer({plan.columns, plan.blocks, plan.split}, plan, cost);
  }
};

std::optional<Search> search_plan(const Problem& problem, const TapwisePlan& base, Pass pass,
                                  const Device& device,
                                  Alternatives<TapwisePlan>* alternatives = nullptr) {
  Search search{problem, pass, device, alternatives};
  search.shapes(base);
  if (!std::isfinite(search.clocks)) return std::nullopt;
  return search;
}

// A batch of the problem, and what this kernel is predicted to take for it.
struct Typical {
  Problem problem;
  double clocks;
};

// Why another kernel is faster, on average over these; nullptr: none is, as far as predictions
// tell.
const char* drawback_of(std::initializer_list<Typical> typical, Pass pass, DataType type,
                        bool allow_tf32, const Device& device) {
  const bool forward = pass == Pass::kForward;
  double shared_share = 1, portable_share = 1;  // of this kernel's clocks
  for (const auto& [problem, clocks] : typical) {
    if ((forward ? problem.out_channels_per_group() : problem.in_channels_per_group()) < 64)
      return "half of its columns would be no channels";
    const TensorPointer operand =
        dense_tensor(forward ? problem.input_size() : problem.output_size(), true);
    const TensorPointer result =
        dense_tensor(forward ? problem.output_size() : problem.input_size(), true);
    constexpr double kNone = std::numeric_limits<double>::infinity();
    const auto shared =
        plan_wgmma_data(problem, pass, type, operand, result, allow_tf32, device, true);
    const double memory = memory_clocks(problem, pass, 16 / element_bytes(type), true, device);
    shared_share *= shared ? overlapped(shared.clocks(), memory) / clocks : kNone;
    const auto portable = plan_gemm_data(problem, pass, type, operand, result, device);
    portable_share *= portable ? portable.clocks() / clocks : kNone;
  }
  const double mean = 1. / typical.size();
  // What predictions err: those of forward with shared boxes were up to 1.3 times too long.
  const double margin = forward ? 1.15 : 1.02;
  if (std::pow(shared_share, mean) < margin)
    return "boxes that all taps share are predicted to be as fast";
  constexpr double kPortableTaken = 1.65;  // see plan_wgmma.cpp
  return std::pow(portable_share, mean) * kPortableTaken < 1
             ? "the portable kernel is predicted faster"
             : nullptr;
}

}  // namespace

std::vector<int> even_tiles(int64_t extent, int64_t most) {
  std::vector<int> tiles;
  for (int64_t count = (extent + most - 1) / most; count <= extent; count += 1 + count / 8) {
    const int tile = static_cast<int>((extent + count - 1) / count);
    if (tiles.empty() || tile < tiles.back()) tiles.push_back(tile);
  }
  return tiles;
}

Planned<TapwisePlan> plan_tapwise_data(const Problem& problem, Pass pass, DataType type,
                                       const TensorPointer& operand, const TensorPointer& weight,
                                       const TensorPointer& result, bool allow_tf32,
                                       const Device& device, bool even_if_slow,
                                       Alternatives<TapwisePlan>* alternatives) {
  if (const char* reason = wgmma_refusal(type, allow_tf32, device)) return Refusal{reason};
  const bool is_float32 = type == DataType::kFloat32;
  const bool forward = pass == Pass::kForward;
  if (is_float32 && forward)
    return Refusal{"the matrix units cannot transpose its weights, which are float32"};
  const int64_t out_channels = problem.out_channels_per_group();
  const int64_t operand_channels = forward ? problem.in_channels_per_group() : out_channels;
  if (!fits_data_kernels(problem)) return Refusal{"its sizes exceed what the kernel counts"};
  if (!loads_in_vectors(operand, operand_channels, type) ||
      !loads_in_vectors(weight, out_channels, type) || result.stride[1] != 1)
    return Refusal{
        "it is for channels-last tensors and weights in whole units of 16 bytes of channels"};
  TapwisePlan base{};
  base.unit_elements = is_float32 ? 4 : 8;
  const int64_t step_channels = kTapwiseUnits * base.unit_elements;
  if (problem.groups > 1 && operand_channels % step_channels != 0)
    return Refusal{"the copy engine cannot tell these groups' channels apart"};
  if (2 * operand_channels <= step_channels)
    return Refusal{
        "it multiplies 128 bytes of channels at a time, and half of them would be zeros"};
  for (int a = 0; a < 3; ++a) {
    const std::optional<WindowAxis> axis = window_axis(pass, problem.axes[a]);
    if (!axis) return Refusal{"a kernel above 16 or a stride above 8 exceeds its tables"};
    base.axes[a] = *axis;
  }
  static PlanCache<TapwisePlan> cache;
  const PlanKey key(problem, {static_cast<int64_t>(pass), device.multiprocessors,
                              device.shared_per_block, static_cast<int64_t>(type), even_if_slow});
  const auto find = [&]() -> Planned<TapwisePlan> {
    constexpr Refusal kNoTile{"no tile fits into shared memory"};
    // Neither the order of the sums nor which kernel runs must depend on the batch.
    Problem large = problem, small = problem;
    large.batch = kLargeBatch;
    small.batch = kSmallBatch;
    const auto of_large = search_plan(large, base, pass, device),
               of_small = search_plan(small, base, pass, device);
    if (!of_large || !of_small) return kNoTile;
    if (!even_if_slow) {
      if (const char* drawback = drawback_of({{large, of_large->clocks}, {small, of_small->clocks}},
                                             pass, type, allow_tf32, device))
        return Refusal{drawback};
    }
    TapwisePlan ordered = base;
    ordered.segments = of_large->best.segments;
    const auto found = search_plan(problem, ordered, pass, device, alternatives);
    if (!found) return kNoTile;
    return {found->best, found->clocks};
  };
  return alternatives ? find() : cache.find(key, find);
}

}  // namespace convt3d

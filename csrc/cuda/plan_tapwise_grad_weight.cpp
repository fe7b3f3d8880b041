#include "plan_tapwise_grad_weight.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <vector>

#include "plan_cache.h"
#include "plan_tapwise.h"
#include "plan_wgmma_cost.h"
#include "plan_wgmma_grad_weight.h"

namespace convt3d {
namespace {

constexpr int64_t kMostWorkspace = int64_t{64} << 20;  // bytes, as documented

// ---- Cost model, in clocks of one multiprocessor of an H200 -------------------------------------
constexpr double kProductShare = 0.88;  // of the matrix units' rate, at most
constexpr double kRowClocks = 3.2;      // per row of 128 bytes, of both operands
constexpr double kStageLatency = 1200;  // until what is asked for is there
constexpr double kStepClocks = 130;     // least: barriers
constexpr double kStoredBytes = 7.7;    // of weights, per clock and warpgroup
constexpr double kSumBytes = 24;        // of a tile's sums left in memory, per clock
constexpr double kItemClocks = 1000;    // first step of an item, drained pipeline behind its last
constexpr double kKernelClocks = 4000;  // start and end
constexpr double kSumKernelClocks = 5500;
constexpr double kSumKernelBytes = 1500;  // per clock, of the whole GPU

double step_clocks(const TapwiseGradWeightPlan& plan, const TapwiseGradWeightSizes& sizes) {
  const double products = 2. * plan.blocks * (kChunkPositions / 16) * product_clocks(plan.columns);
  const double copied = (row_chunks(plan) + column_chunks(plan)) * sizes.box_rows * kRowClocks;
  return std::max({products / kProductShare, copied, (kStageLatency + copied) / (plan.stages - 1),
                   kStepClocks});
}

// Steps of the column tiles, the first of which have most.
std::vector<int64_t> steps_of(const TapwiseGradWeightPlan& plan,
                              const TapwiseGradWeightSizes& sizes, const TapOrder (&taps)[3]) {
  int counts[3];
  for (int a = 0; a < 3; ++a) counts[a] = plan.axes[a].taps();
  std::vector<int64_t> steps;
  const int chunks = column_chunks(plan);
  for (int tile = 0; tile < sizes.column_tiles; ++tile) {
    // Of the tile's first chunk; those that share the tile differ little.
    int rest = tile * chunks / sizes.channel_chunks;
    int64_t count = sizes.sample_tiles;
    for (int a = 2; a >= 0; --a) {
      const PositionRange range = taps[a].positions[rest % counts[a]];
      rest /= counts[a];
      count *= (range.last - range.first + plan.tile[a + 1] - 1) / plan.tile[a + 1];
    }
    steps.push_back(count);
  }
  return steps;
}

struct Search {
  const Problem& problem;
  const Device& device;
  Alternatives<TapwiseGradWeightPlan>* alternatives;
  TapOrder taps[3];
  double memory_clocks;
  TapwiseGradWeightPlan best{};
  double clocks = std::numeric_limits<double>::infinity();

  // Clocks of the block that ends last.
  double clocks_of(const TapwiseGradWeightPlan& plan, const TapwiseGradWeightSizes& sizes,
                   const std::vector<int64_t>& steps) const {
    const double step = step_clocks(plan, sizes);
    const double tile_sums = 64. * row_chunks(plan) * plan.columns;
    const double end =
        kItemClocks + (plan.splits > 1 ? 4 * tile_sums / kSumBytes : tile_sums / kStoredBytes / 2);
    const auto blocks = static_cast<int>(std::min<int64_t>(sizes.items, device.multiprocessors));
    const int64_t alike = sizes.items / sizes.column_tiles;
    std::vector<double> busy(blocks);
    int64_t place = 0;
    for (int64_t count : steps) {
      const double item = static_cast<double>(count) / plan.splits * step + end;
      for (int64_t i = 0; i < alike; ++i, ++place) {
        // Every other round backwards.
        const auto at = static_cast<int>(place % blocks);
        busy[place / blocks % 2 == 0 ? at : blocks - 1 - at] += item;
      }
    }
    const double worked = *std::max_element(busy.begin(), busy.end());
    double cost = kKernelClocks + overlapped(worked, memory_clocks);
    if (plan.splits > 1)
      cost += kSumKernelClocks + static_cast<double>(sizes.workspace_bytes) / kSumKernelBytes;
    return cost;
  }

  void shapes(TapwiseGradWeightPlan plan) {
    for (const TapwiseShape& shape : kTapwiseGradWeightShapes) {
      plan.columns = shape.columns;
      plan.blocks = shape.blocks;
      constexpr int kBarrierBytes = 16, kMostStages = 12, kLeastStages = 3;
      const int stage = (row_chunks(plan) + column_chunks(plan)) * kChunkBytes;
      plan.stages = std::min(device.shared_per_block / (stage + kBarrierBytes), kMostStages);
      if (plan.stages >= kLeastStages) tiles(plan);
    }
  }

  void tiles(TapwiseGradWeightPlan plan) {
    // What a box covers of the tensor along an axis is at most 256 elements.
    const auto most_of = [&](int a, int room) {
      const int covered = (256 - 1) / plan.axes[a].operand_step + 1;
      return std::max(1, std::min(room, covered));
    };
    constexpr int kLeastRows = 48;
    int fullest = 0;
    for (bool choose : {false, true}) {
      for (int w : even_tiles(plan.axes[2].positions, most_of(2, kChunkPositions)))
        for (int h : even_tiles(plan.axes[1].positions, most_of(1, kChunkPositions / w)))
          for (int d : even_tiles(plan.axes[0].positions, most_of(0, kChunkPositions / (w * h)))) {
            plan.tile[0] = even_tiles(problem.batch, kChunkPositions / (w * h * d)).front();
            plan.tile[1] = d;
            plan.tile[2] = h;
            plan.tile[3] = w;
            const int rows = plan.tile[0] * w * h * d;
            if (choose && rows >= std::min(fullest, kLeastRows)) splits(plan);
            fullest = std::max(fullest, rows);
          }
    }
  }

  void splits(TapwiseGradWeightPlan plan) {
    constexpr int64_t kMostItems = 1 << 14;
    constexpr int kLeastSteps = 4, kMostWaves = 4;
    plan.splits = 1;
    const TapwiseGradWeightSizes whole = tapwise_grad_weight_sizes(problem, plan);
    if (whole.tiles > kMostItems) return;
    const std::vector<int64_t> steps = steps_of(plan, whole, taps);
    const int64_t most_steps = *std::max_element(steps.begin(), steps.end());
    for (int waves = 0, tried = 0; waves <= kMostWaves; ++waves) {
      plan.splits = static_cast<int>(
          std::clamp<int64_t>(waves * int64_t{device.multiprocessors} / whole.tiles, 1,
                              std::max<int64_t>(most_steps / kLeastSteps, 1)));
      if (plan.splits == tried) continue;
      tried = plan.splits;
      const TapwiseGradWeightSizes sizes = tapwise_grad_weight_sizes(problem, plan);
      if (sizes.workspace_bytes > kMostWorkspace || most_steps > std::numeric_limits<int>::max())
        continue;
      const double cost = clocks_of(plan, sizes, steps);
      if (cost < clocks) {
        clocks = cost;
        best = plan;
      }
      if (alternatives != nullptr)
        alternatives->offer({plan.columns, plan.blocks, plan.splits > 1}, plan, cost);
    }
  }
};

// Why another kernel is faster; nullptr: none is, as far as predictions tell.
const char* drawback_of(const Problem& problem, DataType type, const TensorPointer& grad_output,
                        const TensorPointer& input, const Search& found, const Device& device) {
  constexpr int64_t kLeastChannels = 48;
  if (problem.in_channels_per_group() < 2 * kLeastChannels ||
      problem.out_channels_per_group() < kLeastChannels)
    return "half of a product's rows would be no channels";
  const auto shared = plan_wgmma_grad_weight(problem, type, grad_output, input, device, false);
  // What predictions err.
  const double margin = found.best.splits > 1 ? 1.1 : 0.97;
  if (shared && shared.clocks() < margin * found.clocks)
    return "boxes that all taps share are predicted to be as fast";
  return nullptr;
}

}  // namespace

Planned<TapwiseGradWeightPlan> plan_tapwise_grad_weight(
    const Problem& problem, DataType type, const TensorPointer& grad_output,
    const TensorPointer& input, const TensorPointer& grad_weight, const Device& device,
    bool even_if_slow, Alternatives<TapwiseGradWeightPlan>* alternatives) {
  if (const char* reason = wgmma_refusal(type, false, device)) return Refusal{reason};
  if (!fits_data_kernels(problem)) return Refusal{"its sizes exceed what the kernel counts"};
  if (problem.batch == 0) return Refusal{"there are no positions"};
  const int64_t in_channels = problem.in_channels_per_group();
  const int64_t out_channels = problem.out_channels_per_group();
  if (!loads_in_vectors(input, in_channels, type) ||
      !loads_in_vectors(grad_output, out_channels, type) || grad_weight.stride[1] != 1)
    return Refusal{"it is for channels-last tensors in whole units of 16 bytes of channels"};
  if (problem.groups > 1 &&
      (in_channels % kChunkChannels != 0 || out_channels % kChunkChannels != 0))
    return Refusal{"the copy engine cannot tell these groups' channels apart"};
  if (2 * in_channels <= kChunkChannels || 2 * out_channels <= kChunkChannels)
    return Refusal{"it multiplies 64 channels at a time, and half of them would be zeros"};
  TapwiseGradWeightPlan base{};
  for (int a = 0; a < 3; ++a) {
    const std::optional<WindowAxis> axis = window_axis(Pass::kGradInput, problem.axes[a]);
    if (!axis) return Refusal{"a kernel above 16 or a stride above 8 exceeds its tables"};
    base.axes[a] = *axis;
  }
  static PlanCache<TapwiseGradWeightPlan> cache;
  const PlanKey key(problem, {device.multiprocessors, device.shared_per_block, even_if_slow});
  const auto find = [&]() -> Planned<TapwiseGradWeightPlan> {
    const double bytes = (elements_of(problem.input_size()) + elements_of(problem.output_size())) *
                         element_bytes(type);
    Search search{problem,
                  device,
                  alternatives,
                  {tap_order(base.axes[0]), tap_order(base.axes[1]), tap_order(base.axes[2])},
                  bytes / kMemoryBytes / device.multiprocessors};
    search.shapes(base);
    if (!std::isfinite(search.clocks)) return Refusal{"there are too many weights"};
    if (!even_if_slow) {
      if (const char* drawback = drawback_of(problem, type, grad_output, input, search, device))
        return Refusal{drawback};
    }
    return {search.best, search.clocks};
  };
  return alternatives ? find() : cache.find(key, find);
}

}  // namespace convt3d

#include "plan_gathered_data.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>

#include "plan_cache.h"
#include "plan_tapwise.h"
#include "plan_wgmma.h"
#include "plan_wgmma_cost.h"

namespace convt3d {
namespace {

// ---- Cost model, in clocks of one multiprocessor of an H200 -------------------------------------
// Fitted to 2,000 measurements of plans of the benchmark's cases (docs/performance.md).
constexpr double kProductShare = 0.86;    // of the matrix units' rate, at most
constexpr double kLoadClocks = 1.75;      // of a warp from shared memory
constexpr double kConflicts = 1.1;        // of loads where eight rows are not one line
constexpr double kGroupClocks = 330;      // of products issued together: drained before the next
constexpr double kBoxBytes = 20;          // per clock
constexpr double kRowClocks = 3;          // of a box, by the copy engine
constexpr double kNarrowRowClocks = 2.2;  // of up to 32 bytes
constexpr double kWeightBytes = 36;
constexpr double kOneBoxShare = 0.4;        // of the products that a single slot's copy waits for
constexpr double kStoreClocks = 22;         // of a warp: an element of each lane
constexpr double kStridedStoreClocks = 75;  // the same where every stride-th element is written
constexpr double kStridedHalfClocks = 47;   // and elements have 16 bits
constexpr double kItemClocks = 1650;        // first loads, drained pipeline
constexpr double kKernelClocks = 8000;      // start and end, the weights packed before

double clocks_of(const Problem& problem, Pass pass, const GatheredDataPlan& plan,
                 const GatheredDataSizes& sizes, double memory_clocks, const Device& device) {
  const int parts = plan.exact ? 3 : 1;
  const double products =
      2. * plan.blocks * parts * std::max(plan.columns / 2., 24.) / kProductShare;
  const double loads = kGatheredDataWarps * 4. * plan.blocks * (plan.element_bytes == 2 ? 2 : 1) *
                       kLoadClocks * (plan.tile[2] % 8 == 0 ? 1 : kConflicts);
  const int group = plan.blocks == 1 ? kGatheredStageSteps : kGatheredStageSteps / 2;
  const double step = std::max(products, loads) + kGroupClocks / group;
  // Lanes of a warp store eight neighbours along w, whole sectors of memory.
  const double sectors = plan.tile[2] % 8 == 0 ? 1 : std::max(1.5, 8. / plan.tile[2]);
  // Padded columns are not stored.
  const int64_t channels =
      pass == Pass::kForward ? problem.out_channels_per_group() : problem.in_channels_per_group();
  const double columns = static_cast<double>(channels) / sizes.channel_tiles;
  const double stored = 16. * plan.blocks * columns * 8 / 32 * sectors *
                        (plan.axes[2].result_step == 1 ? kStoreClocks
                         : plan.element_bytes == 2     ? kStridedHalfClocks
                                                       : kStridedStoreClocks);
  double all_steps = 0, all_stages = 0;  // of all planes
  for (int d = 0; d < plan.axes[0].planes; ++d)
    for (int h = 0; h < plan.axes[1].planes; ++h)
      for (int w = 0; w < plan.axes[2].planes; ++w) {
        const double steps = static_cast<double>(sizes.chunks) * plan.axes[0].taps_of(d) *
                             plan.axes[1].taps_of(h) * plan.axes[2].taps_of(w);
        all_stages += std::ceil(steps / kGatheredStageSteps);
        all_steps += std::ceil(steps / kGatheredStageSteps) * kGatheredStageSteps;
      }
  const double multiplied = all_steps / sizes.planes * step;
  const int row_bytes = sizes.pitch * plan.element_bytes;
  const double row_clocks = row_bytes <= 32 ? kNarrowRowClocks : kRowClocks;
  const double box_clocks = sizes.box_bytes * std::max(1 / kBoxBytes, row_clocks / row_bytes);
  double copied =
      sizes.chunks * box_clocks + all_stages / sizes.planes * sizes.stage_bytes / kWeightBytes;
  if (plan.box_slots == 1) copied += kOneBoxShare * multiplied;
  // One warpgroup stores while the other multiplies.
  const double item = overlapped(overlapped(multiplied, copied), stored) + kItemClocks;
  const double rounds = std::ceil(static_cast<double>(sizes.items) / device.multiprocessors);
  const double worked = rounds * item;
  return kKernelClocks + overlapped(worked, memory_clocks);
}

// ---- Candidates --------------------------------------------------------------------------------
struct Search {
  const Problem& problem;
  Pass pass;
  const Device& device;
  Alternatives<GatheredDataPlan>* alternatives;
  double memory_clocks;
  GatheredDataPlan best{};
  double clocks = std::numeric_limits<double>::infinity();

  void shapes(GatheredDataPlan plan) {
    for (const GatheredShape& shape : kGatheredShapes) {
      if (!exists(shape, plan.exact)) continue;
      plan.columns = shape.columns;
      plan.blocks = shape.blocks;
      tiles(plan);
    }
  }

  void tiles(GatheredDataPlan plan) {
    // All boxes of a tensor begin equally far from a 16-byte boundary.
    constexpr int kUnitBytes = 16;
    const int unit = kUnitBytes / plan.element_bytes;
    int step_w = 1;
    while (step_w * plan.axes[2].operand_step % unit != 0) ++step_w;
    const int rows = gathered_rows(plan);
    const auto whole = [&](int extent) { return (extent + step_w - 1) / step_w * step_w; };
    const int most_w = std::min(rows, whole(plan.axes[2].positions));
    for (int parts = 1, tried = 0; parts <= 64; ++parts) {
      const int w = whole((most_w + parts - 1) / parts);
      if (w == tried) continue;
      tried = w;
      if (w > rows) continue;
      for (int h : even_tiles(plan.axes[1].positions, std::max(1, rows / w)))
        for (int d : even_tiles(plan.axes[0].positions, std::max(1, rows / (w * h)))) {
          plan.tile[0] = d;
          plan.tile[1] = h;
          plan.tile[2] = w;
          divide_memory(plan);
          if (d * h * w * 4 < rows * 3) break;
        }
      if (w == step_w) break;
    }
  }

  void divide_memory(GatheredDataPlan plan) {
    constexpr int kMostBoxes = 3, kMostStages = 8, kLeastStages = 2, kMostExtent = 256;
    for (plan.box_slots = 1; plan.box_slots <= kMostBoxes; ++plan.box_slots) {
      plan.stages = kLeastStages;
      const GatheredDataSizes least = gathered_data_sizes(problem, pass, plan);
      if (std::max({least.lines_d, least.lines_h, least.pitch}) > kMostExtent) return;
      const int left = device.shared_per_block - least.shared_bytes;
      if (left < 0) return;
      constexpr int kBarrierBytes = 16;
      plan.stages =
          std::min(kLeastStages + left / (least.stage_bytes + kBarrierBytes), kMostStages);
      consider(plan);
    }
  }

  void consider(const GatheredDataPlan& plan) {
    const GatheredDataSizes sizes = gathered_data_sizes(problem, pass, plan);
    constexpr int64_t kMost = std::numeric_limits<int>::max();
    constexpr int64_t kMostTiles = 65535;  // a dimension of the packing kernel's grid
    const int64_t units = int64_t{sizes.plane_stages} * kGatheredStageSteps * 2 * plan.columns;
    if (sizes.items > kMost || units > kMost || problem.groups * sizes.channel_tiles > kMostTiles)
      return;
    const double cost = clocks_of(problem, pass, plan, sizes, memory_clocks, device);
    if (cost < clocks) {
      clocks = cost;
      best = plan;
    }
    if (alternatives != nullptr)
      alternatives->offer({plan.columns, plan.blocks, plan.box_slots}, plan, cost);
  }
};

std::optional<Search> search_plan(const Problem& problem, const GatheredDataPlan& base, Pass pass,
                                  const Device& device,
                                  Alternatives<GatheredDataPlan>* alternatives = nullptr) {
  const double elements = elements_of(problem.input_size()) + elements_of(problem.output_size());
  Search search{problem, pass, device, alternatives,
                elements * base.element_bytes / kMemoryBytes / device.multiprocessors};
  search.shapes(base);
  if (!std::isfinite(search.clocks)) return std::nullopt;
  return search;
}

// Why another kernel is faster; nullptr: none is, as far as predictions tell.
const char* drawback_of(const Problem& problem, Pass pass, DataType type, bool allow_tf32,
                        double clocks, const Device& device) {
  const bool forward = pass == Pass::kForward;
  const TensorPointer operand =
      dense_tensor(forward ? problem.input_size() : problem.output_size(), false);
  const TensorPointer result =
      dense_tensor(forward ? problem.output_size() : problem.input_size(), false);
  // Taken unless predicted so many times as long. As measured: predictions of gemm_data are a third
  // too short.
  constexpr double kHalfTransposedTaken = 1.05, kTransposedTaken = 0.95, kPortableTaken = 1.25;
  const auto transposed =
      plan_wgmma_data(problem, pass, type, operand, result, allow_tf32, device, true);
  const double taken = element_bytes(type) == 2 ? kHalfTransposedTaken : kTransposedTaken;
  if (transposed && transposed.clocks() * taken < clocks)
    return "warps that transpose the operand are predicted to be as fast";
  const auto portable = plan_gemm_data(problem, pass, type, operand, result, device);
  if (portable && portable.clocks() * kPortableTaken < clocks)
    return "the portable kernel is predicted faster";
  return nullptr;
}

}  // namespace

Planned<GatheredDataPlan> plan_gathered_data(const Problem& problem, Pass pass, DataType type,
                                             const TensorPointer& operand,
                                             const TensorPointer& result, bool allow_tf32,
                                             const Device& device, bool even_if_slow,
                                             Alternatives<GatheredDataPlan>* alternatives) {
  // float32 products are three of TF32 values, unless one is allowed.
  if (const char* reason = wgmma_refusal(type, true, device)) return Refusal{reason};
  const bool forward = pass == Pass::kForward;
  const int64_t operand_channels =
      forward ? problem.in_channels_per_group() : problem.out_channels_per_group();
  if (!fits_data_kernels(problem)) return Refusal{"its sizes exceed what the kernel counts"};
  constexpr int64_t kUnitBytes = 16;
  const int bytes = element_bytes(type);
  bool aligned = operand.stride[4] == 1 && result.stride[4] == 1 &&
                 reinterpret_cast<uintptr_t>(operand.data) % kUnitBytes == 0;
  for (int dim = 0; dim < 4; ++dim)
    aligned = aligned && operand.stride[dim] * bytes % kUnitBytes == 0;
  if (!aligned)
    return Refusal{"it is for contiguous tensors whose lines are multiples of 16 bytes"};
  GatheredDataPlan base{};
  base.element_bytes = bytes;
  base.exact = type == DataType::kFloat32 && !allow_tf32;
  if (problem.groups > 1 && operand_channels * bytes % kGatheredStepBytes != 0)
    return Refusal{"the copy engine cannot tell these groups' channels apart"};
  for (int a = 0; a < 3; ++a) {
    const std::optional<WindowAxis> axis = window_axis(pass, problem.axes[a]);
    if (!axis) return Refusal{"a kernel above 16 or a stride above 8 exceeds its tables"};
    base.axes[a] = *axis;
  }
  static PlanCache<GatheredDataPlan> cache;
  const PlanKey key(problem,
                    {static_cast<int64_t>(pass), device.multiprocessors, device.shared_per_block,
                     static_cast<int64_t>(type), allow_tf32, even_if_slow});
  const auto find = [&]() -> Planned<GatheredDataPlan> {
    constexpr Refusal kNoTile{"no tile fits into shared memory"};
    if (!even_if_slow) {
      // Which kernel runs must not depend on the batch.
      Problem typical = problem;
      typical.batch = 16;
      const auto of_typical = search_plan(typical, base, pass, device);
      if (!of_typical) return kNoTile;
      if (const char* drawback =
              drawback_of(typical, pass, type, allow_tf32, of_typical->clocks, device))
        return Refusal{drawback};
    }
    const auto found = search_plan(problem, base, pass, device, alternatives);
    if (!found) return kNoTile;
    return {found->best, found->clocks};
  };
  return alternatives ? find() : cache.find(key, find);
}

}  // namespace convt3d

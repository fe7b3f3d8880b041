#include "plan_wgmma_grad_weight.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>

#include "kernels/gemm_data_sizes.h"
#include "kernels/wgmma_grad_weight_shapes.h"
#include "plan_cache.h"
#include "plan_grad_weight.h"
#include "plan_wgmma_cost.h"

namespace convt3d {
namespace {

// Partial sums may take this much memory (the documented workspace).
constexpr int64_t kMostWorkspace = int64_t{64} << 20;
constexpr int kMostBoxExtent = 256;  // of the copy engine
constexpr int kMostStages = 4;
constexpr int kMostPositions = 512;  // per tile

// ---- Cost model, in clocks of one multiprocessor (H200) -----------------------------------------
constexpr double kFillRowClocks = 4;  // per row of a box and the copy engine
constexpr double kFillBytes = 28;     // per clock
// Staged lines: for four blocks of them, and for each of their 16-byte units of channels.
constexpr double kFillQuadClocks = 90, kFillQuadUnitClocks = 40;
// Element by element: all threads load one of every channel of four units, wait, and store.
constexpr double kFillPassClocks = 1000;
constexpr double kFillLoadClocks = 21;
constexpr double kFillStridedLoadClocks = 128;  // neighbours along w in a line of the cache each
constexpr double kTileClocks = 200;             // barriers, the first products' operands
constexpr double kBlockClocks = 6000;           // start, tables, first tiles, storing
constexpr double kSumClocks = 5000;             // another launch
constexpr double kSumBytesPerClock = 1500;      // of the whole GPU
constexpr double kStoresPerClock = 90;          // scattered weights, of the whole GPU

// To fill a box, or several that share lines of memory, by warps.
double fill_clocks(const ContractionBox& box, OperandFill fill, bool strided) {
  if (fill == OperandFill::kLines) {
    const LineStaging& staging = box.line_staging;
    const double quads = 1. * staging.unit_groups * box.most_lines * staging.line_runs *
                         staging.blocks * kLineBlock / 32;
    return quads * (kFillQuadClocks + kFillQuadUnitClocks * staging.units);
  }
  const int span = box.lines_of_memory.span();
  const double passes =
      std::ceil(1. * box.most_lines * span / (32 * kContractFillWarps)) * std::ceil(box.units / 4.);
  const double loads = 8. * std::min(box.units, 4);
  return passes * (kFillPassClocks + loads * (strided ? kFillStridedLoadClocks : kFillLoadClocks));
}

struct Search {
  const Problem& problem;
  const Device& device;
  double tensor_bytes;  // of both operands
  OperandFill fill;
  bool strided;  // neighbours along w of an operand lie apart
  Alternatives<WgmmaGradWeightPlan>* alternatives;
  WgmmaGradWeightPlan best{};
  double clocks = std::numeric_limits<double>::infinity();

  // The tiles of the smallest instance with at least so many; 0: none.
  static int instance_tiles(int columns, int tiles) {
    for (const WgmmaGradWeightShape& shape : kWgmmaGradWeightShapes)
      if (shape.columns == columns && shape.tiles >= tiles) return shape.tiles;
    return 0;
  }

  void choose_split(WgmmaGradWeightPlan plan) {
    plan.splits = 1;
    for (plan.stages = kMostStages; plan.stages >= 2; --plan.stages)
      if (wgmma_grad_weight_sizes(problem, plan).shared_bytes <= device.shared_per_block) break;
    if (plan.stages < 2) return;
    const WgmmaGradWeightSizes sizes = wgmma_grad_weight_sizes(problem, plan);
    const ContractionBox &still = sizes.still, &moving = sizes.moving;
    const double products = sizes.steps * instance_tiles(plan.columns, plan.tiles) *
                            (plan.split_positions ? 1 : 2) * product_clocks(plan.columns);
    const double still_rows =
        1. * plan.samples * still.lines * still.pitch * still.blocks * still.boxes;
    const double moving_rows = 1. * plan.samples * moving.lines * moving.pitch * moving.blocks;
    const double bytes = 16 * (still_rows * still.width + moving_rows * moving.width);
    const double filling =
        fill == OperandFill::kCopyEngine
            ? std::max(bytes / kFillBytes, (still_rows + moving_rows) * kFillRowClocks)
            : fill_clocks(still, fill, strided) + fill_clocks(moving, fill, strided);
    const double tile_clocks = std::max(products, filling) + kTileClocks;
    int depth = 1;
    for (int place = 0; place < plan.axes[0].taps(); ++place) {
      const PositionRange range = positions_of_tap(plan.axes[0], place);
      depth = std::max(depth, range.last - range.first);
    }
    const int64_t tiles =
        static_cast<int64_t>(depth) * sizes.sample_tiles * sizes.tiles_h * sizes.tiles_w;
    if (tiles > std::numeric_limits<int>::max() / 2 || sizes.jobs > (1 << 20)) return;
    for (int waves = 1; waves <= 6; ++waves) {
      plan.splits = static_cast<int>(std::clamp<int64_t>(
          static_cast<int64_t>(waves) * device.multiprocessors / sizes.jobs, 1, tiles));
      const int64_t slot_bytes = sizes.partials * 4 * (plan.split_positions ? 2 : 1);
      if (plan.splits > 1 || plan.split_positions)
        plan.splits = static_cast<int>(std::min<int64_t>(plan.splits, kMostWorkspace / slot_bytes));
      if (plan.splits < 1) return;
      const int64_t per_split = (tiles + plan.splits - 1) / plan.splits;
      plan.splits = static_cast<int>((tiles + per_split - 1) / per_split);
      const double blocks = static_cast<double>(sizes.jobs) * plan.splits;
      double cost = std::ceil(blocks / device.multiprocessors) *
                    (static_cast<double>(per_split) * tile_clocks + kBlockClocks);
      cost = std::max(cost, tensor_bytes / kMemoryBytes / device.multiprocessors);
      const double slots = plan.splits * (plan.split_positions ? 2. : 1.);
      if (slots > 1) cost += kSumClocks + slots * sizes.partials * 8 / kSumBytesPerClock;
      cost += sizes.partials / kStoresPerClock;
      if (alternatives != nullptr)
        alternatives->offer({plan.input_moves, plan.moving_rows, plan.merged, plan.columns,
                             plan.tap_groups, plan.flattened},
                            plan, cost);
      if (cost >= clocks) continue;
      clocks = cost;
      best = plan;
      best.clocks = cost;
    }
  }

  void consider_positions(WgmmaGradWeightPlan plan) {
    const WindowAxis &h = plan.axes[1], &w = plan.axes[2];
    const auto fits_copy = [](const WindowAxis& axis, int tile) {
      return tile + axis.window - 1 <= kMostBoxExtent &&
             axis.result_step * (tile + axis.window - 2) + 1 <= kMostBoxExtent;
    };
    plan.flattened = false;
    plan.samples = 1;
    const int padded_w = (w.positions + 7) / 8 * 8;
    for (int parts = 1; parts <= padded_w / 8; ++parts) {
      plan.tile_w = ((padded_w + parts - 1) / parts + 7) / 8 * 8;
      if (!fits_copy(w, plan.tile_w)) continue;
      for (int parts_h = 1; parts_h <= h.positions; ++parts_h) {
        plan.tile_h = (h.positions + parts_h - 1) / parts_h;
        if (plan.tile_w / 8 % 2 != 0) plan.tile_h += plan.tile_h % 2;
        const int positions = plan.tile_h * plan.tile_w;
        if (positions > kMostPositions || !fits_copy(h, plan.tile_h)) continue;
        if (positions < 64 && parts_h > 1) break;
        choose_split(plan);
      }
    }
    plan.flattened = true;
    plan.tile_w = w.positions;
    const int pitch = plan.tile_w + w.window - 1;
    if (!fits_copy(w, plan.tile_w)) return;
    for (int parts_h = 1; parts_h <= h.positions; ++parts_h) {
      plan.tile_h = (h.positions + parts_h - 1) / parts_h;
      const int lines = plan.tile_h + h.window - 1;
      if (!fits_copy(h, plan.tile_h) || plan.tile_h * pitch > kMostPositions) continue;
      if (plan.tile_h * pitch < 64 && parts_h > 1) break;
      const int most = parts_h > 1 ? 1
                                   : static_cast<int>(std::min<int64_t>(
                                         problem.batch, kMostPositions / (lines * pitch)));
      for (plan.samples = 1; plan.samples <= std::max(most, 1); ++plan.samples) choose_split(plan);
    }
  }

  void consider_taps(WgmmaGradWeightPlan plan) {
    const int tap_tiles_of_all = tap_tiles(plan.axes[1], plan.axes[2], plan.merged);
    for (plan.tap_groups = 1; plan.tap_groups <= tap_tiles_of_all; ++plan.tap_groups) {
      const int per_group = (tap_tiles_of_all + plan.tap_groups - 1) / plan.tap_groups;
      if (plan.tap_groups > 1 && (tap_tiles_of_all + per_group - 1) / per_group < plan.tap_groups)
        continue;
      for (bool split : {false, true}) {
        plan.split_positions = split;
        plan.tiles = split ? per_group : (per_group + 1) / 2;
        if (!split && per_group == 1) continue;
        if (instance_tiles(plan.columns, plan.tiles) > 0) consider_positions(plan);
      }
    }
  }

  void consider_channels(WgmmaGradWeightPlan plan) {
    const int in = static_cast<int>(problem.in_channels_per_group());
    const int out = static_cast<int>(problem.out_channels_per_group());
    const int moving = plan.input_moves ? in : out, still = plan.input_moves ? out : in;
    const WindowAxis& w = plan.axes[2];
    int most_taps = 0;
    for (int plane = 0; plane < w.planes; ++plane)
      most_taps = std::max(most_taps, w.taps_of(plane));
    constexpr int kColumns[] = {32, 48, 64, 96, 128};
    for (bool moving_rows : {false, true}) {
      plan.moving_rows = moving_rows;
      for (int columns : kColumns) {
        plan.columns = columns;
        for (plan.merged = 1; plan.merged <= std::min(4, most_taps); ++plan.merged) {
          const int side = moving_rows ? 64 : columns;
          const int slice = side / plan.merged;
          if (side % plan.merged != 0) continue;
          // Taps side by side: all channels in one row's width.
          if (plan.merged > 1 && ((slice != 16 && slice != 32 && slice != 64) || moving > slice))
            continue;
          const int column_channels = moving_rows ? still : moving;
          // Half of the columns would be padding.
          if (plan.merged == 1 && columns > 32 && columns / 2 >= column_channels) continue;
          consider_taps(plan);
        }
      }
    }
  }
};

// Share of the products' rows and columns that are weights.
double useful_share(const Problem& problem, const WgmmaGradWeightPlan& plan) {
  const WgmmaGradWeightSizes sizes = wgmma_grad_weight_sizes(problem, plan);
  const double weights = static_cast<double>(problem.in_channels_per_group()) *
                         problem.out_channels_per_group() * plan.axes[1].taps() *
                         plan.axes[2].taps();
  return weights / (static_cast<double>(sizes.still.slices) * sizes.moving.slices *
                    sizes.tap_tiles * 64 * plan.columns);
}

}  // namespace

Planned<WgmmaGradWeightPlan> plan_wgmma_grad_weight(
    const Problem& problem, DataType type, const TensorPointer& grad_output,
    const TensorPointer& input, const Device& device, bool even_if_slow,
    Alternatives<WgmmaGradWeightPlan>* alternatives) {
  if (!device.has_wgmma) return Refusal{"the GPU or this build has no WGMMA (sm_90a)"};
  if (type != DataType::kFloat16 && type != DataType::kBFloat16)
    return Refusal{"only 16-bit operands can be read transposed"};
  if (!fits_data_kernels(problem)) return Refusal{"its sizes exceed what the kernel counts"};
  if (problem.batch == 0) return Refusal{"there are no positions"};
  const bool by_copies = loads_in_vectors(grad_output, problem.out_channels_per_group(), type) &&
                         loads_in_vectors(input, problem.in_channels_per_group(), type);
  const auto by_lines = [&](const TensorPointer& tensor, int64_t Axis::* extent) {
    return loads_in_lines(
        tensor, {problem.axes[0].*extent, problem.axes[1].*extent, problem.axes[2].*extent}, type);
  };
  const OperandFill fill = by_copies ? OperandFill::kCopyEngine
                           : by_lines(grad_output, &Axis::output) && by_lines(input, &Axis::input)
                               ? OperandFill::kLines
                               : OperandFill::kElements;
  const bool strided = grad_output.stride[4] != 1 || input.stride[4] != 1;
  const auto line_fits = [](const TensorPointer& tensor, int64_t extent) {
    return extent * tensor.stride[4] <= std::numeric_limits<int>::max();
  };
  if (!by_copies &&
      !(line_fits(grad_output, problem.axes[2].output) && line_fits(input, problem.axes[2].input)))
    return Refusal{"a line along the width exceeds what it counts"};
  static PlanCache<WgmmaGradWeightPlan> cache;
  const PlanKey key(problem, {device.multiprocessors, device.shared_per_block, even_if_slow,
                              static_cast<int64_t>(fill), strided});
  const auto find = [&]() -> Planned<WgmmaGradWeightPlan> {
    const double bytes = (elements_of(problem.input_size()) + elements_of(problem.output_size())) *
                         element_bytes(type);
    Search search{problem, device, bytes, fill, strided, alternatives};
    for (bool input_moves : {true, false}) {
      WgmmaGradWeightPlan plan{};
      plan.input_moves = input_moves;
      plan.fill = fill;
      bool possible = true;
      for (int a = 0; a < 3 && possible; ++a) {
        const std::optional<WindowAxis> axis =
            window_axis(input_moves ? Pass::kForward : Pass::kGradInput, problem.axes[a]);
        possible = axis && (a == 0 || axis->operand_step == 1);
        if (possible) plan.axes[a] = *axis;
      }
      if (possible) search.consider_channels(plan);
    }
    if (!std::isfinite(search.clocks))
      return Refusal{"its kernel or strides exceed the tables, or no tile fits into shared memory"};
    constexpr double kLeastUseful = 0.15;
    if (!even_if_slow && useful_share(problem, search.best) < kLeastUseful)
      return Refusal{"most rows and columns of a product would be padding"};
    return {search.best, search.clocks};
  };
  const Planned<WgmmaGradWeightPlan> planned = alternatives ? find() : cache.find(key, find);
  if (planned && !by_copies && !even_if_slow) {
    const auto portable = plan_gemm_grad_weight(problem, type, grad_output, input, device);
    // The portable kernel takes up to 1.8 times its prediction where lines begin off 16-byte
    // boundaries.
    const bool aligned = problem.axes[2].input % 8 == 0 && problem.axes[2].output % 8 == 0;
    const double clearly = fill == OperandFill::kElements ? 1.6 : aligned ? 1.1 : 1.3;
    if (portable && portable.clocks() * clearly < planned.clocks())
      return Refusal{
          "warps would fill its tiles, for which the portable kernel is predicted faster"};
  }
  return planned;
}

}  // namespace convt3d

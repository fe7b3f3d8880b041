#include "plan_gathered_grad_weight.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/gathered_grad_weight_shapes.h"
#include "plan_cache.h"
#include "plan_grad_weight.h"
#include "plan_wgmma_cost.h"
#include "plan_wgmma_grad_weight.h"

namespace convt3d {
namespace {

// Partial sums may take this much memory (the documented workspace).
constexpr int64_t kMostWorkspace = int64_t{64} << 20;
constexpr int kMostStages = 4;
constexpr int kLeastPositions = 32, kMostPositions = 512;  // per tile

// ---- Cost model, in clocks of one multiprocessor (H200) -----------------------------------------
// Fitted to 820 measurements of plans of the benchmark's cases (docs/performance.md).
constexpr double kStepClocks = 91;         // per k-step, of both warpgroups
constexpr double kConflictClocks = 7;      // more per product, of rows in half of the banks
constexpr double kTileClocks = 885;        // per tile: barriers, first rows
constexpr double kCopyLatency = 1880;      // from a free stage to its first bytes
constexpr double kRowClocks = 3;           // per row of a copy of the copy engine
constexpr double kFillBytes = 42;          // per clock
constexpr double kElementLatency = 3960;   // more where warps copy elements
constexpr double kElementLineClocks = 19;  // per line, and per 32 lanes' columns of it
constexpr double kElementColumnClocks = 54;
constexpr double kElementClocks = 2.8;  // per channel of a line, and of 32 lanes' columns
constexpr double kElementColumnElementClocks = 3.3;
constexpr double kElementBatchClocks = 128;    // eight channels of 32 positions of the input
constexpr double kTransposedBatchClocks = 11;  // 32 channels of 16 positions
constexpr double kPairLatency = 650;  // where copies of pairs are made of what comes a tile ahead
constexpr double kPairWords = 33;     // of these, per clock
constexpr double kManyResiduesPairWords = 3;  // of a stride above 2
constexpr double kOverlap = 4;                // what goes on at once: its norm of so many powers
constexpr double kBlockClocks = 3760;         // start, tables, first tiles, storing
constexpr double kSumBytesPerClock = 1500;    // of the whole GPU
constexpr double kStoresPerClock = 90;        // scattered weights, of the whole GPU

// The most neighbours of such an extent, of channels or along w, that a copy can bring from one
// boundary of theirs in memory to the next, of up to 16 bytes.
int most_run(const TensorPointer& tensor, DataType type, int fast, int64_t extent) {
  if (tensor.stride[fast] != 1) return 1;
  const int bytes = element_bytes(type);
  const auto fits = [&](int run) {
    bool result =
        reinterpret_cast<uintptr_t>(tensor.data) % (bytes * run) == 0 && extent % run == 0;
    for (int dim = 0; dim < 5; ++dim)
      result = result && (dim == fast || tensor.stride[dim] % run == 0);
    return result;
  };
  int run = 16 / bytes;
  while (!fits(run)) run /= 2;
  return run;
}

// How operands can come into shared memory.
struct Fills {
  GatheredGradWeightPlan start;  // what of a plan follows from that
  bool copies_input;             // the copy engine can bring parts of its lines
  bool dense_lines;              // or whole ones
  bool none;                     // 16 bits: not at all

  int64_t key() const {
    return ((((int64_t{none} * 2 + start.output_channels_last) * 16 + start.output_run) * 4 +
             static_cast<int>(start.input_fill)) *
                2 +
            copies_input) *
               2 +
           dense_lines;
  }
};

Fills fills_of(const Problem& problem, DataType type, const TensorPointer& grad_output,
               const TensorPointer& input) {
  constexpr int kChannel = 1, kColumn = 4;  // dimensions
  const bool pairs = element_bytes(type) == 2;
  const int quad = 16 / element_bytes(type);
  Fills fills{};
  GatheredGradWeightPlan& start = fills.start;
  start.word_positions = pairs ? 2 : 1;
  start.output_run = most_run(grad_output, type, kColumn, problem.axes[2].output);
  fills.copies_input = most_run(input, type, kColumn, problem.axes[2].input) == quad;
  const auto& [stride_n, stride_c, stride_d, stride_h, stride_w] = input.stride;
  fills.dense_lines = reinterpret_cast<uintptr_t>(input.data) % 16 == 0 && stride_w == 1 &&
                      stride_h == problem.axes[2].input && stride_n % quad == 0 &&
                      stride_c % quad == 0 && stride_d % quad == 0;
  if (pairs) {
    fills.none = start.output_run != quad || !(fills.copies_input || fills.dense_lines);
    start.output_fill = GatherFill::kShifted;
    start.input_fill = GatherFill::kCopyEngine;
    return fills;
  }
  start.output_channels_last =
      most_run(grad_output, type, kChannel, problem.out_channels_per_group()) == quad;
  if (start.output_channels_last) start.output_run = 1;
  start.output_fill = start.output_channels_last || start.output_run == quad
                          ? GatherFill::kCopyEngine
                          : GatherFill::kElements;
  start.input_fill = most_run(input, type, kChannel, problem.in_channels_per_group()) == quad
                         ? GatherFill::kTransposed
                         : GatherFill::kElements;
  return fills;
}

struct Search {
  const Problem& original;
  const Problem& problem;  // or mirrored
  const Device& device;
  double tensor_bytes;  // of both operands
  Fills fills;
  Alternatives<GatheredGradWeightPlan>* alternatives;
  GatheredGradWeightPlan best{};
  double clocks = std::numeric_limits<double>::infinity();

  // The tiles of the smallest instance with at least so many; 0: none.
  static int instance_tiles(int columns, int tiles) {
    for (const GatheredGradWeightShape& shape : kGatheredGradWeightShapes)
      if (shape.columns == columns && shape.tiles >= tiles) return shape.tiles;
    return 0;
  }

  double tile_clocks(const GatheredGradWeightPlan& plan, const GatheredGradWeightSizes& sizes,
                     const GatherBox& box) const {
    const auto chunks = [](double value, double size) { return std::ceil(value / size); };
    const bool conflicts =
        !plan.output_channels_last && plan.word_positions == 1 && sizes.axes[2].stride % 2 == 0;
    const double product =
        std::max(plan.columns / 2., 16 + plan.columns / 4. + conflicts * kConflictClocks);
    const int tiles = 2 * instance_tiles(plan.columns, plan.tiles);
    const double products = sizes.steps * (tiles * product + kStepClocks);
    const double lines = 1. * box.span[0] * plan.samples * box.span[1];
    const double channels = std::min(plan.slice, sizes.out_channels);
    const double columns = std::min(plan.columns, sizes.in_channels);
    const double words = 1. * box.copy_pitch() * box.copies();
    const double bytes = 4 * (words / (plan.word_positions == 2 ? 2 : 1) +
                              1. * sizes.positions / plan.word_positions * columns);
    double rows = 0, warps = 0;
    if (plan.output_fill == GatherFill::kElements) {
      const double columns_of_lanes = chunks(box.span[2], 32 * plan.output_run);
      warps +=
          lines * (kElementLineClocks + kElementColumnClocks * columns_of_lanes +
                   channels * (kElementClocks + kElementColumnElementClocks * columns_of_lanes));
    } else {
      rows += lines * (plan.output_channels_last ? box.span[2] : plan.slice);
    }
    if (plan.input_fill == GatherFill::kElements) {
      warps += chunks(sizes.positions, 32) * chunks(columns, 8) * kElementBatchClocks;
    } else if (plan.input_fill == GatherFill::kTransposed) {
      rows += sizes.positions;
      warps += chunks(sizes.positions, 16) * chunks(columns, 32) * kTransposedBatchClocks;
    } else {
      rows += 1. * sizes.positions / plan.row_positions() * plan.columns;
    }
    const bool pairs = plan.output_fill == GatherFill::kShifted;
    if (pairs) warps += words / (sizes.axes[2].stride > 2 ? kManyResiduesPairWords : kPairWords);
    const bool copies_elements =
        plan.output_fill == GatherFill::kElements || plan.input_fill == GatherFill::kElements;
    const double copying = std::max(rows * kRowClocks, bytes / kFillBytes);
    // A stage is filled while the others are multiplied.
    const double latency = pairs ? kPairLatency : kCopyLatency + copies_elements * kElementLatency;
    const double filling = latency / (plan.stages - 1) + copying + warps;
    double powers = 0;
    for (double clocks : {products, filling, std::max(copying, warps)})
      powers += std::pow(clocks, kOverlap);
    return std::pow(powers, 1 / kOverlap) + kTileClocks;
  }

  // Whether a plane of the box is small enough to be counted in 32 bits; far more than fits.
  bool counts_box(const GatheredGradWeightPlan& plan) const {
    constexpr double kMostWords = 1 << 26, kPadding = 16;
    double words = 1. * plan.samples * (plan.slice + kPadding);
    for (int a = 1; a < 3; ++a) {
      const Axis& axis = problem.axes[a];
      words *= 1. * axis.stride * (plan.tile[a] - 1) + 1. * axis.dilation * (axis.kernel - 1) +
               (a == 2 ? kPadding : 1);
    }
    return words < kMostWords;
  }

  void choose_split(GatheredGradWeightPlan plan) {
    if (!counts_box(plan)) return;
    plan.splits = 1;
    for (plan.stages = kMostStages; plan.stages >= 2; --plan.stages)
      if (gathered_grad_weight_sizes(original, plan).shared_bytes <= device.shared_per_block) break;
    if (plan.stages < 2) return;
    const GatheredGradWeightSizes sizes = gathered_grad_weight_sizes(original, plan);
    const RowRange rows = rows_of_block(sizes, 0);
    const GatherBox box =
        gather_box(sizes.axes, plan, taps_of_rows(sizes.axes, plan.slice, rows.first, rows.last));
    // What boxes of the copy engine and the table of lines count.
    int extent = std::max(box.span[0], box.span[1]);
    const int line_copies = plan.word_positions == 2 ? 2 * sizes.axes[2].stride : 1;
    if (plan.output_fill != GatherFill::kElements)
      extent = std::max(
          {extent, plan.output_channels_last ? box.span[2] : plan.slice,
           plan.output_channels_last ? box.column_pitch : box.channel_pitch * line_copies});
    if (extent > kMostGatherExtent) return;
    if (sizes.jobs > (1 << 20) || sizes.tiles == std::numeric_limits<int>::max()) return;
    const double tile = tile_clocks(plan, sizes, box);
    for (int waves = 1; waves <= 4; ++waves) {
      plan.splits = static_cast<int>(std::clamp<int64_t>(
          static_cast<int64_t>(waves) * device.multiprocessors / sizes.jobs, 1, sizes.tiles));
      if (plan.splits > 1)
        plan.splits =
            static_cast<int>(std::min<int64_t>(plan.splits, kMostWorkspace / (sizes.partials * 4)));
      plan.splits = std::max(plan.splits, 1);
      const int per_split = (sizes.tiles + plan.splits - 1) / plan.splits;
      plan.splits = (sizes.tiles + per_split - 1) / per_split;
      const double blocks = static_cast<double>(sizes.jobs) * plan.splits;
      double cost = std::ceil(blocks / device.multiprocessors) * (per_split * tile + kBlockClocks);
      cost = std::max(cost, tensor_bytes / kMemoryBytes / device.multiprocessors);
      if (plan.splits > 1) cost += 8. * plan.splits * sizes.partials / kSumBytesPerClock;
      cost += sizes.partials / kStoresPerClock;
      if (alternatives != nullptr)
        alternatives->offer({plan.columns + plan.mirrored, plan.tiles, plan.slice, plan.row_blocks,
                             static_cast<int>(plan.input_fill), plan.tile[0] * plan.samples},
                            plan, cost);
      if (cost >= clocks) continue;
      clocks = cost;
      best = plan;
      best.clocks = cost;
    }
  }

  void consider_positions(GatheredGradWeightPlan plan) {
    const auto& axes = problem.axes;
    const auto extent = [&](int axis) { return static_cast<int>(axes[axis].input); };
    const GatherFill warps_input = plan.input_fill;
    for (int parts_w = 1; parts_w <= 64 && parts_w <= extent(2); parts_w *= 2) {
      const int even = (extent(2) + parts_w - 1) / parts_w;
      plan.tile[2] = parts_w == 1 ? even : (even + 3) / 4 * 4;
      // The lines of all tiles begin at the same distance from a boundary.
      if (!plan.output_channels_last && plan.tile[2] < extent(2) &&
          axes[2].stride * plan.tile[2] % plan.output_run != 0)
        continue;
      plan.input_fill = warps_input;
      plan.row_words = kGatherRowWords;
      if (plan.word_positions == 1) consider_lines(plan);
      // Rows of positions that the copy engine brings: of parts of lines, or of whole lines.
      plan.input_fill = GatherFill::kCopyEngine;
      const auto choose_row = [&](int positions) {
        plan.row_words = kGatherDepth;
        while (plan.row_words < kGatherRowWords && plan.row_positions() < positions)
          plan.row_words *= 2;
      };
      if (parts_w == 1 && fills.dense_lines && even % plan.word_positions == 0) {
        plan.whole_lines = true;
        choose_row(kMostPositions);
        for (; plan.row_words >= kGatherDepth; plan.row_words /= 2) consider_lines(plan);
        plan.whole_lines = false;
      }
      if (!fills.copies_input) continue;
      choose_row(even);
      plan.tile[2] =
          (even + plan.row_positions() - 1) / plan.row_positions() * plan.row_positions();
      consider_lines(plan);
    }
  }

  void consider_lines(GatheredGradWeightPlan plan) {
    const auto& axes = problem.axes;
    const auto extent = [&](int axis) { return static_cast<int>(axes[axis].input); };
    if (plan.tile[2] > kMostGatherExtent) return;
    for (int h = std::min({extent(1), kMostPositions / plan.tile[2], kMostGatherExtent}); h >= 1;
         h = h > 8 ? h / 2 : h - 1) {
      const int parts_h = (extent(1) + h - 1) / h;
      plan.tile[1] = (extent(1) + parts_h - 1) / parts_h;
      if (plan.whole_lines) {
        // Rows begin with tiles, and on 16-byte boundaries.
        while (plan.tile[1] * plan.tile[2] % plan.row_positions() != 0 &&
               plan.tile[1] * plan.tile[2] < kMostPositions)
          ++plan.tile[1];
        if (plan.tile[1] * plan.tile[2] % plan.row_positions() != 0) continue;
      }
      for (int d = 1; d * plan.tile[1] * plan.tile[2] <= kMostPositions; d *= 2) {
        plan.tile[0] = std::min(d, extent(0));
        if (plan.tile[0] > kMostGatherExtent) break;
        const int positions = plan.tile[0] * plan.tile[1] * plan.tile[2];
        // Of small images, planes of several samples.
        const bool whole = plan.tile[1] >= extent(1) && plan.tile[2] >= extent(2);
        const int most = whole
                             ? static_cast<int>(std::min<int64_t>(
                                   {problem.batch, kMostPositions / positions, kMostGatherExtent}))
                             : 1;
        for (plan.samples = 1; plan.samples <= most; plan.samples *= 2)
          if (plan.samples * positions >= kLeastPositions || plan.samples * 2 > most)
            choose_split(plan);
        if (d >= extent(0)) break;
      }
    }
  }

  void consider_rows(GatheredGradWeightPlan plan) {
    const int64_t taps = problem.axes[0].kernel * problem.axes[1].kernel * problem.axes[2].kernel;
    const int64_t row_tiles = (taps * plan.slice + kGatherRows - 1) / kGatherRows;
    if (row_tiles > (1 << 16)) return;
    int before = 0;
    for (const GatheredGradWeightShape& shape : kGatheredGradWeightShapes) {
      if (shape.columns != plan.columns) continue;
      const auto per_block = std::min<int64_t>(2 * shape.tiles, row_tiles);
      plan.row_blocks = static_cast<int>((row_tiles + per_block - 1) / per_block);
      const int64_t even = (row_tiles + plan.row_blocks - 1) / plan.row_blocks;
      plan.row_blocks = static_cast<int>((row_tiles + even - 1) / even);
      if (plan.row_blocks == before) continue;
      before = plan.row_blocks;
      plan.tiles = static_cast<int>((even + 1) / 2);
      consider_positions(plan);
    }
  }

  void consider_channels(GatheredGradWeightPlan plan) {
    const int in = static_cast<int>(problem.in_channels_per_group());
    const int out = static_cast<int>(problem.out_channels_per_group());
    int columns_before = 0;
    for (const GatheredGradWeightShape& shape : kGatheredGradWeightShapes) {
      plan.columns = shape.columns;
      if (plan.columns == columns_before) continue;
      columns_before = plan.columns;
      // Half of the columns would be padding.
      if (plan.columns > 16 && plan.columns / 2 >= in) continue;
      for (int parts = 1; parts <= 8 && (parts == 1 || out / parts >= 8); parts *= 2) {
        const int even = (out + parts - 1) / parts;
        plan.slice = parts == 1 ? even + even % 2 : (even + 7) / 8 * 8;
        consider_rows(plan);
      }
    }
  }
};

// Share of the products' rows and columns that are weights.
double useful_share(const Problem& problem, const GatheredGradWeightPlan& plan) {
  const GatheredGradWeightSizes sizes = gathered_grad_weight_sizes(problem, plan);
  const double taps = 1. * sizes.rows / plan.slice;
  return taps * sizes.out_channels * sizes.in_channels /
         (1. * sizes.output_slices * plan.row_blocks * 2 * plan.tiles * kGatherRows *
          sizes.input_slices * plan.columns);
}

}  // namespace

Planned<GatheredGradWeightPlan> plan_gathered_grad_weight(
    const Problem& problem, DataType type, const TensorPointer& grad_output,
    const TensorPointer& input, bool allow_tf32, const Device& device, bool even_if_slow,
    Alternatives<GatheredGradWeightPlan>* alternatives) {
  if (const char* reason = wgmma_refusal(type, allow_tf32, device)) return Refusal{reason};
  const bool pairs = type != DataType::kFloat32;
  if (!fits_data_kernels(problem)) return Refusal{"its sizes exceed what the kernel counts"};
  if (problem.batch == 0) return Refusal{"there are no positions"};
  const bool mirrors = can_mirror(problem);
  const Problem mirrored = mirrors ? mirror(problem) : problem;
  const Fills fills = fills_of(problem, type, grad_output, input);
  const Fills mirrored_fills = fills_of(mirrored, type, input, grad_output);
  if (pairs && problem.axes[2].stride > kMostGatherStride)
    return Refusal{"a stride along the width has more residues than it counts"};
  if (fills.none && (mirrored_fills.none || !mirrors))
    return Refusal{"lines of 16-bit elements along the width are not multiples of 16 bytes"};
  static PlanCache<GatheredGradWeightPlan> cache;
  const PlanKey key(problem, {device.multiprocessors, device.shared_per_block, even_if_slow, pairs,
                              fills.key(), mirrored_fills.key()});
  const auto find = [&]() -> Planned<GatheredGradWeightPlan> {
    const double bytes = (elements_of(problem.input_size()) + elements_of(problem.output_size())) *
                         element_bytes(type);
    GatheredGradWeightPlan best{};
    double clocks = std::numeric_limits<double>::infinity();
    for (bool mirror : {false, true}) {
      const Fills& used = mirror ? mirrored_fills : fills;
      if (used.none || (mirror && !mirrors)) continue;
      Search search{problem, mirror ? mirrored : problem, device, bytes, used, alternatives};
      GatheredGradWeightPlan start = used.start;
      start.mirrored = mirror;
      search.consider_channels(start);
      if (search.clocks >= clocks) continue;
      clocks = search.clocks;
      best = search.best;
    }
    if (!std::isfinite(clocks)) return Refusal{"no tile of it fits shared memory"};
    constexpr double kLeastUseful = 0.15;
    if (!even_if_slow && useful_share(problem, best) < kLeastUseful)
      return Refusal{"most rows and columns of a product would be padding"};
    return {best, clocks};
  };
  const Planned<GatheredGradWeightPlan> planned = alternatives ? find() : cache.find(key, find);
  if (planned && !even_if_slow) {
    if (pairs) {
      const auto transposed =
          plan_wgmma_grad_weight(problem, type, grad_output, input, device, false, nullptr);
      if (transposed && transposed.clocks() < planned.clocks())
        return Refusal{"wgmma is predicted to be faster"};
    }
    const double clearly = pairs ? 1 : 1.2;
    const auto portable = plan_gemm_grad_weight(problem, type, grad_output, input, device);
    if (portable && portable.clocks() < clearly * planned.clocks())
      return Refusal{"the portable kernel is predicted to be about as fast"};
  }
  return planned;
}

}  // namespace convt3d

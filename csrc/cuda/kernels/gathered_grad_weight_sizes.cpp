#include "gathered_grad_weight_sizes.h"

#include <algorithm>
#include <limits>
#include <utility>

namespace convt3d {
namespace {

constexpr int kAlignment = 1024;  // of what the matrix units read: period of the swizzle

int64_t ceil_of(int64_t a, int64_t b) { return (a + b - 1) / b; }
int64_t round_up(int64_t value, int64_t multiple) { return ceil_of(value, multiple) * multiple; }

}  // namespace

bool can_mirror(const Problem& problem) {
  return std::all_of(problem.axes.begin(), problem.axes.end(), [](const Axis& axis) {
    return axis.stride == 1 && axis.padding <= axis.dilation * (axis.kernel - 1);
  });
}

Problem mirror(const Problem& problem) {
  Problem result = problem;
  std::swap(result.in_channels, result.out_channels);
  for (Axis& axis : result.axes) {
    std::swap(axis.input, axis.output);
    axis.padding = axis.dilation * (axis.kernel - 1) - axis.padding;
  }
  return result;
}

GatheredGradWeightSizes gathered_grad_weight_sizes(const Problem& original,
                                                   const GatheredGradWeightPlan& plan) {
  const Problem problem = plan.mirrored ? mirror(original) : original;
  constexpr int64_t kMost = std::numeric_limits<int>::max();
  GatheredGradWeightSizes sizes{};
  int64_t taps = 1, positions = plan.samples, tiles;
  for (int a = 0; a < 3; ++a) {
    const Axis& axis = problem.axes[a];
    sizes.axes[a] = {static_cast<int>(axis.input),   static_cast<int>(axis.output),
                     static_cast<int>(axis.kernel),  static_cast<int>(axis.stride),
                     static_cast<int>(axis.padding), static_cast<int>(axis.dilation)};
    taps *= axis.kernel;
    positions *= plan.tile[a];
  }
  sizes.batch = static_cast<int>(problem.batch);
  sizes.in_channels = static_cast<int>(problem.in_channels_per_group());
  sizes.out_channels = static_cast<int>(problem.out_channels_per_group());
  sizes.input_slices = static_cast<int>(ceil_of(sizes.in_channels, plan.columns));
  sizes.output_slices = static_cast<int>(ceil_of(sizes.out_channels, plan.slice));
  sizes.rows = static_cast<int>(std::min(taps * plan.slice, kMost));
  const int64_t row_tiles = ceil_of(sizes.rows, kGatherRows);
  sizes.tiles_per_block = static_cast<int>(ceil_of(row_tiles, plan.row_blocks));
  sizes.positions = static_cast<int>(positions);
  sizes.steps = static_cast<int>(ceil_of(positions, kGatherDepth * plan.word_positions));
  sizes.counts[0] = static_cast<int>(ceil_of(sizes.batch, plan.samples));
  tiles = sizes.counts[0];
  for (int a = 0; a < 3; ++a) {
    sizes.counts[1 + a] = static_cast<int>(ceil_of(sizes.axes[a].input, plan.tile[a]));
    tiles = std::min(tiles * sizes.counts[1 + a], kMost);
  }
  sizes.tiles = static_cast<int>(tiles);

  int64_t box = 0, raw = 0, lines = 0;
  for (int block = 0; block < plan.row_blocks; ++block) {
    const RowRange rows = rows_of_block(sizes, block);
    const GatherBox shape =
        gather_box(sizes.axes, plan, taps_of_rows(sizes.axes, plan.slice, rows.first, rows.last));
    const int64_t copy = int64_t{shape.span[0]} * shape.plane_pitch * 4;
    box = std::max(box, copy * shape.copies());
    raw = std::max(raw, copy * sizes.axes[2].stride);
    if (plan.output_fill == GatherFill::kElements)
      lines = std::max(lines, int64_t{shape.span[0]} * plan.samples * shape.span[1]);
  }
  const int64_t depth = int64_t{sizes.steps} * kGatherDepth;
  const int64_t columns = round_up(round_up(depth, plan.row_words) * plan.columns * 4, kAlignment);
  const int64_t staged_at = columns + round_up(box, kAlignment);
  const int64_t staged = plan.input_fill == GatherFill::kTransposed
                             ? round_up(positions * staged_pitch(plan) * 4, kAlignment)
                         : plan.output_fill == GatherFill::kShifted && sizes.axes[2].stride > 1
                             ? round_up(raw, kAlignment)
                             : 0;
  const int64_t stage = staged_at + staged;
  const int64_t steps_at = plan.stages * stage;
  const int64_t positions_at = steps_at + depth * 4;
  const int64_t lines_at = positions_at + depth * 4;
  const int64_t barriers_at = lines_at + lines * kGatherLineBytes;
  const int64_t shared = barriers_at + plan.stages * kGatherBarrierBytes;
  sizes.columns_bytes = static_cast<int>(std::min(columns, kMost));
  sizes.staged_at = static_cast<int>(std::min(staged_at, kMost));
  sizes.stage_bytes = static_cast<int>(std::min(stage, kMost));
  sizes.steps_at = static_cast<int>(std::min(steps_at, kMost));
  sizes.positions_at = static_cast<int>(std::min(positions_at, kMost));
  sizes.lines_at = static_cast<int>(std::min(lines_at, kMost));
  sizes.barriers_at = static_cast<int>(std::min(barriers_at, kMost));
  sizes.shared_bytes = static_cast<int>(std::min(shared, kMost));

  sizes.jobs = problem.groups * sizes.input_slices * sizes.output_slices * plan.row_blocks;
  sizes.partials = sizes.jobs * 2 * plan.tiles * kGatherRows * plan.columns;
  sizes.workspace_bytes = plan.splits > 1 ? plan.splits * sizes.partials * 4 : 0;
  return sizes;
}

}  // namespace convt3d

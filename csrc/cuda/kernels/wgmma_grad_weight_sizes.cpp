#include "wgmma_grad_weight_sizes.h"

#include <algorithm>
#include <limits>

namespace convt3d {
namespace {

int64_t ceil_of(int64_t a, int64_t b) { return (a + b - 1) / b; }
int64_t round_up(int64_t value, int64_t multiple) { return ceil_of(value, multiple) * multiple; }

// Channels of a slice: all, but at most `most`; a power of two where they are few.
int slice_of(int channels, int most) {
  if (channels <= 16) return std::min(16, most);
  if (channels <= 32) return std::min(32, most);
  return std::min(static_cast<int>(round_up(channels, 16)), most);
}

void set_slice(ContractionBox& box, int slice) {
  box.slice = slice;
  box.slices = static_cast<int>(ceil_of(box.channels, slice));
  box.width = slice <= 16 ? 2 : slice <= 32 ? 4 : 8;
  box.blocks = static_cast<int>(ceil_of(slice, 8 * box.width));
}

}  // namespace

WgmmaGradWeightSizes wgmma_grad_weight_sizes(const Problem& problem,
                                             const WgmmaGradWeightPlan& plan) {
  const WindowAxis &d = plan.axes[0], &h = plan.axes[1], &w = plan.axes[2];
  const int in = static_cast<int>(problem.in_channels_per_group());
  const int out = static_cast<int>(problem.out_channels_per_group());
  const bool by_warps = plan.fill != OperandFill::kCopyEngine;
  const bool lines = plan.fill == OperandFill::kLines;
  WgmmaGradWeightSizes sizes{};
  ContractionBox &still = sizes.still, &moving = sizes.moving;
  still.channels = plan.input_moves ? out : in;
  moving.channels = plan.input_moves ? in : out;
  constexpr int kRows = 64;
  const int moving_most = (plan.moving_rows ? kRows : plan.columns) / plan.merged;
  const int still_most = plan.moving_rows ? plan.columns : kRows;
  set_slice(moving, plan.merged > 1 ? moving_most : slice_of(moving.channels, moving_most));
  set_slice(still, slice_of(still.channels, still_most));

  moving.pitch = plan.tile_w + w.window - 1;
  moving.lines = plan.tile_h + h.window - 1;
  still.pitch = plan.flattened ? moving.pitch : plan.tile_w;
  still.lines = plan.samples > 1 ? moving.lines : plan.tile_h;
  const int64_t positions =
      plan.flattened
          ? (static_cast<int64_t>(plan.samples - 1) * moving.lines + plan.tile_h) * moving.pitch
          : static_cast<int64_t>(plan.tile_h) * plan.tile_w;
  sizes.steps = static_cast<int>(ceil_of(positions, 16));
  const auto padded_rows = [&](const ContractionBox& box, int64_t least) {
    const int64_t rows = std::max<int64_t>(plan.samples * box.lines * box.pitch, least);
    return static_cast<int>(round_up(rows, kBoxAlignment / (16 * box.width)));
  };
  still.rows = padded_rows(still, 16 * sizes.steps);
  moving.rows = padded_rows(moving, 0);
  moving.boxes = 1;

  sizes.tap_tiles = tap_tiles(h, w, plan.merged);
  sizes.tiles_per_group = static_cast<int>(ceil_of(sizes.tap_tiles, plan.tap_groups));
  for (int first = 0; first < sizes.tap_tiles; first += sizes.tiles_per_group) {
    const int last = std::min(first + sizes.tiles_per_group, sizes.tap_tiles) - 1;
    const TapTile from = tap_tile_at(h, w, plan.merged, first);
    const TapTile to = tap_tile_at(h, w, plan.merged, last);
    still.boxes = std::max(still.boxes,
                           (to.plane_h - from.plane_h) * w.planes + to.plane_w - from.plane_w + 1);
    if (by_warps)
      still.most_lines =
          std::max(still.most_lines, (to.plane_h - from.plane_h + 1) * plan.samples * still.lines);
  }
  sizes.tiles_h = static_cast<int>(ceil_of(h.positions, plan.tile_h));
  sizes.tiles_w = static_cast<int>(ceil_of(w.positions, plan.tile_w));
  sizes.sample_tiles = static_cast<int>(ceil_of(problem.batch, plan.samples));
  if (by_warps) {
    still.lines_of_memory = box_lines(h.result_step, w.result_step, plan.samples, still.lines,
                                      still.pitch, still.blocks * still.rows);
    moving.lines_of_memory =
        box_lines(1, 1, plan.samples, moving.lines, moving.pitch, moving.blocks * moving.rows);
    moving.most_lines = plan.samples * moving.lines;
    for (ContractionBox* box : {&still, &moving}) {
      box->units = static_cast<int>(ceil_of(std::min(box->slice, box->channels), 8));
      if (!lines) continue;
      const int step = sizes.tiles_w > 1 ? box->lines_of_memory.step_w * plan.tile_w : 0;
      const int before = box == &still ? most_before(w.result_extent, 0, step)
                                       : most_before(w.operand_extent, w.origin, step);
      box->line_staging =
          line_staging(box->most_lines, before + box->lines_of_memory.span(), box->units);
      sizes.line_slot_bytes = std::max(sizes.line_slot_bytes, box->line_staging.slot_bytes());
    }
  }
  sizes.moving_at = still.bytes();
  sizes.stage_bytes = sizes.moving_at + moving.bytes();
  int64_t at = static_cast<int64_t>(plan.stages) * sizes.stage_bytes;
  // Rows past the last box are read where taps side by side or padded k-steps reach beyond it.
  const int64_t last_row =
      plan.flattened ? 16 * sizes.steps - 1 : (plan.tile_h - 1) * moving.pitch + plan.tile_w - 1;
  const int64_t read_rows = last_row + (h.window - 1) * moving.pitch + w.window - 1 +
                            (plan.merged - 1) * tap_distance(w) + 1;
  at += std::max<int64_t>(read_rows - moving.rows, 0) * 16 * moving.width;
  const auto filled_rows = [&plan](const ContractionBox& box) {
    return plan.samples * box.lines * box.pitch;
  };
  sizes.pads = by_warps || 16 * sizes.steps > filled_rows(still) || read_rows > filled_rows(moving);
  at = round_up(at, 128);
  sizes.tables_at = static_cast<int>(std::min<int64_t>(at, std::numeric_limits<int>::max()));
  at = round_up(at + 4 * (sizes.steps + 2 * plan.tiles), 16);
  sizes.lines_at = static_cast<int>(std::min<int64_t>(at, std::numeric_limits<int>::max()));
  if (by_warps)
    at = round_up(
        at + 2 * kFilledOperandBytes + kFilledLineBytes * (still.most_lines + moving.most_lines),
        16);
  if (lines) at = round_up(at, 1024);
  sizes.line_rings_at = static_cast<int>(std::min<int64_t>(at, std::numeric_limits<int>::max()));
  if (lines)
    at += line_rings_bytes(kContractTransposers, kContractLineDepth, sizes.line_slot_bytes);
  sizes.barriers_at = static_cast<int>(std::min<int64_t>(at, std::numeric_limits<int>::max()));
  at += 16 * plan.stages +
        (lines ? line_barriers_bytes(kContractTransposers, kContractLineDepth) : 0);
  // The sums of both warpgroups' tap tiles on their way to memory, in the end.
  at = std::max(at, int64_t{2} * contraction_staging_bytes(plan.columns));
  sizes.shared_bytes = static_cast<int>(std::min<int64_t>(at, std::numeric_limits<int>::max()));

  sizes.jobs = problem.groups * d.taps() * still.slices * moving.slices *
               static_cast<int64_t>(plan.tap_groups);
  sizes.slots = plan.splits * (plan.split_positions ? 2 : 1);
  sizes.partials = sizes.jobs * plan.tiles * (plan.split_positions ? 1 : 2) * 64 * plan.columns;
  if (sizes.slots > 1) sizes.workspace_bytes = sizes.slots * sizes.partials * 4;
  return sizes;
}

}  // namespace convt3d

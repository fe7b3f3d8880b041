#include "wgmma_data_sizes.h"

#include <algorithm>
#include <limits>

#include "transposed_fill_sizes.h"

namespace convt3d {
namespace {

int64_t round_up(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

}  // namespace

WgmmaDataSizes wgmma_data_sizes(const Problem& problem, Pass pass, bool result_channels_last,
                                const WgmmaDataPlan& plan) {
  const bool forward = pass == Pass::kForward;
  const int64_t operand_channels =
      forward ? problem.in_channels_per_group() : problem.out_channels_per_group();
  const int64_t result_channels =
      forward ? problem.out_channels_per_group() : problem.in_channels_per_group();
  const WindowAxis &d = plan.axes[0], &h = plan.axes[1], &w = plan.axes[2];
  WgmmaDataSizes sizes{};
  const auto ceil_div = [](int64_t a, int64_t b) { return static_cast<int>((a + b - 1) / b); };
  sizes.units = ceil_div(operand_channels, plan.unit_elements);
  sizes.chunks = ceil_div(sizes.units, plan.chunk_units);
  sizes.channel_tiles = ceil_div(result_channels, plan.columns);
  sizes.column_tiles =
      sizes.channel_tiles * d.planes * h.planes * (plan.w_planes > 1 ? 1 : w.planes);
  sizes.sample_tiles = ceil_div(problem.batch, plan.samples);
  sizes.tiles_h = ceil_div(h.positions, plan.tile_h);
  sizes.tiles_w = ceil_div(w.positions, plan.tile_w);
  sizes.segments = ceil_div(d.positions, plan.segment);
  sizes.box = box_shape(h, w, plan.tile_h, plan.tile_w, box_width(plan), plan.samples);
  sizes.lines = lines_to_fill(plan.fill_by, plan.samples, h, w, sizes.box);
  constexpr int64_t kMost = std::numeric_limits<int>::max();
  sizes.box_bytes = static_cast<int>(
      std::min(int64_t{sizes.box.bytes()} * (plan.chunk_units / sizes.box.width), kMost));
  sizes.part_bytes = plan.stage_units * product_columns(plan) * kWgmmaUnitBytes;
  sizes.stage_bytes = plan.stage_parts * sizes.part_bytes;
  for (const WindowAxis& axis : plan.axes)
    for (int plane = 0; plane < axis.planes; ++plane)
      sizes.empty_planes = sizes.empty_planes || axis.taps_of(plane) == 0;
  sizes.one_by_one =
      sizes.chunks > 1 || plan.box_slots < d.window + std::min(d.window, d.operand_step);
  // Where warps fill boxes one by one, they wait for these warps anyway, and slow them down.
  sizes.pairs = plan.stage_parts > 1 && !(sizes.one_by_one && plan.fill_run != 0) &&
                are_short_parts(plan.stage_units / 2, product_columns(plan),
                                plan.merged_taps > 0 ? 1 : plan.w_planes, plan.blocks);
  sizes.taps = d.taps() * h.taps() * (plan.merged_taps > 0 ? 1 : w.taps());
  const int64_t repeated = static_cast<int64_t>(sizes.channel_tiles) * sizes.chunks;
  const int tap_parts = sizes.tap_parts = plan.chunk_units / plan.stage_units;
  sizes.parts = repeated * sizes.taps * tap_parts;
  const bool all_w = plan.merged_taps > 0 || plan.w_planes > 1;
  for (int plane_d = 0; plane_d < d.planes; ++plane_d)
    for (int plane_h = 0; plane_h < h.planes; ++plane_h)
      for (int plane_w = 0; plane_w < (all_w ? 1 : w.planes); ++plane_w) {
        const int taps_w = plan.merged_taps > 0 ? 1 : all_w ? w.taps() : w.taps_of(plane_w);
        const int taps = d.taps_of(plane_d) * h.taps_of(plane_h) * taps_w;
        sizes.stages += repeated * ceil_div(taps * tap_parts, plan.stage_parts);
      }
  sizes.resident =
      problem.groups == 1 && plan.column_parts == 1 && sizes.stages <= plan.weight_slots;

  const int rows = 64 * plan.blocks * plan.warpgroups;
  const int consumer_warps = 4 * plan.warpgroups, fillers = fill_warps(plan.warpgroups);
  const int64_t staging_bytes =
      result_channels_last
          ? 0
          : int64_t{4} * consumer_warps * 2 * kStagedChannels *
                staging_pitch_words(64 * plan.blocks * plan.w_planes / plan.unit_elements);
  int64_t at = static_cast<int64_t>(plan.box_slots) * sizes.box_bytes;
  const auto place = [&at](int64_t bytes, int alignment = 128) {
    at = round_up(at, alignment);
    const int64_t begin = at;
    at += bytes;
    return static_cast<int>(begin);
  };
  sizes.weights_at = place(static_cast<int64_t>(plan.weight_slots) * sizes.stage_bytes);
  sizes.staging_at = place(staging_bytes);
  const bool copies = !result_channels_last && plan.fill_run != 0 &&
                      copies_runs(plan.fill_run, 16 / plan.unit_elements);
  sizes.fill_staging_at =
      place(copies ? fillers * kFillDepth * fill_batch_bytes(plan.chunk_units) : 0);
  sizes.columns_at = place(sizes.column_tiles * kColumnPlaceBytes);
  sizes.items_at = place((fillers + consumer_warps) * kWorkItemBytes, 4);
  sizes.rows_at = place(static_cast<int64_t>(sizeof(TileRow)) * rows, sizeof(TileRow));
  sizes.places_at = place(int64_t{4} * sizes.lines.count * sizes.lines.span, 4);
  sizes.taps_at = place(int64_t{4} * (sizes.taps + 2), 4);
  sizes.bias_at = place(int64_t{4} * problem.groups * sizes.channel_tiles * plan.columns, 4);
  sizes.barriers_at = place(8 * (2 * plan.box_slots + 2 * plan.weight_slots));
  // Flattened tiles read rows past a box's end (and never store what they make of them): there must
  // be memory.
  const int64_t reach = static_cast<int64_t>(plan.box_slots) * sizes.box_bytes +
                        rows * sizes.box.width * kWgmmaUnitBytes;
  at = std::max(at, reach);
  sizes.shared_bytes = static_cast<int>(std::min(at, kMost));
  sizes.items = sizes.sample_tiles * problem.groups * sizes.segments * plan.column_parts *
                static_cast<int64_t>(sizes.tiles_h) * sizes.tiles_w;
  sizes.packed_bytes = problem.groups * sizes.parts * sizes.part_bytes;
  return sizes;
}

}  // namespace convt3d

#include "plan_wgmma_cost.h"

#include <algorithm>
#include <cmath>

#include "kernels/transposed_fill_sizes.h"

namespace convt3d {
namespace {

// Fitted to 2,500 measurements of plans of the benchmark's cases (docs/performance.md).
constexpr double kStageClocks = 300;   // least per weight stage: barriers
constexpr double kStageOverhead = 45;  // what of it no product hides
constexpr double kPartClocks = 200;    // least per part of a stage: addresses, one group under way
constexpr double kPartOverhead = 35;
constexpr double kChunkClocks = 2500;  // per chunk of channels: pipeline drained, boxes awaited
constexpr double kColumnTileClocks = 1400;  // pipeline start and drain
constexpr double kStepClocks = 890;         // per position along d
constexpr double kItemClocks = 6000;        // tables, first boxes of a work item
constexpr double kStoreBytes = 10;          // of results, per clock and warpgroup
constexpr double kStoreWordBytes = 7;       // contiguous, where they leave in words
constexpr double kMergedSums = 8;           // of merged taps, per clock and warpgroup
constexpr double kBoxClocks = 240;          // per box: barriers, addresses
constexpr double kFillUnitBytes = 50;       // per clock, by the copy engine
constexpr double kFillCopiedBytes = 30;     // by warps in runs of 16 bytes
constexpr double kFillWordBytes = 5;        // of 4 bytes
constexpr double kFillElementBytes = 12;    // of one element of two bytes
constexpr double kSplitSectorBytes = 128;   // what a run of results off the 32-byte grid costs more
constexpr double kWeightBytes = 31;         // per clock from the L2 cache

// To fill a box, by warps.
double fill_clocks(const WgmmaDataPlan& plan, const WgmmaDataSizes& sizes) {
  const int bytes = plan.fill_run * 16 / plan.unit_elements;
  if (bytes == 2) return sizes.box_bytes / kFillElementBytes;
  const int blocks = sizes.box.lines * ((sizes.box.span_w + 7) / 8);
  const double batches =
      std::ceil(1. * blocks / kFillBlocks) * std::ceil(1. * plan.chunk_units / kFillUnits);
  return batches * fill_batch_bytes(kFillUnits) / (bytes == 16 ? kFillCopiedBytes : kFillWordBytes);
}

}  // namespace

double part_clocks(const WgmmaDataPlan& plan) {
  return plan.blocks * plan.stage_units / 2. * product_clocks(product_columns(plan));
}

double clocks_of(const WgmmaDataPlan& plan, const WgmmaDataSizes& sizes, bool result_channels_last,
                 int multiprocessors) {
  const WindowAxis& d = plan.axes[0];
  const double parts = plan.column_parts, element = element_bytes(plan);
  const double tiles = std::ceil(sizes.column_tiles / parts);
  const double share = tiles / sizes.column_tiles, stages = sizes.stages * share;
  const double parts_of_taps = sizes.parts * share;
  const double multiplied = parts_of_taps * 2 * part_clocks(plan);
  const double changes = sizes.chunks > 1 ? sizes.chunks * kChunkClocks : kColumnTileClocks;
  const double products =
      std::max({multiplied, stages * kStageClocks, parts_of_taps * kPartClocks}) +
      stages * kStageOverhead + parts_of_taps * kPartOverhead + tiles * changes;
  const double stored = tiles * plan.columns * plan.w_planes * 64. * plan.blocks * element;
  const double merged = tiles * plan.columns * plan.merged_taps * 64. * plan.blocks;
  const bool vectors = result_channels_last || has_vector_runs(plan);
  const double store = stored / (vectors ? kStoreBytes : kStoreWordBytes) + merged / kMergedSums;
  const double boxes = sizes.chunks > 1 ? static_cast<double>(d.window) * sizes.chunks * tiles
                                        : std::min(d.window, d.operand_step);
  const double box_rows = sizes.box_bytes / (16. * sizes.box.width);
  const double box_clocks =
      kBoxClocks + (plan.fill_run != 0 ? fill_clocks(plan, sizes)
                                       : std::max(sizes.box_bytes / kFillUnitBytes, box_rows));
  const double fill = boxes * box_clocks;
  const double weights = sizes.resident ? 0 : parts_of_taps * sizes.part_bytes / kWeightBytes;
  double out = tiles * plan.columns * plan.w_planes * element * plan.samples * plan.tile_h *
               plan.tile_w / kMemoryBytes;
  if (!result_channels_last && std::fmod(plan.axes[2].result_extent * element, 32) != 0) {
    const int run = plan.flattened ? std::min(plan.tile_w, 16 * plan.blocks) : 8 * plan.blocks;
    out *= 1 + kSplitSectorBytes / (run * plan.w_planes * element);
  }
  // One warpgroup multiplies while the other stores.
  double step = std::max({products, products / 2 + store, weights, out});
  const int ahead = sizes.chunks > 1 ? d.window : std::min(d.window, d.operand_step);
  step = plan.box_slots >= d.window + ahead ? std::max(step, fill) : step + fill;
  const double item = plan.segment * (step + kStepClocks) + kItemClocks + d.window * box_clocks;
  const double waves = std::ceil(static_cast<double>(sizes.items) / multiprocessors);
  return waves * item;
}

}  // namespace convt3d

#include "plan_wgmma_cost.h"

#include <algorithm>
#include <cmath>

namespace convt3d {
namespace {

constexpr double kStageClocks = 200;   // least per weight stage: barriers, loops
constexpr double kStageOverhead = 60;  // what of it no product hides
constexpr double kChunkClocks = 800;   // per chunk of channels: pipeline drained, boxes awaited
constexpr double kColumnTileClocks = 1000;  // pipeline start and drain
constexpr double kStepClocks = 300;         // per position along d
constexpr double kItemClocks = 2000;        // first boxes of a work item
constexpr double kStoreVectorBytes = 24;    // channels-last results, per clock and warpgroup
constexpr double kStoreStagedBytes = 20;    // contiguous ones
constexpr double kMergedSums = 20;          // of merged taps, per clock and warpgroup
constexpr double kFillRowClocks = 4;        // per row of a box and the copy engine, at least
constexpr double kFillUnitBytes = 20;       // per clock, by the copy engine
constexpr double kFillCopiedBytes = 16;     // per clock, by warps in runs of 16 bytes
constexpr double kFillWordBytes = 7;        // of 4 bytes
constexpr double kFillElementBytes = 4;     // of one element of two bytes
constexpr double kSplitSectorBytes = 128;   // what a run of results off the 32-byte grid costs more
constexpr double kWeightBytes = 26;         // per clock from the L2 cache

// Per clock, by warps.
double filled_bytes(const WgmmaDataPlan& plan) {
  const int bytes = plan.fill_run * 16 / plan.unit_elements;
  return bytes == 16 ? kFillCopiedBytes : bytes == 4 ? kFillWordBytes : kFillElementBytes;
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
  const double multiplied = sizes.parts * share * 2 * part_clocks(plan);
  const double changes = sizes.chunks > 1 ? sizes.chunks * kChunkClocks : kColumnTileClocks;
  const double products =
      std::max(multiplied, stages * kStageClocks) + stages * kStageOverhead + tiles * changes;
  const double stored = tiles * plan.columns * plan.w_planes * 64. * plan.blocks * element;
  const double merged = tiles * plan.columns * plan.merged_taps * 64. * plan.blocks;
  const double store = stored / (result_channels_last ? kStoreVectorBytes : kStoreStagedBytes) +
                       merged / kMergedSums;
  const double boxes = sizes.chunks > 1 ? static_cast<double>(d.window) * sizes.chunks * tiles
                                        : std::min(d.window, d.operand_step);
  const double box_rows = sizes.box_bytes / (16. * sizes.box.width);
  const double box_clocks =
      plan.fill_run != 0 ? sizes.box_bytes / filled_bytes(plan)
                         : std::max(sizes.box_bytes / kFillUnitBytes, box_rows * kFillRowClocks);
  const double fill = boxes * box_clocks;
  const double weights = sizes.resident ? 0 : sizes.parts * share * sizes.part_bytes / kWeightBytes;
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

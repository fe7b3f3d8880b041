#include "plan_wgmma_cost.h"

#include <algorithm>
#include <cmath>

#include "kernels/transposed_fill_sizes.h"

namespace convt3d {
namespace {

// Fitted to 7,200 measurements of plans of the benchmark's cases (docs/performance.md).
constexpr double kStageClocks = 410;  // least per weight stage: barriers
constexpr double kPartClocks = 285;   // least per part of a stage: addresses, one group under way
constexpr double kPairedPartClocks = 220;  // of two at once, each
constexpr double kRoundClocks = 445;       // per box waited for by itself: pipeline drained
constexpr double kColumnTileClocks = 780;  // pipeline start and drain
constexpr double kItemClocks = 12000;      // tables, first boxes of a work item
// Of results, per clock and warpgroup: channels-last, of several planes, of three warpgroups, which
// are in each other's way; contiguous in 16-byte stores and in words.
constexpr double kStoreBytes = 12;
constexpr double kStorePlanesBytes = 10.5;
constexpr double kStoreBytesOfThree = 8.5;
constexpr double kStoreVectorBytes = 7.7;
constexpr double kStoreWordBytes = 6.7;
constexpr double kMergedSums = 5.1;        // of merged taps, per clock and warpgroup
constexpr double kSplitSectorBytes = 230;  // what a run of results off the 32-byte grid costs more
constexpr double kBoxLatency = 1120;  // of the copy engine, until a box asked for begins to come
constexpr double kRowClocks = 3;      // per row of a box, by the copy engine
constexpr double kNarrowRowClocks = 2.2;    // of 32 bytes
constexpr double kFilledBoxClocks = 2810;   // per box, by warps
constexpr double kFillBatchClocks = 53;     // per batch of lines, by warps
constexpr double kFillCopiedBytes = 34;     // per clock, by warps in runs of 16 bytes
constexpr double kFillWordBytes = 17;       // of 4 bytes
constexpr double kElementBoxClocks = 2340;  // per box, by warps in elements
constexpr double kFillElementBytes = 10;    // channels-last
// Contiguous: of so many units at once, per position; per unit of it; per unit of a line, whose
// ends share their sectors with nothing.
constexpr int kElementUnits = 4;
constexpr double kElementBatchClocks = 2.4;
constexpr double kElementUnitClocks = 0.4;
constexpr double kElementLineClocks = 20;
constexpr double kWeightLatency = 900;  // until a stage asked for begins to come
constexpr double kWeightBytes = 77;     // per clock from the L2 cache
constexpr double kWeightSlotsInUse = 1.5;

// To fill a box.
double fill_clocks(const WgmmaDataPlan& plan, const WgmmaDataSizes& sizes,
                   bool result_channels_last) {
  if (plan.fill_run == 0) {
    const int width = sizes.box.width;
    return sizes.box_bytes / (16. * width) * (width == 2 ? kNarrowRowClocks : kRowClocks);
  }
  const int bytes = plan.fill_run * 16 / plan.unit_elements;
  const int positions = sizes.lines.count * sizes.lines.span, units = plan.chunk_units;
  if (plan.fill_run == 1 && result_channels_last)
    return kElementBoxClocks + 16. * positions * units / kFillElementBytes;
  if (plan.fill_run == 1 && bytes == 2)
    return kElementBoxClocks +
           positions * (std::ceil(1. * units / kElementUnits) * kElementBatchClocks +
                        units * kElementUnitClocks) +
           sizes.lines.count * units * kElementLineClocks;
  // Lines are filled in aligned blocks of eight positions, on average so many.
  const WindowAxis& w = plan.axes[2];
  double per_line = 0;
  for (int tile = 0; tile < sizes.tiles_w; ++tile) {
    const int begin = w.operand_step * tile * plan.tile_w + w.origin + sizes.lines.x;
    per_line += ((begin & 7) + sizes.lines.span + 7) / 8;
  }
  const double blocks = sizes.lines.count * per_line / sizes.tiles_w;
  const double batches = blocks / kFillBlocks * std::ceil(1. * units / kFillUnits);
  const double batch_clocks =
      kFillBatchClocks +
      fill_batch_bytes(units) / (bytes == 16 ? kFillCopiedBytes : kFillWordBytes);
  return kFilledBoxClocks + batches * batch_clocks;
}

// Slots of boxes that a position's products take up on average, of a window that positions share
// and whose boxes are freed one by one by the last of so many column tiles.
double slots_in_use(const WindowAxis& d, double column_tiles) {
  const int fresh = std::min(d.window, d.operand_step);
  double last = 0;  // column tile
  for (int box = d.window - fresh; box < d.window; ++box)
    last += box / fresh * (1 - 1. * fresh / d.window) + 1. / d.window;
  return ((column_tiles - 1) * d.window + last) / column_tiles;
}

}  // namespace

double part_clocks(const WgmmaDataPlan& plan) {
  return plan.blocks * plan.stage_units / 2. * product_clocks(product_columns(plan));
}

namespace {

// Column tiles of a work item: how many, and the taps and boxes of a chunk that they read.
struct TilesOfItem {
  double tiles, taps, boxes;
};

TilesOfItem average_tiles(const WgmmaDataPlan& plan, const WgmmaDataSizes& sizes) {
  const WindowAxis& d = plan.axes[0];
  const double tiles = std::ceil(1. * sizes.column_tiles / plan.column_parts);
  return {tiles, 1. * sizes.channel_tiles * sizes.taps * tiles / sizes.column_tiles,
          tiles * d.taps() / d.planes};
}

// Of the part with most taps. Column tiles come in the order of write_columns().
TilesOfItem most_tiles(const WgmmaDataPlan& plan, const WgmmaDataSizes& sizes) {
  const WindowAxis &d = plan.axes[0], &h = plan.axes[1], &w = plan.axes[2];
  const bool all_w = plan.merged_taps > 0 || plan.w_planes > 1;
  const int planes_w = plan.w_planes > 1 ? 1 : w.planes;
  const int each = (sizes.column_tiles + plan.column_parts - 1) / plan.column_parts;
  TilesOfItem most{};
  for (int first = 0; first < sizes.column_tiles; first += each) {
    TilesOfItem part{};
    for (int i = first; i < std::min(first + each, sizes.column_tiles); ++i) {
      const int taps_d = d.taps_of(i / (planes_w * h.planes) % d.planes);
      const int taps_w = plan.merged_taps > 0 ? 1 : all_w ? w.taps() : w.taps_of(i % planes_w);
      part.tiles += 1;
      part.boxes += taps_d;
      part.taps += 1. * taps_d * h.taps_of(i / planes_w % h.planes) * taps_w;
    }
    if (part.taps > most.taps) most = part;
  }
  return most;
}

double store_bytes(const WgmmaDataPlan& plan, bool result_channels_last) {
  if (!result_channels_last) return has_vector_runs(plan) ? kStoreVectorBytes : kStoreWordBytes;
  if (plan.warpgroups == 3) return kStoreBytesOfThree;
  return plan.w_planes > 1 && plan.merged_taps == 0 ? kStorePlanesBytes : kStoreBytes;
}

// A position along d.
double step_clocks(const WgmmaDataPlan& plan, const WgmmaDataSizes& sizes,
                   bool result_channels_last, double box_clocks, const TilesOfItem& of) {
  const WindowAxis& d = plan.axes[0];
  const double element = element_bytes(plan), tiles = of.tiles;
  const double share = of.taps / (1. * sizes.channel_tiles * sizes.taps);
  const double stages = sizes.stages * share;
  const double parts_of_taps = sizes.parts * share;
  const double multiplied = parts_of_taps * part_clocks(plan);
  const double boxes =
      sizes.chunks > 1 ? of.boxes * sizes.chunks : std::min(d.window, d.operand_step);
  const double rounds = !sizes.one_by_one  ? 0
                        : sizes.chunks > 1 ? boxes
                                           : static_cast<double>(d.window) * tiles;
  // Of one warpgroup alone, and between products.
  const double awaited = std::max(stages * kStageClocks,
                                  parts_of_taps * (sizes.pairs ? kPairedPartClocks : kPartClocks));
  const double drained = tiles * kColumnTileClocks + rounds * kRoundClocks;
  const double products =
      std::max(plan.warpgroups * multiplied, awaited) + drained * 2 / plan.warpgroups;
  const double planes = plan.w_planes * wgmma_h_planes(plan);
  const double stored = tiles * plan.columns * planes * 64. * plan.blocks * element;
  const double merged =
      plan.merges_h ? 0 : tiles * plan.columns * plan.merged_taps * 64. * plan.blocks;
  const double store = stored / store_bytes(plan, result_channels_last) + merged / kMergedSums;
  const double weight_clocks = sizes.part_bytes / kWeightBytes;
  const double weights = sizes.resident ? 0 : parts_of_taps * weight_clocks;
  double out = tiles * plan.columns * planes * element * plan.samples * plan.tile_h * plan.tile_w /
               kMemoryBytes;
  if (!result_channels_last && std::fmod(plan.axes[2].result_extent * element, 32) != 0) {
    const int run = plan.flattened ? std::min(plan.tile_w, 16 * plan.blocks) : 8 * plan.blocks;
    out *= 1 + kSplitSectorBytes / (run * plan.w_planes * element);
  }
  // A slot serves from the time that its content is asked for to the last product of it.
  const double in_use = sizes.chunks > 1 ? 1 : sizes.one_by_one ? slots_in_use(d, tiles) : d.window;
  const double latency = plan.fill_run == 0 ? kBoxLatency : 0;
  const double boxes_awaited = boxes * (latency + box_clocks) / (plan.box_slots - in_use);
  const double weights_awaited =
      sizes.resident ? 0
                     : stages * (kWeightLatency + plan.stage_parts * weight_clocks) /
                           (plan.weight_slots - kWeightSlotsInUse);
  // While a warpgroup stores, the others multiply.
  double powers = 0;
  for (double clocks : {products, (std::max(2 * multiplied, awaited) + drained) / 2 + store, out,
                        boxes * box_clocks, boxes_awaited, weights, weights_awaited})
    powers += std::pow(clocks, kOverlap);
  return std::pow(powers, 1 / kOverlap);
}

}  // namespace

ItemClocks item_clocks(const WgmmaDataPlan& plan, const WgmmaDataSizes& sizes,
                       bool result_channels_last) {
  const double box_clocks = fill_clocks(plan, sizes, result_channels_last);
  const auto step_of = [&](const TilesOfItem& tiles) {
    return step_clocks(plan, sizes, result_channels_last, box_clocks, tiles);
  };
  const double average = step_of(average_tiles(plan, sizes));
  return {kItemClocks + plan.axes[0].window * box_clocks, average,
          plan.column_parts > 1 ? step_of(most_tiles(plan, sizes)) : average};
}

double clocks_of(const ItemClocks& item, int segment, int64_t items, int multiprocessors) {
  const double waves = std::ceil(static_cast<double>(items) / multiprocessors);
  return waves * (segment * item.step + item.begin) + segment * (item.most - item.step);
}

}  // namespace convt3d

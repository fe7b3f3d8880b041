// The plan of wgmma_data and what follows from it. No CUDA headers: plans are made without a GPU.
#pragma once

#include "tensors.h"
#include "wgmma_geometry.h"

namespace convt3d {

constexpr int kWgmmaUnitBytes = 16;
// Warps that fill boxes, beside those that multiply and the one that copies weights. More than two
// multiplying warpgroups leave only registers for a thread that has the copy engine fill them.
constexpr int fill_warps(int warpgroups) { return warpgroups == 2 ? 7 : 3; }
constexpr int kFillDepth = 2;  // batches (transposed_fill.cuh) of a warp: more would spill

// Staging of contiguous results: a warp's sums of eight channels, twice. The odd number of 16-byte
// units from one channel to the next spreads them over all banks.
constexpr int kStagedChannels = 8;
constexpr int staging_pitch_words(int words) { return words + 4; }

// Of the structures in shared memory that tables are made of.
constexpr int64_t kColumnPlaceBytes = 16, kWorkItemBytes = 36;

// What the plan decides. A block of threads owns a tile of positions in (h, w), of small images
// those of several samples, and walks along d; each of its consumer warpgroups owns kBlocks x 64 of
// them.
struct WgmmaDataPlan {
  WindowAxis axes[3];
  int unit_elements;  // of 16 bytes: 8, or 4 for float32
  int columns;        // result channels of a column tile, padded
  int w_planes;       // result planes along w in a column tile: 1, or all of them
  int merged_taps;    // taps along w side by side in a product, all of them; 0: each has its own
  int blocks;         // 64-row blocks per warpgroup: 1, 2 or 4
  int warpgroups;     // that multiply: 2 or 3
  bool flattened;     // positions: h and w as one axis with the halo between; else 8 x 8 squares
  int beside;         // squares: so many warpgroups lie side by side, the others below
  bool merges_h;      // merged_taps are those of all taps along h, too (one_tap_axis())
  int tile_h, tile_w;
  int samples;       // more than one: flattened tiles of whole images, one behind the other
  int segment;       // positions along d per work item
  double clocks;     // predicted, of one multiprocessor
  int column_parts;  // work items that share the column tiles of a tile
  int chunk_units;   // 16-byte units of operand channels in shared memory at once
  int stage_units;   // of a part of a tap that is one piece of code: 2, 4, 6 or 8, divides
                     // chunk_units
  int stage_parts;   // such parts in a weight stage
  int box_slots;     // boxes in shared memory
  int weight_slots;  // weight stages in shared memory
  int fill_run;      // neighbours along w that warps read the operand by; 0: the copy engine does
  FillBy fill_by;
};

// Result planes along h in a column tile.
constexpr int wgmma_h_planes(const WgmmaDataPlan& plan) {
  return plan.merges_h ? plan.merged_taps / plan.axes[2].taps() : 1;
}

// Columns of a product.
constexpr int product_columns(const WgmmaDataPlan& plan) {
  return plan.merged_taps > 0 ? plan.columns * plan.merged_taps : plan.columns;
}

// Rows of a product come in runs of neighbours, two per warp. The first of them are positions: with
// merged taps the last ones only feed the positions before, which read them at other taps. An even
// number, so that runs begin on 4-byte boundaries of contiguous results.
constexpr int wgmma_run_rows(const WgmmaDataPlan& plan) {
  const int rows = 8 * plan.blocks;
  return plan.merged_taps > 0 ? (rows - (plan.axes[2].window - 1)) / 2 * 2 : rows;
}
constexpr int wgmma_runs(const WgmmaDataPlan& plan) { return 8 * plan.warpgroups; }

// Whether warps hold neighbours along w of a contiguous result that can leave 16 bytes at a time:
// lines and runs are multiples of that.
constexpr bool has_vector_runs(const WgmmaDataPlan& plan) {
  const WindowAxis& w = plan.axes[2];
  return !plan.flattened && (plan.merged_taps == 0 || plan.merges_h) &&
         w.result_step == plan.w_planes && w.result_extent % plan.unit_elements == 0;
}

// 16-byte units of channels side by side in a row of a box: as many as a stage has, or one step's.
constexpr int box_width(const WgmmaDataPlan& plan) {
  return plan.stage_units == 6 ? 2 : plan.stage_units;
}

// Clocks of a product of 64 rows, one k-step: the matrix units', or those of reading its operands.
constexpr double product_clocks(int columns) {
  const double multiplied = columns / 2., read = 16 + columns / 4.;
  return multiplied > read ? multiplied : read;
}
// Parts whose products take so little that two at once are faster: there is less to wait for. With
// 128 sums no registers are left for that.
constexpr double kShortPartClocks = 100;
constexpr bool are_short_parts(int steps, int columns, int planes, int blocks) {
  return steps <= 2 && blocks * steps * product_clocks(columns) <= kShortPartClocks &&
         columns * planes * blocks < 256;
}

// Facts that follow from a problem and a plan.
struct WgmmaDataSizes {
  int units, chunks;  // of operand channels per group
  int channel_tiles;  // per group
  int column_tiles;   // per group
  int sample_tiles, tiles_h, tiles_w, segments;
  BoxShape box;
  LinesToFill lines;
  int box_bytes, part_bytes, stage_bytes;
  bool empty_planes;  // some result plane has no tap
  bool one_by_one;    // boxes are waited for when their first tap comes, and freed after their last
  bool pairs;         // two parts of a stage are multiplied at once
  int taps;           // entries of the list of taps: merged taps are one
  int tap_parts;      // of a tap and chunk
  int64_t parts;      // of one group's weights
  int64_t stages;     // weight stages of one group: none holds parts of two column tiles or chunks
  bool resident;      // every stage has its own slot
  int weights_at, staging_at, fill_staging_at, barriers_at, shared_bytes;
  int columns_at, items_at, rows_at, places_at, taps_at, bias_at;  // tables
  int64_t items;
  int64_t packed_bytes;
};
WgmmaDataSizes wgmma_data_sizes(const Problem& problem, Pass pass, bool result_channels_last,
                                const WgmmaDataPlan& plan);

}  // namespace convt3d

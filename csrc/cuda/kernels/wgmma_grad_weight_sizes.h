// Plan of the WGMMA grad_weight kernel and what follows from it. No CUDA headers.
#pragma once

#include "staged_lines_sizes.h"
#include "tensors.h"
#include "wgmma_grad_weight_geometry.h"

namespace convt3d {

// How operands come into shared memory.
enum class OperandFill {
  kCopyEngine,  // their channels are neighbours: by the copy engine alone
  kLines,       // w is fastest: the copy engine stages lines of every channel, warps transpose them
  kElements     // any: warps load element by element
};

// What the plan decides. A block of threads owns one tap along d, a slice of channels of either
// operand and a group of tap tiles, and walks over its share of the position tiles.
struct WgmmaGradWeightPlan {
  WindowAxis axes[3];    // result: the still operand; operand: the moving one
  bool input_moves;      // else grad_output moves
  bool moving_rows;      // the moving operand's channels are rows of the product, else columns
  int merged;            // taps along w side by side in the moving operand's dimension: 1 to 4
  int columns;           // of the product: 32, 48, 64, 96 or 128
  int tap_groups;        // blocks that share the tap tiles
  int tiles;             // tap tiles per warpgroup
  bool split_positions;  // the two warpgroups share the positions of a tile, else the tap tiles
  bool flattened;        // positions (sample, h, w) as one axis with the halo between
  int samples, tile_h, tile_w;  // positions per tile; several samples only flattened
  int stages;                   // buffered position tiles
  OperandFill fill;             // of both operands
  int splits;                   // shares of the position tiles
  double clocks;                // predicted, of one multiprocessor
};

// The tile of one operand in shared memory: boxes of rows (a position each), `width` 16-byte units
// of channels side by side; `blocks` of those for all channels of the slice.
struct ContractionBox {
  int channels;  // per group
  int slice;     // channels of a slice
  int slices;    // per group
  int width, blocks;
  int pitch;  // rows from one h to the next
  int lines;  // per sample
  int rows;   // padded to whole k-steps and the period of the swizzle
  int boxes;  // one per pair of planes (h, w); moving: 1

  // Filled by warps.
  BoxLines lines_of_memory;
  int most_lines;  // of a block's boxes
  int units;       // to fill
  LineStaging line_staging;

  CONVT3D_HOST_DEVICE int block_bytes() const { return rows * width * 16; }
  CONVT3D_HOST_DEVICE int bytes() const { return boxes * blocks * block_bytes(); }
};

// Warps that fill boxes where the copy engine does not, with elements, or some have it stage lines
// and the others transpose them; and the tables they use.
constexpr int kContractFillWarps = 8, kContractLoaders = 2, kContractLineDepth = 2;
constexpr int kContractTransposers = kContractFillWarps - kContractLoaders;
constexpr int kFilledOperandBytes = 32, kFilledLineBytes = 8;

// A tap tile's sums on their way to memory: from one row to the next, so that neither rows that are
// written together nor those read together often meet in a bank; and bytes of a warpgroup, with the
// places of rows and columns.
constexpr int contraction_pitch(int columns) { return columns + 4; }
constexpr int contraction_staging_bytes(int columns) {
  return 64 * contraction_pitch(columns) * 4 + (64 + columns) * 8;
}

// Facts that follow from a problem and a plan.
struct WgmmaGradWeightSizes {
  ContractionBox still, moving;
  int tap_tiles;        // of a tap along d
  int tiles_per_group;  // of a block
  int tiles_h, tiles_w, sample_tiles;
  int steps;  // of 16 positions per tile
  int stage_bytes, moving_at;
  bool pads;            // products read rows or channels that no fill writes
  int line_slot_bytes;  // 0: no lines are staged
  int tables_at, lines_at, line_rings_at, barriers_at, shared_bytes;
  int64_t jobs;             // blocks per split
  int64_t slots;            // partial results per weight
  int64_t partials;         // sums of one slot
  int64_t workspace_bytes;  // 0: results are written directly
};
WgmmaGradWeightSizes wgmma_grad_weight_sizes(const Problem& problem,
                                             const WgmmaGradWeightPlan& plan);

}  // namespace convt3d

// Plan of the gathering grad_weight kernel on Hopper (gathered_grad_weight.cuh), its index
// arithmetic and what follows from both. Host-device, no CUDA headers: the CPU tests check it.
//
// The depth of the product is positions of the input, its columns are input channels, its rows are
// pairs of a tap and an output channel. Along each axis, position i and tap k meet
//
//   o = stride * i - padding + dilation * k
//
// of grad_output, so that a row of the left operand is grad_output read at strides: words of four
// bytes, which hold TF32 values, or those of two neighbouring positions in 16 bits. For these,
// there are copies of the box in which every two positions that a tap meets share a word:
//
//   copy r * 2 + p, word m:  the line's elements stride * (2 * m + p) + r, and the one for the next
//                            position, stride further
#pragma once

#include "tensors.h"
#include "wgmma_geometry.h"

namespace convt3d {

constexpr int kGatherRows = 64;         // of a product
constexpr int kGatherDepth = 8;         // words of a k-step
constexpr int kGatherRowWords = 32;     // most of a row of the right operand: 128 bytes
constexpr int kMostGatherExtent = 255;  // of a tile or box: of the copy engine, and of the tables

// How operands come into shared memory.
enum class GatherFill {
  kCopyEngine,
  kShifted,     // the copy engine stages grad_output, of which warps make copies of pairs
  kTransposed,  // the copy engine stages the input with channels fastest, warps transpose it
  kElements     // warps copy any elements
};

// What the plan decides. A block of threads owns a slice of the channels of either operand and some
// of the rows, and walks over its share of the position tiles.
struct GatheredGradWeightPlan {
  bool mirrored;              // input and grad_output have changed places: see `mirror`
  int word_positions;         // 2: 16 bits, else 1
  GatherFill output_fill;     // not kTransposed; kShifted where a word has two positions
  GatherFill input_fill;      // not kShifted
  bool output_channels_last;  // in the box, too: by the copy engine alone
  int output_run;             // else: neighbours along w that a copy begins on a boundary of
  int columns;                // input channels of a product: 16, 32, 48, 64, 96 or 128
  int tiles;                  // products of 64 rows per warpgroup
  int slice;                  // output channels of a block, even
  int row_blocks;             // blocks that share the rows of a slice
  int samples, tile[3];       // positions
  int row_words;              // of a row of the right operand: 8, 16 or 32

  bool whole_lines;  // rows of the copy engine run over lines, which a tile holds whole

  CONVT3D_HOST_DEVICE int row_positions() const { return row_words * word_positions; }
  CONVT3D_HOST_DEVICE bool copies_parts_of_lines() const {
    return input_fill == GatherFill::kCopyEngine && !whole_lines;
  }
  int stages;     // buffered position tiles
  int splits;     // shares of the position tiles
  double clocks;  // predicted, of one multiprocessor
};

struct GatherAxis {
  int input, output, kernel, stride, padding, dilation;
};

// The taps along d, from the first to the last, of the rows [first_row, last_row], which run over
// the slice's channels, then over taps.
struct TapRange {
  int first, last;
};
CONVT3D_HOST_DEVICE inline TapRange taps_of_rows(const GatherAxis (&axes)[3], int slice,
                                                 int first_row, int last_row) {
  const int rows = axes[1].kernel * axes[2].kernel * slice;  // of a tap along d
  return {first_row / rows, last_row / rows};
}

// The part of grad_output that a tile's positions meet under the taps of a block, in shared memory:
// planes of depth, of each the samples' lines along w. Pitches in words.
struct GatherBox {
  int span[3];
  int lead;  // elements in front of a line's first, so that copies begin on 16-byte boundaries
  int column_pitch, channel_pitch, line_pitch, plane_pitch;
  unsigned copy_mask;  // which copies some tap reads; one after the other, of all planes each

  CONVT3D_HOST_DEVICE int copy_pitch() const { return span[0] * plane_pitch; }
  // Copies before this one.
  CONVT3D_HOST_DEVICE int place_of_copy(int copy) const {
    int place = 0;
    for (int i = 0; i < copy; ++i) place += static_cast<int>(copy_mask >> i & 1);
    return place;
  }
  CONVT3D_HOST_DEVICE int copies() const { return place_of_copy(32); }
};
constexpr int kMostGatherStride = 16;  // along w, of pairs: as many copies as the mask has bits

CONVT3D_HOST_DEVICE inline int round_up_to(int value, int multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

// Of a pair of positions, the first of which is at this column of the box.
CONVT3D_HOST_DEVICE inline int copy_of_column(const GatherAxis& w, int column) {
  return column % w.stride * 2 + column / w.stride % 2;
}

CONVT3D_HOST_DEVICE inline GatherBox gather_box(const GatherAxis (&axes)[3],
                                                const GatheredGradWeightPlan& plan,
                                                const TapRange& taps) {
  GatherBox box{};
  for (int a = 0; a < 3; ++a) {
    const int last_tap = a == 0 ? taps.last - taps.first : axes[a].kernel - 1;
    box.span[a] = axes[a].stride * (plan.tile[a] - 1) + axes[a].dilation * last_tap + 1;
  }
  // The lanes of a warp read four positions of eight rows at once: pitches that put them into
  // different banks, but for even strides where w is fastest.
  if (plan.output_channels_last) {
    const bool odd = axes[2].stride % 2 != 0;
    box.channel_pitch = 1;
    box.column_pitch =
        odd ? round_up_to(plan.slice + 8, 16) - 8 : round_up_to(plan.slice + 4, 8) - 4;
    box.line_pitch = box.span[2] * box.column_pitch;
  } else {
    box.lead = plan.output_run - 1 - (axes[2].padding + plan.output_run - 1) % plan.output_run;
    box.column_pitch = 1;
    // Of copies of pairs, every stride-th element.
    const int step = plan.word_positions == 2 ? axes[2].stride * 2 : 1;
    const int words = (box.lead + box.span[2] + step - 1) / step;
    box.channel_pitch = round_up_to(words + 4, 8) - 4;
    box.line_pitch = plan.slice * box.channel_pitch;
  }
  box.copy_mask = 1;
  if (plan.word_positions == 2) {
    // The first copy of stride 1 is what the copy engine brings.
    if (axes[2].stride > 1) box.copy_mask = 0;
    for (int tap = 0; tap < axes[2].kernel; ++tap)
      box.copy_mask |= 1u << copy_of_column(axes[2], box.lead + tap * axes[2].dilation);
  }
  constexpr int kPlane = 32;  // words: the copy engine writes to 128-byte boundaries
  box.plane_pitch = round_up_to(plan.samples * box.span[1] * box.line_pitch, kPlane);
  return box;
}

// Where the tap of a row lies in the box, from the first.
CONVT3D_HOST_DEVICE inline int row_offset(const GatherAxis (&axes)[3],
                                          const GatheredGradWeightPlan& plan, const GatherBox& box,
                                          const TapRange& taps, int row) {
  const int slice = plan.slice;
  int at = row % slice * box.channel_pitch;
  int tap = row / slice;
  const int column = box.lead + tap % axes[2].kernel * axes[2].dilation;
  if (plan.word_positions == 2)
    at += box.place_of_copy(copy_of_column(axes[2], column)) * box.copy_pitch() +
          column / axes[2].stride / 2;
  else
    at += column * box.column_pitch;
  tap /= axes[2].kernel;
  at += tap % axes[1].kernel * axes[1].dilation * box.line_pitch;
  return at + (tap / axes[1].kernel - taps.first) * axes[0].dilation * box.plane_pitch;
}

// Positions of a tile in the order of the product's depth: along w, then h, d, samples. Where the
// copy engine brings parts of lines: along w as many as it brings side by side, then h, d, samples,
// then the next along w.
struct GatherPosition {
  int sample, d, h, w;
};
CONVT3D_HOST_DEVICE inline GatherPosition position_at(const GatheredGradWeightPlan& plan,
                                                      int index) {
  const int side = plan.copies_parts_of_lines() ? plan.row_positions() : plan.tile[2];
  GatherPosition position{};
  position.w = index % side;
  index /= side;
  position.h = index % plan.tile[1];
  index /= plan.tile[1];
  position.d = index % plan.tile[0];
  index /= plan.tile[0];
  position.sample = index % plan.samples;
  position.w += index / plan.samples * side;
  return position;
}

CONVT3D_HOST_DEVICE inline int position_offset(const GatherAxis (&axes)[3], const GatherBox& box,
                                               const GatheredGradWeightPlan& plan,
                                               const GatherPosition& position) {
  const int column = plan.word_positions == 2 ? position.w / 2 : position.w * axes[2].stride;
  return column * box.column_pitch +
         (position.sample * box.span[1] + position.h * axes[1].stride) * box.line_pitch +
         position.d * axes[0].stride * box.plane_pitch;
}

// A 16-byte unit of the right operand, positions fastest, as the matrix units expect it: rows of
// positions, a column each, whose units are exchanged among each other (swizzle). `position`: a
// multiple of 4, of one to a word. Bytes.
CONVT3D_HOST_DEVICE inline int column_offset(const GatheredGradWeightPlan& plan, int column,
                                             int position) {
  const int row = position / plan.row_words * plan.columns + column;
  return 16 * swizzled_unit(row, position % plan.row_words / 4, plan.row_words / 4);
}

// Of the staged input, from a position to the next: elements.
CONVT3D_HOST_DEVICE inline int staged_pitch(const GatheredGradWeightPlan& plan) {
  return round_up_to(plan.columns + 4, 8) - 4;
}

constexpr int kGatherBarrierBytes = 32;  // of a stage
constexpr int kGatherLineBytes = 8;      // of a line of the box in the table

// Where all strides are 1, position o and the taps counted from the last meet i = o - padding' +
// dilation * tap with padding' = dilation * (kernel - 1) - padding: the same problem, in which the
// input is gathered and grad_output stays.
bool can_mirror(const Problem& problem);
Problem mirror(const Problem& problem);

// Facts that follow from a problem and a plan.
struct GatheredGradWeightSizes {
  GatherAxis axes[3];
  int batch, in_channels, out_channels;  // channels per group
  int input_slices, output_slices;
  int rows;             // of a slice: taps x channels
  int tiles_per_block;  // products of 64 rows
  int steps;            // of eight words per tile
  int positions;        // of a tile
  int counts[4];        // position tiles: samples, d, h, w
  int tiles;            // all of them
  int columns_bytes, staged_at, stage_bytes;
  int steps_at, positions_at, lines_at, barriers_at, shared_bytes;
  int64_t jobs;             // blocks per split
  int64_t partials;         // sums of one split
  int64_t workspace_bytes;  // 0: results are written directly
};
GatheredGradWeightSizes gathered_grad_weight_sizes(const Problem& problem,
                                                   const GatheredGradWeightPlan& plan);

// The rows of a block's index-th share: [first, last].
struct RowRange {
  int first, last;
};
CONVT3D_HOST_DEVICE inline RowRange rows_of_block(const GatheredGradWeightSizes& sizes, int index) {
  const int first = index * sizes.tiles_per_block * kGatherRows;
  const int behind = first + sizes.tiles_per_block * kGatherRows;
  return {first, (behind < sizes.rows ? behind : sizes.rows) - 1};
}

}  // namespace convt3d

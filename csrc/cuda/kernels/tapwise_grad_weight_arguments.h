// What the tapwise grad_weight kernel is launched with.
#pragma once

#include <cuda.h>

#include "divisor.h"
#include "tapwise_grad_weight_sizes.h"

namespace convt3d {

struct TapwiseGradWeightArguments {
  TapwiseGradWeightPlan plan;
  TapwiseGradWeightSizes sizes;
  CUtensorMap input_map, grad_output_map;
  int in_channels, out_channels;  // per group
  TensorPointer result;
  float* workspace;        // nullptr: nothing is split
  bool result_in_vectors;  // 16-byte stores
  TapOrder taps[3];
  Divisor splits, row_tiles, groups, channel_chunks;
  Divisor tap_counts[3], tile[3];
  Divisor blocks;
  int turns;  // of all blocks

  // Blocks take items in turns, every other round backwards: the longest, which come first, meet
  // the shortest. May be one behind the last item.
  CONVT3D_HOST_DEVICE int item_of_turn(int turn) const {
    int round = turn;
    const int block = blocks.take(round);
    return round % 2 == 0 ? turn : turn - block + blocks.value() - 1 - block;
  }
};

// 64 columns: output channels of one tap.
struct TapwiseColumnChunk {
  bool exists;
  int channel;  // the first, within the group
  int tap[3];   // in the order of taps

  CONVT3D_HOST_DEVICE TapwiseColumnChunk(const TapwiseGradWeightArguments& args, int index) {
    int rest = index;
    channel = args.channel_chunks.take(rest) * kChunkChannels;
    for (int a = 2; a >= 0; --a) tap[a] = args.tap_counts[a].take(rest);
    exists = rest == 0;
  }
};

// A tile of weights and a part of its steps: those of all positions that any of its taps has.
struct TapwiseGradWeightItem {
  int split, group, row_tile, column_tile;
  int tile;      // counts what splits share
  int first[3];  // positions
  int tiles[4];  // of positions: samples, d, h, w
  int steps;     // of all splits

  CONVT3D_HOST_DEVICE TapwiseGradWeightItem(const TapwiseGradWeightArguments& args, int index) {
    int rest = index;
    split = args.splits.take(rest);
    tile = rest;
    row_tile = args.row_tiles.take(rest);
    group = args.groups.take(rest);
    column_tile = rest;
    steps = tiles[0] = args.sizes.sample_tiles;
    const int chunks = column_chunks(args.plan);
    for (int a = 0; a < 3; ++a) {
      int last = 0;
      first[a] = args.plan.axes[a].positions;
      for (int c = 0; c < chunks; ++c) {
        const TapwiseColumnChunk chunk(args, column_tile * chunks + c);
        if (!chunk.exists) continue;
        const PositionRange range = args.taps[a].positions[chunk.tap[a]];
        first[a] = range.first < first[a] ? range.first : first[a];
        last = range.last > last ? range.last : last;
      }
      const int positions = last > first[a] ? last - first[a] : 0;
      tiles[a + 1] = args.tile[a].quotient(positions + args.plan.tile[a + 1] - 1);
      steps *= tiles[a + 1];
    }
  }
};

}  // namespace convt3d

// What the tapwise kernel is launched with.
#pragma once

#include <cuda.h>

#include "divisor.h"
#include "tapwise_data_sizes.h"

namespace convt3d {

struct TapwiseArguments {
  TapwisePlan plan;
  TapwiseSizes sizes;
  CUtensorMap operand_map, weight_map;
  int batch, groups;
  int operand_channels, result_channels;  // per group
  TensorPointer result;
  VectorPointer bias;
  int* counters;
  float* segment_sums;
  bool result_in_vectors;  // 16-byte stores
  // Of work items: tiles of positions go fastest, so that blocks at work at the same time share
  // weights; then segments; then planes, those with most taps first; then channel tiles.
  Divisor tiles[4];  // samples, d, h, w
  Divisor segments, planes[3], channel_tiles;
  int8_t planes_by_taps[3][kMostWindowPlanes];
  Divisor tile_d, tile_h, tile_w;  // of rows
};

// A tile of positions, a column tile and what of its steps.
struct TapwiseItem {
  int first[4];  // positions: sample, d, h, w
  int tile;      // counts what segments share
  int segment;   // of a split item
  int plane[3], slice, group;
  int taps, steps;  // of the plane; of all chunks

  CONVT3D_HOST_DEVICE TapwiseItem(const TapwiseArguments& args, int index) {
    const TapwisePlan& plan = args.plan;
    int rest = index, row_tile = 0, row_tiles = 1;
    for (int a = 3; a >= 0; --a) {
      const int at = args.tiles[a].take(rest);
      first[a] = at * plan.tile[a];
      row_tile += at * row_tiles;
      row_tiles *= args.tiles[a].value();
    }
    segment = args.segments.take(rest);
    tile = rest * row_tiles + row_tile;
    taps = 1;
    for (int a = 2; a >= 0; --a) {
      plane[a] = args.planes_by_taps[a][args.planes[a].take(rest)];
      taps *= plan.axes[a].taps_of(plane[a]);
    }
    slice = args.channel_tiles.take(rest);
    group = rest;
    steps = taps * args.sizes.chunks;
  }
};

}  // namespace convt3d

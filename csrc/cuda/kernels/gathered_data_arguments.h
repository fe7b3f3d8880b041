// What the gathered data kernel is launched with.
#pragma once

#include <cuda.h>

#include "divisor.h"
#include "gathered_data_sizes.h"

namespace convt3d {

struct GatheredDataArguments {
  GatheredDataPlan plan;
  GatheredDataSizes sizes;
  CUtensorMap operand_map;
  int groups;
  int operand_channels, result_channels;  // per group
  TensorPointer weight, result;
  int64_t weight_group_stride, weight_operand_stride, weight_result_stride;
  VectorPointer bias;
  char* packed;
  int line_bytes[3];  // of a box: to the next plane of depth, line, element
  // Of work items: channel tiles go fastest, which share a box's lines in the cache; planes go
  // slowest, those with most taps first.
  Divisor channel_tiles, tiles[3], batch, planes[3];
  int8_t planes_by_taps[3][kMostWindowPlanes];
  Divisor tile_h, tile_w;  // of rows
  Divisor taps_h, taps_w;
};

// A tile of positions and a column tile.
struct GatheredDataItem {
  int slice;     // channel tile
  int first[3];  // positions
  int sample, plane[3], group;
  int taps, steps;  // of the plane; of all chunks

  CONVT3D_HOST_DEVICE GatheredDataItem(const GatheredDataArguments& args, int index) {
    int rest = index;
    slice = args.channel_tiles.take(rest);
    for (int a = 2; a >= 0; --a) first[a] = args.tiles[a].take(rest) * args.plan.tile[a];
    sample = args.batch.take(rest);
    taps = 1;
    for (int a = 2; a >= 0; --a) {
      plane[a] = args.planes_by_taps[a][args.planes[a].take(rest)];
      taps *= args.plan.axes[a].taps_of(plane[a]);
    }
    group = rest;
    steps = taps * args.sizes.chunks;
  }
  CONVT3D_HOST_DEVICE int stages() const {
    return (steps + kGatheredStageSteps - 1) / kGatheredStageSteps;
  }
  // The first stage of its weights.
  CONVT3D_HOST_DEVICE int64_t first_stage(const GatheredDataArguments& args) const {
    int64_t at = int64_t{group} * args.channel_tiles.value() + slice;
    for (int a = 0; a < 3; ++a) at = at * args.planes[a].value() + plane[a];
    return at * args.sizes.plane_stages;
  }
};

// The list of all taps, plane by plane, the axis w fastest: where a plane's begin, and where one
// stands that is the `place`-th of each axis.
CONVT3D_HOST_DEVICE inline int first_tap(const GatheredDataPlan& plan, const int (&plane)[3]) {
  const WindowAxis &d = plan.axes[0], &h = plan.axes[1], &w = plan.axes[2];
  const int lines = d.taps_of(plane[0]) * h.taps_of(plane[1]);
  return (d.plane_begin[plane[0]] * h.taps() + d.taps_of(plane[0]) * h.plane_begin[plane[1]]) *
             w.taps() +
         lines * w.plane_begin[plane[2]];
}
CONVT3D_HOST_DEVICE inline int listed_at(const GatheredDataPlan& plan, const int (&place)[3]) {
  int plane[3] = {}, rank = 0;
  for (int a = 0; a < 3; ++a) {
    const WindowAxis& axis = plan.axes[a];
    while (axis.plane_begin[plane[a] + 1] <= place[a]) ++plane[a];
    rank = rank * axis.taps_of(plane[a]) + place[a] - axis.plane_begin[plane[a]];
  }
  return first_tap(plan, plane) + rank;
}

}  // namespace convt3d

// What the im2col kernels are launched with. No CUDA headers.
#pragma once

#include "divisor.h"
#include "im2col_plan.h"

namespace convt3d {

struct Im2colArguments {
  Im2colPlan plan;
  Im2colSizes sizes;
  int out_channels;                     // per group
  TensorPointer input, weight, output;  // or the gradients that have their shapes
  VectorPointer bias;
  float* workspace;
  Divisor tiles_w, tiles_h, segments;
  Divisor quads_w;      // of a line of positions, four at a time
  Divisor out_channel;  // out_channels
  Divisor line;         // of a tile of outputs: along w, with channels where those go faster
  Divisor lines;        // of one channel
  Divisor kernel_d, kernel_h, kernel_w, stride_h;
  bool output_channels_last;
};

struct Im2colItem {
  int n, d, h, w;  // d: the segment's or the plane's; h, w: first positions
  CONVT3D_HOST_DEVICE Im2colItem(const Im2colArguments& args, int index) {
    w = args.tiles_w.take(index) * args.plan.tile_w;
    h = args.tiles_h.take(index) * args.plan.tile_h;
    d = args.segments.take(index);
    n = index;
  }
};

}  // namespace convt3d

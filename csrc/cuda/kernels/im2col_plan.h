// The plan of the im2col kernels and the geometry that follows from it. Host-device, no CUDA
// headers: plans are made without a GPU.
//
// Where results have few channels, a product's columns are all (output channel, tap) pairs: the
// order of the weight's memory. A row is one input position, whatever the stride, so that nothing
// is multiplied twice or by zero:
//
//   forward      columns = input x weight, then each output gathers its taps (col2im)
//   grad_input   gathered grad_output (im2col) x transposed weight
//   grad_weight  transposed input x gathered grad_output
#pragma once

#include "tensors.h"
#include "wgmma_geometry.h"

namespace convt3d {

constexpr int kIm2colThreads = 256;
constexpr int kIm2colWarps = kIm2colThreads / 32;
constexpr int kIm2colRows = 32;  // input positions, or channels, of a warp's product

struct Im2colPlan {
  WindowAxis axes[3];  // of forward
  int stride[3], padding[3], dilation[3], kernel[3];
  int tiles;  // of eight columns in registers: the instance
  // Input positions of a block's tile in one plane of depth; forward: positions t of
  // tile_geometry.h.
  int tile_h, tile_w;
  int segment;        // forward: positions along d of a work item
  int channel_warps;  // grad_weight: warps with channels of their own; the others share positions
  int splits;         // grad_weight: over positions
  int blocks;         // of threads, per multiprocessor
};

// The part of grad_output that a tile of positions meets, in shared memory: for each channel and
// tap along d its lines. Elements.
struct GatheredTile {
  int lines, pitch;  // of a plane
  int plane;         // elements

  CONVT3D_HOST_DEVICE int64_t elements(int channels, int kernel_d) const {
    return int64_t{channels} * kernel_d * plane;
  }
};

CONVT3D_HOST_DEVICE inline GatheredTile gathered_tile(const Im2colPlan& plan) {
  GatheredTile tile{};
  tile.lines = plan.stride[1] * (plan.tile_h - 1) + plan.dilation[1] * (plan.kernel[1] - 1) + 1;
  tile.pitch = plan.stride[2] * (plan.tile_w - 1) + plan.dilation[2] * (plan.kernel[2] - 1) + 1;
  tile.plane = tile.lines * tile.pitch;
  return tile;
}
constexpr int kGatheredLineBytes = 16;  // of the table of lines

// Of a column, relative to that of the first channel's first tap.
CONVT3D_HOST_DEVICE inline int column_offset(const Im2colPlan& plan, const GatheredTile& tile,
                                             int column) {
  const int w = column % plan.kernel[2], lines = column / plan.kernel[2];
  const int h = lines % plan.kernel[1], planes = lines / plan.kernel[1];
  return planes * tile.plane + plan.dilation[1] * h * tile.pitch + plan.dilation[2] * w;
}
// Of an input position of the tile.
CONVT3D_HOST_DEVICE inline int position_offset(const Im2colPlan& plan, const GatheredTile& tile,
                                               int h, int w) {
  return plan.stride[1] * h * tile.pitch + plan.stride[2] * w;
}

// grad_weight: the gathered matrix, a row per position, all columns side by side. Elements from row
// to row: 16-byte units of neighbouring rows (16 bits), or elements of rows four apart (float32),
// meet different banks.
CONVT3D_HOST_DEVICE constexpr int matrix_pitch(int tiles, int element_bytes) {
  return tiles * 8 + (element_bytes == 4 ? 2 : 8);
}
CONVT3D_HOST_DEVICE constexpr int round_to_steps(int positions) {
  return (positions + 15) / 16 * 16;
}

// What input positions along one axis a tile of forward reads.
struct InputRange {
  int begin, end;
  CONVT3D_HOST_DEVICE int extent() const { return end - begin; }
};
// It begins and ends at multiples of `multiple`, possibly outside the tensor.
CONVT3D_HOST_DEVICE inline InputRange input_range(const WindowAxis& axis, int first, int tile,
                                                  int multiple) {
  const int begin = floor_div(first + axis.origin, multiple) * multiple;
  const int end = first + axis.origin + tile - 1 + axis.window;
  return {begin, begin + (end - begin + multiple - 1) / multiple * multiple};
}
// The longest there is.
CONVT3D_HOST_DEVICE constexpr int widest_input(const WindowAxis& axis, int tile, int multiple) {
  return (tile + axis.window + 2 * multiple - 3) / multiple * multiple;
}

CONVT3D_HOST_DEVICE constexpr int round_to_quads(int extent) { return (extent + 3) / 4 * 4; }

// Planes of the result, one after the other, that a plane of the input meets or completes.
CONVT3D_HOST_DEVICE inline int touched_planes(const Im2colPlan& plan) {
  const int reach = plan.dilation[0] * (plan.kernel[0] - 1) + 1;
  return reach > plan.stride[0] ? reach : plan.stride[0];
}

struct Im2colSizes {
  int columns;       // output channels x taps
  int channels;      // of the input, per group
  int depth_chunks;  // forward: of input channels, two steps of products each
  int tiles_h, tiles_w, segments;
  int64_t items;     // tiles of positions (forward: times segments) per group
  int column_pitch;  // forward: floats between columns in shared memory
  int outputs;       // forward: of a tile in one plane of the result, all channels
  int weight_bytes, tile_bytes, matrix_bytes, ring_bytes, line_bytes, table_bytes;
  int shared_bytes;
  int channel_blocks;  // grad_weight
  int64_t workspace_bytes;
};

enum class Im2colPass { kForward, kGradInput, kGradWeight };
Im2colSizes im2col_sizes(const Problem& problem, Im2colPass pass, DataType type, bool allow_tf32,
                         const Im2colPlan& plan);

}  // namespace convt3d

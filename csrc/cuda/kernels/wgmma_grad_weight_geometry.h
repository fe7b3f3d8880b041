// Index arithmetic of the WGMMA grad_weight kernel (wgmma_grad_weight.cuh). Host-device, no CUDA
// headers: the CPU tests check it against the definition.
//
// grad_weight contracts input and grad_output over positions. One of them is read at the position
// itself ("still": the result of wgmma_geometry.h), the other at a row that depends on the tap
// ("moving": its operand):
//
//   still  = result_step * t + plane      moving = operand_step * t + origin + offset(tap)
//
// The input moves where the window axes are those of forward; grad_output moves where they are
// those of grad_input, for which the strides of height and width must be 1.
#pragma once

#include "wgmma_geometry.h"

namespace convt3d {

// Taps of one plane along w whose sums are the rows (or columns) of one product, side by side:
// `count` places of the axis' table from `first_w` on. Their offsets rise evenly.
struct TapTile {
  int plane_h, plane_w;
  int place_h;         // in the table of h
  int first_w, count;  // in the table of w
  int offset_h, offset_w;
};

// Tiles of `merged` taps in the order of planes (h, w), then taps of h, then of w.
CONVT3D_HOST_DEVICE inline int tap_tiles(const WindowAxis& h, const WindowAxis& w, int merged) {
  int tiles = 0;
  for (int plane_w = 0; plane_w < w.planes; ++plane_w)
    tiles += (w.taps_of(plane_w) + merged - 1) / merged;
  return h.taps() * tiles;
}

CONVT3D_HOST_DEVICE inline TapTile tap_tile_at(const WindowAxis& h, const WindowAxis& w, int merged,
                                               int index) {
  for (int plane_h = 0; plane_h < h.planes; ++plane_h) {
    for (int plane_w = 0; plane_w < w.planes; ++plane_w) {
      const int tiles_w = (w.taps_of(plane_w) + merged - 1) / merged;
      const int tiles = h.taps_of(plane_h) * tiles_w;
      if (index >= tiles) {
        index -= tiles;
        continue;
      }
      TapTile tile{};
      tile.plane_h = plane_h;
      tile.plane_w = plane_w;
      tile.place_h = h.plane_begin[plane_h] + index / tiles_w;
      tile.first_w = w.plane_begin[plane_w] + index % tiles_w * merged;
      const int left = w.plane_begin[plane_w + 1] - tile.first_w;
      tile.count = left < merged ? left : merged;
      tile.offset_h = h.offset[tile.place_h];
      tile.offset_w = w.offset[tile.first_w];
      return tile;
    }
  }
  return {};
}

// Distance of the offsets of neighbouring taps of one plane; 1 where no plane has two.
CONVT3D_HOST_DEVICE inline int tap_distance(const WindowAxis& axis) {
  for (int plane = 0; plane < axis.planes; ++plane) {
    if (axis.taps_of(plane) < 2) continue;
    const int first = axis.plane_begin[plane];
    return axis.offset[first + 1] - axis.offset[first];
  }
  return 1;
}

// Positions along one axis at which both operands of a tap lie inside their tensors.
struct PositionRange {
  int first, last;  // last: one behind
};

CONVT3D_HOST_DEVICE inline PositionRange positions_of_tap(const WindowAxis& axis, int place) {
  int plane = 0;
  while (axis.plane_begin[plane + 1] <= place) ++plane;
  const int start = axis.origin + axis.offset[place];  // of the moving operand at position 0
  int first = start < 0 ? (-start + axis.operand_step - 1) / axis.operand_step : 0;
  const auto behind = [](int extent, int from, int step) {
    return extent <= from ? 0 : (extent - from + step - 1) / step;
  };
  const int still = behind(axis.result_extent, plane, axis.result_step);
  const int moving = behind(axis.operand_extent, start, axis.operand_step);
  int last = still < moving ? still : moving;
  if (last < first) last = first;
  return {first, last};
}

// The lines of a tensor along w that warps fill boxes from, where the copy engine cannot. A box is
// the tile at one pair of planes (h, w): `pitch` rows per line, `lines` lines per sample, and the
// boxes of neighbouring pairs follow each other. Along w, the planes take turns in a line.
struct BoxLines {
  int step_h, step_w;  // from a position to the next: as many as there are planes
  int samples, lines, pitch;
  int area;            // rows from one box to the next
  int inverse_step_w;  // in 2^-16, rounded up

  // Where a line begins in the tensor, relative to the tile, and in the first of the boxes: there
  // at a row that may lie in front of it, if that box is of a later plane along w.
  struct Line {
    int sample, y;
    int row;
  };

  CONVT3D_HOST_DEVICE int span() const { return step_w * pitch; }
  CONVT3D_HOST_DEVICE int count(int first_pair, int last_pair) const {
    return (last_pair / step_w - first_pair / step_w + 1) * samples * lines;
  }
  CONVT3D_HOST_DEVICE Line line_at(int first_pair, int index) const {
    const int line = index % (samples * lines);
    const int plane_h = first_pair / step_w + index / (samples * lines);
    return {line / lines, step_h * (line % lines) + plane_h,
            (plane_h * step_w - first_pair) * area + line * pitch};
  }
  // Rows from a line's own to that of a column: the sum is the row of a box, or lies in front of
  // the first box or behind the last where no tap needs the column's plane.
  CONVT3D_HOST_DEVICE int rows_to(int column) const {
    const int position = column * inverse_step_w >> 16;
    return position + (column - position * step_w) * area;
  }
};

CONVT3D_HOST_DEVICE inline BoxLines box_lines(int step_h, int step_w, int samples, int lines,
                                              int pitch, int area) {
  return {step_h, step_w, samples, lines, pitch, area, ((1 << 16) + step_w - 1) / step_w};
}

}  // namespace convt3d

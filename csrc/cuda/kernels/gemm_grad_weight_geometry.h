// Index arithmetic of the tensor-core grad_weight: tiles of positions, the halo that serves a group
// of taps, and where each tap reads. Host-device, no CUDA headers.
//
// grad_weight contracts two activations over positions:
//   still    the operand read at the position itself
//   moving   the operand read at stride * position + offset + dilation * tap
// Normally the input is still and grad_output moves. With stride 1 the roles can be exchanged
// (taps mirrored), so that the operand with fewer channels carries the halo.
#pragma once

#include "../../geometry.h"

namespace convt3d {

struct ContractionAxis {
  int stride, offset, dilation, kernel;
  int period;        // taps that differ by it share a residue
  int still_extent;  // positions
  int moving_extent;
  int tile;   // positions per tile
  int group;  // consecutive taps that one block computes
  int span;   // largest shift inside a group

  CONVT3D_HOST_DEVICE int tiles() const { return (still_extent + tile - 1) / tile; }
  CONVT3D_HOST_DEVICE int groups() const { return (kernel + group - 1) / group; }
  CONVT3D_HOST_DEVICE int shift(int tap) const { return dilation * tap / stride; }
  CONVT3D_HOST_DEVICE int planes() const { return group < period ? group : period; }
  CONVT3D_HOST_DEVICE int halo() const { return tile + span; }
  // Rows of the moving tile along this axis: one plane per residue, one after the other.
  CONVT3D_HOST_DEVICE int rows() const { return planes() * halo(); }

  // Coordinate in the moving tensor of a row of the tile at position 0 for the group of taps that
  // starts at first_tap.
  CONVT3D_HOST_DEVICE int coordinate(int first_tap, int row) const {
    const int plane = row / halo(), step = row % halo();
    return stride * (step + shift(first_tap)) + dilation * (first_tap + plane) % stride + offset;
  }
  // The row that position 0 reads for a tap.
  CONVT3D_HOST_DEVICE int row_of_tap(int first_tap, int tap) const {
    return (tap - first_tap) % planes() * halo() + shift(tap) - shift(first_tap);
  }
  // The row that holds coordinate `coordinate`, or -1.
  CONVT3D_HOST_DEVICE int row_of_coordinate(int first_tap, int coordinate) const {
    const int reach = coordinate - offset - stride * shift(first_tap);
    if (reach < 0 || reach / stride >= halo()) return -1;
    for (int plane = 0; plane < planes(); ++plane)
      if (dilation * (first_tap + plane) % stride == reach % stride)
        return plane * halo() + reach / stride;
    return -1;
  }
  // Coordinates relative to this one are never negative and at most extent_of_tile() - 1.
  CONVT3D_HOST_DEVICE int first_coordinate(int first_tap) const {
    return stride * shift(first_tap) + offset;
  }
  CONVT3D_HOST_DEVICE int extent_of_tile() const { return stride * halo(); }
};

// `mirrored` exchanges the operands' roles (stride 1 only). `tile` and `group` are left at 1.
inline ContractionAxis contraction_axis(const Axis& axis, bool mirrored) {
  const TapTable<int64_t> table(axis);
  ContractionAxis result{};
  result.stride = static_cast<int>(axis.stride);
  result.dilation = static_cast<int>(axis.dilation);
  result.kernel = static_cast<int>(axis.kernel);
  result.period = static_cast<int>(table.period);
  // Mirrored: input = output + padding - dilation * tap, with taps counted from the last one.
  result.offset =
      static_cast<int>(mirrored ? axis.padding - axis.dilation * (axis.kernel - 1) : -axis.padding);
  result.still_extent = static_cast<int>(mirrored ? axis.output : axis.input);
  result.moving_extent = static_cast<int>(mirrored ? axis.input : axis.output);
  result.tile = result.group = 1;
  return result;
}

inline void set_group(ContractionAxis& axis, int group) {
  axis.group = group;
  axis.span = 0;
  for (int first = 0; first < axis.kernel; first += group) {
    const int last = first + group < axis.kernel ? first + group - 1 : axis.kernel - 1;
    const int span = axis.shift(last) - axis.shift(first);
    if (span > axis.span) axis.span = span;
  }
}

}  // namespace convt3d

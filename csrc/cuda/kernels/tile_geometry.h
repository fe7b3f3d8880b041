// Index arithmetic of the tensor-core kernels: result tiles, the operand tile (halo) that serves
// them, and which taps meet which result plane. Host-device, no CUDA headers: the CPU tests check
// it exhaustively against the definition.
//
// Output o, input i and tap k of one axis meet where o = stride * i + reach(k) with
// reach(k) = dilation * k - padding. Split into shift(k) = floor(reach / stride) and
// plane(k) = reach mod stride:
//
//   forward     output = stride * t + plane    reads input  t - shift(k)   for taps of that plane
//   grad_input  input = t                      reads output stride * (t + shift(k)) + plane(k)
//
// Words used in these kernels, per axis:
//   result    the tensor a data pass writes (forward: output; grad_input: input)
//   operand   the activation it reads (forward: input; grad_input: grad_output)
//   position  t above; a tile covers `tile` of them
//   plane     forward: a residue of the result. grad_input: a residue of the operand that some tap
//             meets; the operand tile is kept de-interleaved, plane by plane.
//   block     planes that are worked on together. Forward: those of one column tile.
//             grad_input: those whose operand is in shared memory at once.
//   entry     one operand position relative to t that taps of a plane block read. Forward: a
//             shift. grad_input: a tap.
#pragma once

#include <cstdint>

#include "../../geometry.h"

namespace convt3d {

enum class Pass { kForward, kGradInput };

CONVT3D_HOST_DEVICE inline int floor_div(int a, int b) {  // b > 0
  return a >= 0 ? a / b : -((b - 1 - a) / b);
}

struct TileAxis {
  Pass pass;
  int stride, padding, dilation, kernel;
  int operand_extent, result_extent;
  int positions;
  int min_shift, max_shift;
  int planes;       // forward: stride; grad_input: residues met by a tap
  int tile;         // positions per tile
  int plane_block;  // planes per block

  CONVT3D_HOST_DEVICE int shift(int tap) const {
    return floor_div(dilation * tap - padding, stride);
  }
  CONVT3D_HOST_DEVICE int plane(int tap) const {
    return dilation * tap - padding - stride * shift(tap);
  }
  // The tap that has this shift and plane, or -1.
  CONVT3D_HOST_DEVICE int tap_of(int shift, int plane) const {
    const int distance = stride * shift + plane + padding;
    return distance >= 0 && distance % dilation == 0 && distance / dilation < kernel
               ? distance / dilation
               : -1;
  }

  CONVT3D_HOST_DEVICE int halo() const { return tile + max_shift - min_shift; }
  CONVT3D_HOST_DEVICE int tiles() const { return (positions + tile - 1) / tile; }
  CONVT3D_HOST_DEVICE int plane_blocks() const { return (planes + plane_block - 1) / plane_block; }
  CONVT3D_HOST_DEVICE int result_block() const { return pass == Pass::kForward ? plane_block : 1; }
  CONVT3D_HOST_DEVICE int operand_block() const { return pass == Pass::kForward ? 1 : plane_block; }
  // Rows of the operand tile along this axis: planes of the block one after the other.
  CONVT3D_HOST_DEVICE int operand_rows() const { return operand_block() * halo(); }
};

CONVT3D_HOST_DEVICE inline int result_coordinate(const TileAxis& axis, int position, int plane) {
  return axis.pass == Pass::kForward ? axis.stride * position + plane : position;
}

// Coordinate in the operand tensor (possibly outside it) of row `row` of the tile whose first
// position is `position` and whose planes start at `first_plane`.
CONVT3D_HOST_DEVICE inline int operand_coordinate(const TileAxis& axis, int position,
                                                  int first_plane, int row) {
  if (axis.pass == Pass::kForward) return position - axis.max_shift + row;
  const int plane = first_plane + row / axis.halo(), step = row % axis.halo();
  // Plane p holds the residue of tap p; taps repeat residues periodically.
  return axis.stride * (position + axis.min_shift + step) + axis.plane(plane);
}

// Whether a forward block that starts at first_plane has a tap at this shift.
CONVT3D_HOST_DEVICE inline bool has_tap(const TileAxis& axis, int first_plane, int shift) {
  for (int p = first_plane; p < first_plane + axis.plane_block && p < axis.planes; ++p)
    if (axis.tap_of(shift, p) >= 0) return true;
  return false;
}

// Entries of the block of planes [first_plane, first_plane + plane_block).
CONVT3D_HOST_DEVICE inline int entry_count(const TileAxis& axis, int first_plane) {
  int count = 0;
  if (axis.pass == Pass::kForward) {
    for (int shift = axis.min_shift; shift <= axis.max_shift; ++shift)
      count += has_tap(axis, first_plane, shift);
  } else {
    for (int p = first_plane; p < first_plane + axis.plane_block && p < axis.planes; ++p)
      count += (axis.kernel - p + axis.planes - 1) / axis.planes;
  }
  return count;
}

struct Entry {
  int shift;
  int row;  // operand row that the first position of the tile reads
  int tap;  // grad_input: its tap; forward: -1, see tap_of_entry
};

CONVT3D_HOST_DEVICE inline Entry entry_at(const TileAxis& axis, int first_plane, int entry) {
  if (axis.pass == Pass::kForward) {
    for (int shift = axis.min_shift; shift <= axis.max_shift; ++shift)
      if (has_tap(axis, first_plane, shift) && entry-- == 0)
        return {shift, axis.max_shift - shift, -1};
    return {-1, -1, -1};
  }
  for (int p = first_plane; p < first_plane + axis.plane_block && p < axis.planes; ++p) {
    const int taps = (axis.kernel - p + axis.planes - 1) / axis.planes;
    if (entry < taps) {
      const int tap = p + entry * axis.planes;
      const int shift = axis.shift(tap);
      return {shift, (p - first_plane) * axis.halo() + shift - axis.min_shift, tap};
    }
    entry -= taps;
  }
  return {-1, -1, -1};
}

// The tap that entry contributes to a result plane, or -1.
CONVT3D_HOST_DEVICE inline int tap_of_entry(const TileAxis& axis, const Entry& entry, int plane) {
  if (axis.pass == Pass::kGradInput) return entry.tap;
  return plane < axis.planes ? axis.tap_of(entry.shift, plane) : -1;
}

// The operand row that the first position of the tile reads for a tap.
CONVT3D_HOST_DEVICE inline int row_of_tap(const TileAxis& axis, int tap) {
  if (axis.pass == Pass::kForward) return axis.max_shift - axis.shift(tap);
  return tap % axis.planes % axis.plane_block * axis.halo() + axis.shift(tap) - axis.min_shift;
}

// Where a tap stands: the inverse of tap_of_entry, without a search over shifts.
struct TapPlace {
  int block, entry;  // of which block of planes
  int plane;         // forward: its result plane within the block; grad_input: 0
};

CONVT3D_HOST_DEVICE inline TapPlace place_of_tap(const TileAxis& axis, int tap) {
  if (axis.pass == Pass::kGradInput) {
    const int plane = tap % axis.planes, block = plane / axis.plane_block;
    const int first = block * axis.plane_block;
    // Planes below `longer` have one tap more.
    const int shorter = axis.kernel / axis.planes, longer = axis.kernel % axis.planes;
    const int before = (plane - first) * shorter + (plane < longer ? plane : longer) -
                       (first < longer ? first : longer);
    return {block, before + tap / axis.planes, 0};
  }
  const int tap_shift = axis.shift(tap);
  const int tap_plane = axis.dilation * tap - axis.padding - axis.stride * tap_shift;
  const int block = tap_plane / axis.plane_block, first = block * axis.plane_block;
  // Shifts of the block's earlier taps, which rise.
  const int shift_step = axis.dilation / axis.stride;
  const int plane_step = axis.dilation - axis.stride * shift_step;
  int entry = 0, shift = axis.min_shift, plane = -axis.padding - axis.stride * shift,
      last = axis.min_shift - 1;
  for (int t = 0; t < tap; ++t) {
    if (plane >= first && plane < first + axis.plane_block && shift != last) {
      ++entry;
      last = shift;
    }
    shift += shift_step;
    plane += plane_step;
    if (plane >= axis.stride) {
      plane -= axis.stride;
      ++shift;
    }
  }
  return {block, entry - (last == tap_shift), tap_plane - first};
}

// `tile` and `plane_block` are left at 1.
inline TileAxis tile_axis(Pass pass, const Axis& axis) {
  TileAxis result{};
  const TapTable<int64_t> table(axis);
  result.pass = pass;
  result.stride = static_cast<int>(axis.stride);
  result.padding = static_cast<int>(axis.padding);
  result.dilation = static_cast<int>(axis.dilation);
  result.kernel = static_cast<int>(axis.kernel);
  result.min_shift = result.shift(0);
  result.max_shift = result.shift(result.kernel - 1);
  result.tile = result.plane_block = 1;
  if (pass == Pass::kForward) {
    result.operand_extent = static_cast<int>(axis.input);
    result.result_extent = static_cast<int>(axis.output);
    result.positions = static_cast<int>((axis.output + axis.stride - 1) / axis.stride);
    result.planes = static_cast<int>(axis.stride);
  } else {
    result.operand_extent = static_cast<int>(axis.output);
    result.result_extent = static_cast<int>(axis.input);
    result.positions = static_cast<int>(axis.input);
    result.planes = static_cast<int>(axis.kernel < table.period ? axis.kernel : table.period);
  }
  return result;
}

}  // namespace convt3d

// Index arithmetic of the tensor-core kernels: result tiles, the operand tile (halo) that serves
// them, and which taps meet which result plane. Host-device, no CUDA headers: the CPU tests check
// it exhaustively against the definition.
//
// Words used in these kernels, per axis:
//   result    the tensor a data pass writes (forward: output; grad_input: input)
//   operand   the activation it reads (forward: input; grad_input: grad_output)
//   q         position of a result tile. Forward: output = stride * q + residue - padding, so one
//             q stands for `stride` outputs, its result planes. grad_input: q is the input itself.
//   plane     forward: one residue of the result. grad_input: the operand is kept de-interleaved,
//             one plane of the tile per residue that a tap meets.
//   entry     one operand position relative to q. Forward: a shift that some tap of the chosen
//             result planes has. grad_input: a tap.
#pragma once

#include <cstdint>

#include "../../geometry.h"

namespace convt3d {

enum class Pass { kForward, kGradInput };

struct TileAxis {
  Pass pass;
  int stride, padding, dilation, kernel;
  int operand_extent, result_extent;
  int positions;       // number of q
  int first_position;  // q of the first one
  int max_shift;       // floor(dilation * (kernel - 1) / stride)
  int result_planes;   // forward: stride; grad_input: 1
  int operand_planes;  // forward: 1; grad_input: residues met by a tap
  int tile;            // q per tile
  int plane_block;     // result planes that one column tile covers

  CONVT3D_HOST_DEVICE int halo() const { return tile + max_shift; }
  // Rows of the operand tile along this axis: planes one after the other.
  CONVT3D_HOST_DEVICE int operand_rows() const { return operand_planes * halo(); }
  CONVT3D_HOST_DEVICE int tiles() const { return (positions + tile - 1) / tile; }
  CONVT3D_HOST_DEVICE int plane_blocks() const {
    return (result_planes + plane_block - 1) / plane_block;
  }

  // The tap that joins shift and residue, or -1.
  CONVT3D_HOST_DEVICE int tap_of(int shift, int residue) const {
    const int reach = stride * shift + residue;
    return reach % dilation == 0 && reach / dilation < kernel ? reach / dilation : -1;
  }
};

CONVT3D_HOST_DEVICE inline int result_coordinate(const TileAxis& axis, int q, int plane) {
  return axis.pass == Pass::kForward ? axis.stride * q + plane - axis.padding : q;
}

// Coordinate in the operand tensor (possibly outside it) of row `row` of the tile whose first
// position is q.
CONVT3D_HOST_DEVICE inline int operand_coordinate(const TileAxis& axis, int q, int row) {
  if (axis.pass == Pass::kForward) return q - axis.max_shift + row;
  const int plane = row / axis.halo(), step = row % axis.halo();
  // Plane p holds the residue of tap p; taps repeat residues with period stride / gcd.
  return axis.stride * (q + step) + axis.dilation * plane % axis.stride - axis.padding;
}

// Entries of the column tile whose result planes are [first_plane, first_plane + plane_block).
CONVT3D_HOST_DEVICE inline int entry_count(const TileAxis& axis, int first_plane) {
  if (axis.pass == Pass::kGradInput) return axis.kernel;
  int count = 0;
  for (int shift = 0; shift <= axis.max_shift; ++shift) {
    bool used = false;
    for (int p = first_plane; p < first_plane + axis.plane_block && p < axis.result_planes; ++p)
      used = used || axis.tap_of(shift, p) >= 0;
    count += used;
  }
  return count;
}

struct Entry {
  int shift;
  int row;  // operand row that the first position of the tile reads
  int tap;  // grad_input: its tap; forward: -1, see tap_of
};

CONVT3D_HOST_DEVICE inline Entry entry_at(const TileAxis& axis, int first_plane, int entry) {
  if (axis.pass == Pass::kGradInput) {
    const int shift = axis.dilation * entry / axis.stride;
    return {shift, entry % axis.operand_planes * axis.halo() + shift, entry};
  }
  for (int shift = 0; shift <= axis.max_shift; ++shift) {
    bool used = false;
    for (int p = first_plane; p < first_plane + axis.plane_block && p < axis.result_planes; ++p)
      used = used || axis.tap_of(shift, p) >= 0;
    if (used && entry-- == 0) return {shift, axis.max_shift - shift, -1};
  }
  return {-1, -1, -1};
}

// The tap that entry contributes to a result plane, or -1.
CONVT3D_HOST_DEVICE inline int tap_of_entry(const TileAxis& axis, const Entry& entry, int plane) {
  return axis.pass == Pass::kForward ? axis.tap_of(entry.shift, plane) : entry.tap;
}

// `tile` and `plane_block` are left at 1.
inline TileAxis tile_axis(Pass pass, const Axis& axis) {
  TileAxis result{};
  result.pass = pass;
  const TapTable<int64_t> table(axis);
  result.stride = static_cast<int>(axis.stride);
  result.padding = static_cast<int>(axis.padding);
  result.dilation = static_cast<int>(axis.dilation);
  result.kernel = static_cast<int>(axis.kernel);
  result.max_shift = static_cast<int>(table.shift(axis.kernel - 1));
  result.tile = result.plane_block = 1;
  if (pass == Pass::kForward) {
    result.operand_extent = static_cast<int>(axis.input);
    result.result_extent = static_cast<int>(axis.output);
    result.first_position = static_cast<int>(axis.padding / axis.stride);
    const int64_t last = (axis.output - 1 + axis.padding) / axis.stride;
    result.positions = static_cast<int>(last) - result.first_position + 1;
    result.result_planes = static_cast<int>(axis.stride);
    result.operand_planes = 1;
  } else {
    result.operand_extent = static_cast<int>(axis.output);
    result.result_extent = static_cast<int>(axis.input);
    result.first_position = 0;
    result.positions = static_cast<int>(axis.input);
    result.result_planes = 1;
    result.operand_planes =
        static_cast<int>(axis.kernel < table.period ? axis.kernel : table.period);
  }
  return result;
}

}  // namespace convt3d

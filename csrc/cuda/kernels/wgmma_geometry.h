// Index arithmetic of the WGMMA data kernel (wgmma_data.cuh). Host-device, no CUDA headers: the CPU
// tests check it against the definition.
//
// Along each axis, position t and tap k meet where (geometry.h: o = stride * i - padding +
// dilation * k)
//
//   forward     result stride * t + plane     operand t - shift(k),  plane = reach(k) mod stride
//   grad_input  result t                      operand stride * t + reach(k)
//
// with reach(k) = dilation * k - padding and shift(k) = floor(reach(k) / stride). Both are
//
//   result  = result_step * t + plane
//   operand = operand_step * t + origin + offset(k),   0 <= offset(k) < window
#pragma once

#include <cstdint>
#include <optional>

#include "divisor.h"
#include "tile_geometry.h"

namespace convt3d {

constexpr int kMostWindowTaps = 16;
constexpr int kMostWindowPlanes = 8;

struct WindowAxis {
  int result_extent, operand_extent;
  int positions;
  int planes;  // forward: residues of the result; grad_input: 1
  int result_step, operand_step;
  int origin, window;
  // Taps sorted by plane, then by offset: plane p has those at plane_begin[p] up to
  // plane_begin[p + 1].
  int16_t plane_begin[kMostWindowPlanes + 1];
  int16_t tap[kMostWindowTaps];
  int16_t offset[kMostWindowTaps];

  CONVT3D_HOST_DEVICE constexpr int taps() const { return plane_begin[planes]; }
  CONVT3D_HOST_DEVICE int taps_of(int plane) const {
    return plane_begin[plane + 1] - plane_begin[plane];
  }
  // Operand coordinates that a tile of positions reads, and steps they make up.
  CONVT3D_HOST_DEVICE int span(int tile) const { return operand_step * (tile - 1) + window; }
  CONVT3D_HOST_DEVICE int halo(int tile) const {
    return (span(tile) + operand_step - 1) / operand_step;
  }
  // The same where whole axes follow each other, step by step: what lies behind the operand's end,
  // which is zeros, may be what lies in front of the next one's beginning.
  CONVT3D_HOST_DEVICE int shared_halo(int tile) const {
    const int steps = halo(tile), zeros_before = origin < 0 ? -origin / operand_step : 0;
    const int to_end = (operand_extent - origin + operand_step - 1) / operand_step;
    int least = to_end > tile ? to_end : tile;
    if (least < steps - zeros_before) least = steps - zeros_before;
    return least < steps ? least : steps;
  }
};

// Where every plane has one tap and all of these read the same operand position (kernel = stride),
// the axis as products with all of them side by side see it: as one tap of one plane. `tap` still
// has the tap of each plane.
CONVT3D_HOST_DEVICE constexpr bool meets_once(const WindowAxis& axis) {
  return axis.window == 1 && axis.taps() == axis.planes;
}
CONVT3D_HOST_DEVICE constexpr WindowAxis one_tap_axis(WindowAxis axis) {
  axis.planes = axis.plane_begin[1] = 1;
  return axis;
}

// A position of a tile: of which of its samples, and where in (h, w).
struct TilePosition {
  int sample, h, w;
};

CONVT3D_HOST_DEVICE inline bool inside_extent(int coordinate, int extent) {
  return static_cast<unsigned>(coordinate) < static_cast<unsigned>(extent);
}

// Place of a 16-byte unit among rows of `width` units (2, 4 or 8), in units: they are exchanged
// within 128 bytes (the matrix units' swizzle of this width), so that eight neighbouring rows fall
// into different banks.
CONVT3D_HOST_DEVICE inline int swizzled_unit(int row, int unit, int width) {
  const int first = row * width;
  return first + ((unit ^ first >> 3) & (width - 1));
}

// A tile of the operand in one plane of depth ("box"), of one or several samples: a row is one
// (sample, h, w) with `width` 16-byte units of channels. Rows are sorted by residue modulo
// operand_step, so that neighbouring positions read neighbouring rows. Several samples are whole
// images, which share the zeros around them (shared_halo).
struct BoxShape {
  int width;
  int span_h, span_w;  // operand coordinates covered, of one sample
  int lines;           // span_h of all samples
  int line_factor;     // of 2^-16: lines to samples
  int halo_h, halo_w;  // of one residue; halo_w is the distance of neighbouring positions along h
  int sample_rows;     // distance of neighbouring samples
  int filled;          // rows of one pair of residues
  int reached;         // by taps: zeros behind the filled ones
  int area;            // rows of one pair of residues, padded to kBoxAlignment bytes
  int h_residue_rows;  // rows of one residue along h
  int rows;

  CONVT3D_HOST_DEVICE int row_h(const WindowAxis& h, int y) const {
    return y % h.operand_step * h_residue_rows + y / h.operand_step * halo_w;
  }
  CONVT3D_HOST_DEVICE int row_w(const WindowAxis& w, int x) const {
    return x % w.operand_step * area + x / w.operand_step;
  }
  // Where a position stands among all of a box that covers whole images, and the position (or place
  // in the halo) that stands there: a tap's operand is at a constant distance from it.
  CONVT3D_HOST_DEVICE int row_of(const TilePosition& position) const {
    return position.sample * sample_rows + position.h * halo_w + position.w;
  }
  // The divisors are sample_rows and halo_w.
  static CONVT3D_HOST_DEVICE TilePosition position_at(int row, const Divisor& sample_rows,
                                                      const Divisor& halo_w) {
    TilePosition position{};
    position.h = sample_rows.take(row);
    position.sample = row;
    position.w = halo_w.take(position.h);
    return position;
  }
  // Bytes from the first to the next `width` units of channels.
  CONVT3D_HOST_DEVICE int bytes() const { return rows * width * 16; }
};

constexpr int kBoxAlignment = 1024;  // period of the widest swizzle

CONVT3D_HOST_DEVICE inline BoxShape box_shape(const WindowAxis& h, const WindowAxis& w, int tile_h,
                                              int tile_w, int width, int samples) {
  BoxShape box{};
  const int rows_aligned = kBoxAlignment / (16 * width);
  box.width = width;
  const bool shared = samples > 1;
  box.halo_h = shared ? h.shared_halo(tile_h) : h.halo(tile_h);
  box.halo_w = shared ? w.shared_halo(tile_w) : w.halo(tile_w);
  // Shared zeros are read in every residue: also in those that would end before the others.
  box.span_h = shared ? h.operand_step * box.halo_h : h.span(tile_h);
  box.span_w = shared ? w.operand_step * box.halo_w : w.span(tile_w);
  box.lines = samples * box.span_h;
  box.line_factor = ((1 << 16) + box.span_h - 1) / box.span_h;
  box.sample_rows = box.halo_h * box.halo_w;
  box.filled = samples * box.sample_rows;
  const int last = box.row_of({samples - 1, h.halo(tile_h) - 1, w.halo(tile_w) - 1});
  box.reached = last < box.filled ? box.filled : last + 1;
  box.area = (box.reached + rows_aligned - 1) / rows_aligned * rows_aligned;
  box.h_residue_rows = w.operand_step * box.area;
  box.rows = h.operand_step * box.h_residue_rows;
  return box;
}

// The copy engine brings no more at once, and LinesToFill tells the samples of no more.
constexpr int kMostBoxLines = 256;

// What the lines are that warps fill a box by. A box that reaches from end to end of the operand
// along w, or (h, w), needs no zeros but those it begins with, and is filled by the tensor's lines,
// or whole planes, which lie one behind the other in memory.
enum class FillBy { kBoxLines, kTensorLines, kPlanes };

struct LinesToFill {
  int count, of_sample;
  int factor;  // of 2^-16: lines to samples
  int span;    // columns of a line
  int extent;  // of the tensor's lines
  int y, x;    // where the first line begins, from the box's first operand coordinates

  CONVT3D_HOST_DEVICE int sample_of(int line) const { return line * factor >> 16; }
  // From the box's first operand coordinates. The divisor is the operand's extent along w.
  CONVT3D_HOST_DEVICE TilePosition position_at(int line, int column, FillBy by,
                                               const Divisor& operand_w) const {
    const int sample = sample_of(line);
    int line_y = line - sample * of_sample;
    if (by == FillBy::kPlanes) {
      line_y = column;
      column = operand_w.take(line_y);
    }
    return {sample, line_y + y, column + x};
  }
};

inline LinesToFill lines_to_fill(FillBy by, int samples, const WindowAxis& h, const WindowAxis& w,
                                 const BoxShape& box) {
  if (by == FillBy::kPlanes) {
    const int plane = h.operand_extent * w.operand_extent;
    return {samples, 1, 1 << 16, plane, plane, -h.origin, -w.origin};
  }
  LinesToFill lines{box.lines, box.span_h, box.line_factor, box.span_w, w.operand_extent, 0, 0};
  if (by == FillBy::kTensorLines) {
    lines.x = w.origin < 0 ? -w.origin : 0;
    const int to_end = w.operand_extent - w.origin;
    lines.span = (to_end < box.span_w ? to_end : box.span_w) - lines.x;
  }
  return lines;
}

// Positions of a tile are compared with what the tensor has from its first one on, all three
// coordinates at once: each has a field with a spare bit, which stays set in the difference where
// the position is inside. Tiles have at most 768 rows.
constexpr int kMostTileSamples = 64;
constexpr unsigned kSpareBits = 1u << 31 | 1u << 23 | 1u << 11;
constexpr unsigned kNoPosition = ~kSpareBits;
CONVT3D_HOST_DEVICE constexpr unsigned pack_position(const TilePosition& position) {
  return static_cast<unsigned>((position.sample + 1) << 24 | (position.h + 1) << 12 |
                               (position.w + 1));
}
CONVT3D_HOST_DEVICE constexpr unsigned pack_limits(int samples, int h, int w) {
  constexpr int kMost = 1023;
  const auto field = [](int limit) { return limit < 0 ? 0 : limit > kMost ? kMost : limit; };
  return kSpareBits | static_cast<unsigned>(samples << 24 | field(h) << 12 | field(w));
}
CONVT3D_HOST_DEVICE constexpr bool is_inside(unsigned position, unsigned limits) {
  return ((limits - position) & kSpareBits) == kSpareBits;
}

// An entry of the kernel's table of rows: the position of a row, and how far its results lie from
// those of the tile's first one, in elements.
struct alignas(8) TileRow {
  unsigned position;
  int offset;
};

// nullopt: more taps or planes than the kernel's tables hold.
inline std::optional<WindowAxis> window_axis(Pass pass, const Axis& axis) {
  if (axis.kernel > kMostWindowTaps || axis.stride > kMostWindowPlanes) return std::nullopt;
  const TileAxis tile = tile_axis(pass, axis);
  WindowAxis result{};
  result.result_extent = tile.result_extent;
  result.operand_extent = tile.operand_extent;
  result.positions = tile.positions;
  if (pass == Pass::kForward) {
    result.planes = result.result_step = tile.stride;
    result.operand_step = 1;
    result.origin = -tile.max_shift;
    result.window = tile.max_shift - tile.min_shift + 1;
    int at = 0;
    for (int plane = 0; plane < tile.stride; ++plane) {
      for (int tap = tile.kernel - 1; tap >= 0; --tap) {
        if (tile.plane(tap) != plane) continue;
        result.tap[at] = static_cast<int16_t>(tap);
        result.offset[at++] = static_cast<int16_t>(tile.max_shift - tile.shift(tap));
      }
      result.plane_begin[plane + 1] = static_cast<int16_t>(at);
    }
  } else {
    result.planes = result.result_step = 1;
    result.operand_step = tile.stride;
    result.origin = -tile.padding;
    result.window = tile.dilation * (tile.kernel - 1) + 1;
    for (int tap = 0; tap < tile.kernel; ++tap) {
      result.tap[tap] = static_cast<int16_t>(tap);
      result.offset[tap] = static_cast<int16_t>(tile.dilation * tap);
    }
    result.plane_begin[1] = static_cast<int16_t>(tile.kernel);
  }
  return result;
}

}  // namespace convt3d

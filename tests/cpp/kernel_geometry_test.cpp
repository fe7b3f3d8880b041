// The index algebra of the tensor-core kernels (tile_geometry.h, wgmma_geometry.h,
// wgmma_grad_weight_geometry.h, staged_lines_sizes.h) against the definition, exhaustively over
// small axes.
//
// Tap k of input i belongs to output o where o = stride * i - padding + dilation * k. Each header
// lists the triples (result, operand, tap) that its kernel multiplies; inside the tensors they must
// be those of the definition, each once. Exits with 1 and the first few differences, or prints how
// many axes agreed.
#include <algorithm>
#include <array>
#include <cstdio>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include "../../csrc/cuda/kernels/staged_lines_sizes.h"
#include "../../csrc/cuda/kernels/tile_geometry.h"
#include "../../csrc/cuda/kernels/wgmma_geometry.h"
#include "../../csrc/cuda/kernels/wgmma_grad_weight_geometry.h"

using convt3d::Axis;
using convt3d::Pass;

namespace {

using Triple = std::array<int, 3>;  // result, operand, tap

int failures = 0;

void fail(const Axis& a, Pass pass, const char* what) {
  if (++failures > 10) return;
  std::printf("%s, %s: input %d kernel %d stride %d padding %d output %d dilation %d\n", what,
              pass == Pass::kForward ? "forward" : "grad_input", static_cast<int>(a.input),
              static_cast<int>(a.kernel), static_cast<int>(a.stride), static_cast<int>(a.padding),
              static_cast<int>(a.output), static_cast<int>(a.dilation));
}

std::vector<Triple> wanted_triples(const Axis& a, Pass pass) {
  std::vector<Triple> wanted;
  for (int input = 0; input < a.input; ++input)
    for (int tap = 0; tap < a.kernel; ++tap) {
      const int output = static_cast<int>(a.stride * input - a.padding + a.dilation * tap);
      if (output < 0 || output >= a.output) continue;
      if (pass == Pass::kForward)
        wanted.push_back({output, input, tap});
      else
        wanted.push_back({input, output, tap});
    }
  std::sort(wanted.begin(), wanted.end());
  return wanted;
}

void compare(const Axis& a, Pass pass, std::vector<Triple> found, const char* what) {
  const int results = static_cast<int>(pass == Pass::kForward ? a.output : a.input);
  const int operands = static_cast<int>(pass == Pass::kForward ? a.input : a.output);
  std::erase_if(found, [&](const Triple& t) {
    return t[0] < 0 || t[0] >= results || t[1] < 0 || t[1] >= operands;
  });
  std::sort(found.begin(), found.end());
  if (found != wanted_triples(a, pass)) fail(a, pass, what);
}

// tile_geometry.h: every tile, block of planes, entry and plane, through the rows of the tile.
void check_tiles(const Axis& a, Pass pass, int tile, int plane_block) {
  convt3d::TileAxis axis = convt3d::tile_axis(pass, a);
  axis.tile = tile;
  axis.plane_block = std::min(plane_block, axis.planes);
  std::vector<Triple> found;
  std::set<int> results;
  for (int t0 = 0; t0 < axis.tiles() * tile; t0 += tile) {
    for (int first = 0; first < axis.planes; first += axis.plane_block) {
      const int result_planes = pass == Pass::kForward ? axis.plane_block : 1;
      for (int t = 0; t < tile && t0 + t < axis.positions; ++t)
        for (int p = 0; p < result_planes; ++p) {
          const int result =
              result_coordinate(axis, t0 + t, pass == Pass::kForward ? first + p : 0);
          results.insert(result);
          for (int e = 0; e < entry_count(axis, first); ++e) {
            const convt3d::Entry entry = entry_at(axis, first, e);
            const int tap = tap_of_entry(axis, entry, first + p);
            if (tap < 0) continue;
            if (entry.row + t >= axis.operand_rows()) fail(a, pass, "row outside the tile");
            found.push_back({result, operand_coordinate(axis, t0, first, entry.row + t), tap});
          }
        }
    }
  }
  // place_of_tap() finds every (entry, plane) that has a tap.
  for (int tap = 0; tap < axis.kernel; ++tap) {
    const convt3d::TapPlace place = place_of_tap(axis, tap);
    const int first = place.block * axis.plane_block;
    const convt3d::Entry entry = entry_at(axis, first, place.entry);
    if (place.entry >= entry_count(axis, first) || row_of_tap(axis, tap) != entry.row ||
        place.plane >= axis.result_block() || tap_of_entry(axis, entry, first + place.plane) != tap)
      fail(a, pass, "place_of_tap");
  }
  compare(a, pass, found, "tile_geometry.h");
  for (int r = 0; r < axis.result_extent; ++r)
    if (!results.count(r)) fail(a, pass, "tile_geometry.h leaves a result out");
}

// wgmma_geometry.h: windows of boxes along the axis, and rows of a box whose two axes are both
// this.
void check_windows(const Axis& a, Pass pass, int tile, int width) {
  const auto window = convt3d::window_axis(pass, a);
  if (!window) return fail(a, pass, "refused");
  const convt3d::WindowAxis& axis = *window;
  const convt3d::BoxShape box = convt3d::box_shape(axis, axis, tile, tile, width, 1);
  // Every coordinate of the box has its own row.
  std::set<int> rows;
  for (int y = 0; y < box.span_h; ++y)
    for (int x = 0; x < box.span_w; ++x) {
      const int row = box.row_h(axis, y) + box.row_w(axis, x);
      if (row >= box.rows || !rows.insert(row).second) fail(a, pass, "rows of a box collide");
    }
  std::set<int> units;
  for (int unit = 0; unit < width; ++unit)
    for (int row = 0; row < 16; ++row)
      if (!units.insert(convt3d::swizzled_unit(row, unit, box.width)).second)
        fail(a, pass, "units collide");

  std::vector<Triple> found;
  for (int t0 = 0; t0 < axis.positions; t0 += tile)
    for (int t = 0; t < tile && t0 + t < axis.positions; ++t)
      for (int plane = 0; plane < axis.planes; ++plane)
        for (int i = axis.plane_begin[plane]; i < axis.plane_begin[plane + 1]; ++i) {
          const int offset = axis.offset[i];
          if (offset < 0 || offset >= axis.window) fail(a, pass, "offset outside the window");
          // What position t of the tile reads is t rows (or lines) from what position 0 reads.
          const int at = axis.operand_step * t + offset;
          if (box.row_h(axis, at) != box.row_h(axis, offset) + t * box.halo_w ||
              box.row_w(axis, at) != box.row_w(axis, offset) + t)
            fail(a, pass, "neighbouring positions do not read neighbouring rows");
          found.push_back({axis.result_step * (t0 + t) + plane,
                           axis.operand_step * t0 + axis.origin + at, axis.tap[i]});
        }
  compare(a, pass, found, "wgmma_geometry.h");
}

// wgmma_geometry.h: an axis whose planes have one tap each, as one tap of one plane. Whether the
// axis is one.
bool check_one_tap_axis(const Axis& a, Pass pass) {
  const convt3d::WindowAxis axis = *convt3d::window_axis(pass, a);
  if (!meets_once(axis)) return false;
  const convt3d::WindowAxis merged = one_tap_axis(axis);
  if (merged.planes != 1 || merged.taps() != 1) fail(a, pass, "more than one tap or plane");
  std::vector<Triple> found;
  for (int t = 0; t < merged.positions; ++t)
    for (int plane = 0; plane < axis.planes; ++plane)
      found.push_back({merged.result_step * t + plane,
                       merged.operand_step * t + merged.origin + merged.offset[0],
                       merged.tap[plane]});
  compare(a, pass, found, "one_tap_axis");
  return true;
}

// wgmma_geometry.h: whole images of one or several samples in one box. By lines that warps fill it
// by, or by copies of all steps of a residue pair; every tap of every position must find its
// operand, or zeros where that lies outside.
void check_samples(const Axis& a, const Axis& b, Pass pass, int samples,
                   std::optional<convt3d::FillBy> by) {
  using convt3d::FillBy;
  const convt3d::WindowAxis h = *convt3d::window_axis(pass, a);
  const convt3d::WindowAxis w = *convt3d::window_axis(pass, b);
  const convt3d::BoxShape box = convt3d::box_shape(h, w, h.positions, w.positions, 2, samples);
  constexpr int kZero = -1, kUnwritten = -2;
  const auto value_at = [&](int sample, int y, int x) {
    const bool inside = y >= 0 && x >= 0 && y < h.operand_extent && x < w.operand_extent;
    return inside ? (sample * h.operand_extent + y) * w.operand_extent + x : kZero;
  };
  std::vector<int> rows(box.rows, kUnwritten);
  for (int begin = 0; begin < box.rows; begin += box.area)
    std::fill(&rows[begin] + box.filled, &rows[begin] + box.reached, kZero);
  const auto write = [&](const convt3d::TilePosition& at, int value) {
    const int row = at.sample * box.sample_rows + box.row_h(h, at.h) + box.row_w(w, at.w);
    if (row >= box.rows || row % box.area >= box.filled || rows[row] != kUnwritten)
      return fail(a, pass, "rows of samples collide");
    rows[row] = value;
  };
  if (by) {
    const convt3d::LinesToFill lines = convt3d::lines_to_fill(*by, samples, h, w, box);
    const convt3d::Divisor operand_w(w.operand_extent);
    for (int line = 0; line < lines.count; ++line) {
      // As the kernel reads a line, from the first of its sample on.
      const int sample = lines.sample_of(line);
      const int y = h.origin + lines.y + line - sample * lines.of_sample;
      if (sample < 0 || sample >= samples) return fail(a, pass, "a line of no sample");
      for (int column = 0; column < lines.span; ++column) {
        const convt3d::TilePosition at = lines.position_at(line, column, *by, operand_w);
        if (!convt3d::inside_extent(at.h, box.span_h) || !convt3d::inside_extent(at.w, box.span_w))
          continue;
        const int x = w.origin + lines.x + column;
        const bool inside = y >= 0 && y < h.operand_extent && x >= 0 && x < lines.extent;
        write(at, inside ? value_at(sample, 0, 0) + y * w.operand_extent + x : kZero);
      }
    }
    if (*by != FillBy::kBoxLines) std::replace(rows.begin(), rows.end(), kUnwritten, kZero);
  } else {
    for (int sample = 0; sample < samples; ++sample)
      for (int y = 0; y < h.operand_step * box.halo_h; ++y)
        for (int x = 0; x < w.operand_step * box.halo_w; ++x)
          write({sample, y, x}, value_at(sample, h.origin + y, w.origin + x));
  }
  const int taps_w = w.taps();
  for (int sample = 0; sample < samples; ++sample)
    for (int at_h = 0; at_h < h.positions; ++at_h)
      for (int at_w = 0; at_w < w.positions; ++at_w) {
        const int first = box.row_of({sample, at_h, at_w});
        const unsigned packed = convt3d::pack_position({sample, at_h, at_w});
        const auto inside = [&](int samples, int y, int x) {
          return convt3d::is_inside(packed, convt3d::pack_limits(samples, y, x));
        };
        const convt3d::TilePosition position = convt3d::BoxShape::position_at(
            first, convt3d::Divisor(box.sample_rows), convt3d::Divisor(box.halo_w));
        if (position.sample != sample || position.h != at_h || position.w != at_w)
          fail(a, pass, "a position is not found again");
        constexpr int kFar = 1 << 20;
        for (int more_h : {-kFar, 0, 1, kFar})
          for (int more_w : {-kFar, 0, 1, kFar})
            for (int more_samples : {0, 1})
              if (inside(sample + more_samples, at_h + more_h, at_w + more_w) !=
                  (more_samples > 0 && more_h > 0 && more_w > 0))
                fail(a, pass, "a position counts as inside, or not");
        if (convt3d::is_inside(convt3d::kNoPosition,
                               convt3d::pack_limits(convt3d::kMostTileSamples, kFar, kFar)))
          fail(a, pass, "no position counts as inside");
        for (int tap = 0; tap < h.taps() * taps_w; ++tap) {
          const int y = h.offset[tap / taps_w], x = w.offset[tap % taps_w];
          const int row = first + box.row_h(h, y) + box.row_w(w, x);
          if (row >= box.rows || rows[row] != value_at(sample, h.operand_step * at_h + h.origin + y,
                                                       w.operand_step * at_w + w.origin + x))
            return fail(a, pass, "a tap reads another operand");
        }
      }
}

// wgmma_grad_weight_geometry.h: tap tiles cover the taps of two axes once, at even distances.
void check_tap_tiles(const Axis& a, const Axis& b, Pass pass, int merged) {
  const convt3d::WindowAxis h = *convt3d::window_axis(pass, a);
  const convt3d::WindowAxis w = *convt3d::window_axis(pass, b);
  std::set<std::pair<int, int>> found;
  int last_pair = 0;
  for (int index = 0; index < convt3d::tap_tiles(h, w, merged); ++index) {
    const convt3d::TapTile tile = convt3d::tap_tile_at(h, w, merged, index);
    const int pair = tile.plane_h * w.planes + tile.plane_w;
    if (pair < last_pair) fail(a, pass, "pairs of planes out of order");
    last_pair = pair;
    if (tile.count < 1 || tile.count > merged || tile.offset_h != h.offset[tile.place_h] ||
        tile.place_h < h.plane_begin[tile.plane_h] ||
        tile.place_h >= h.plane_begin[tile.plane_h + 1])
      return fail(a, pass, "a tap tile of other taps");
    for (int side = 0; side < tile.count; ++side) {
      const int place = tile.first_w + side;
      if (place < w.plane_begin[tile.plane_w] || place >= w.plane_begin[tile.plane_w + 1] ||
          w.offset[place] != tile.offset_w + side * convt3d::tap_distance(w) ||
          !found.insert({h.tap[tile.place_h], w.tap[place]}).second)
        return fail(a, pass, "taps side by side at other distances, or twice");
    }
  }
  if (static_cast<int64_t>(found.size()) != a.kernel * b.kernel) fail(a, pass, "taps are missing");
}

// The positions of a tap are those with both operands inside.
void check_positions(const Axis& a, Pass pass) {
  const convt3d::WindowAxis axis = *convt3d::window_axis(pass, a);
  std::vector<Triple> found;
  for (int plane = 0; plane < axis.planes; ++plane)
    for (int place = axis.plane_begin[plane]; place < axis.plane_begin[plane + 1]; ++place) {
      const convt3d::PositionRange range = convt3d::positions_of_tap(axis, place);
      for (int t = range.first; t < range.last; ++t) {
        const int still = axis.result_step * t + plane;
        const int moving = axis.operand_step * t + axis.origin + axis.offset[place];
        if (still >= axis.result_extent || moving < 0 || moving >= axis.operand_extent)
          return fail(a, pass, "a position outside a tensor");
        found.push_back({still, moving, axis.tap[place]});
      }
    }
  compare(a, pass, found, "positions of taps");
}

// wgmma_grad_weight_geometry.h: the lines that fill the boxes of some pairs of planes bring each
// row its own position, once.
void check_box_lines(int step_h, int step_w, int samples, int pitch) {
  constexpr int kLines = 3, kPadding = 5, kUnwritten = -1;
  const int area = samples * kLines * pitch + kPadding;
  const convt3d::BoxLines boxes = convt3d::box_lines(step_h, step_w, samples, kLines, pitch, area);
  const auto position = [](int sample, int y, int x) { return (sample * 100 + y) * 10000 + x; };
  const auto differ = [&](const char* what) {
    if (++failures <= 10)
      std::printf("%s: steps %d and %d, %d samples, pitch %d\n", what, step_h, step_w, samples,
                  pitch);
  };
  for (int first = 0; first < step_h * step_w; ++first) {
    for (int last = first; last < step_h * step_w; ++last) {
      std::vector<int> rows(static_cast<size_t>(last - first + 1) * area, kUnwritten);
      for (int index = 0; index < boxes.count(first, last); ++index) {
        const convt3d::BoxLines::Line line = boxes.line_at(first, index);
        for (int column = 0; column < boxes.span(); ++column) {
          const int row = line.row + boxes.rows_to(column);
          if (row < 0 || row >= static_cast<int>(rows.size())) continue;
          if (rows[row] != kUnwritten) return differ("two positions in a row");
          rows[row] = position(line.sample, line.y, column);
        }
      }
      for (int pair = first; pair <= last; ++pair)
        for (int row = 0; row < area; ++row) {
          const int line = row / pitch, column = row % pitch;
          const int wanted = line < samples * kLines
                                 ? position(line / kLines, step_h * (line % kLines) + pair / step_w,
                                            step_w * column + pair % step_w)
                                 : kUnwritten;
          if (rows[(pair - first) * area + row] != wanted) return differ("another position");
        }
    }
  }
}

// Every position and unit of channels of every line is staged in one block of one slot, and copies
// keep to the copy engine's limits: whole 16-byte chunks, at most 256 elements along each
// dimension, a width that its swizzle has.
void check_staged_lines(int lines, int span, int units) {
  const convt3d::LineStaging staging = convt3d::line_staging(lines, span, units);
  const auto complain = [&](const char* what) {
    if (++failures <= 10)
      std::printf("staged lines, %s: %d of %d positions, %d units\n", what, lines, span, units);
  };
  const int channels = 8 * staging.units, chunks = staging.pitch / 16;
  const bool swizzles = chunks == 2 || chunks == 4 || chunks == 8;
  if (chunks < staging.blocks || 8 * chunks > 256 || channels > 256 ||
      (chunks % 2 == 0 && !swizzles) || staging.swizzle() != (swizzles ? staging.pitch : 0) ||
      staging.run_bytes != channels * staging.pitch ||
      staging.slot_runs * staging.run_bytes > staging.slot_bytes() ||
      staging.slot_runs > convt3d::kMostSlotRuns || staging.slot_bytes() > 8192)
    complain("a copy");
  if (staging.units * staging.unit_groups != units) complain("channels");
  std::vector<int> seen(lines * staging.line_runs * staging.blocks, 0);
  const int runs = lines * staging.line_runs;
  for (int slot = 0; slot < staging.group_slots(lines); ++slot) {
    const int first_run = slot * staging.slot_runs;
    for (int block = 0; block < std::min(staging.slot_runs, runs - first_run) * staging.blocks;
         ++block) {
      const int in_slot = staging.run_of(block), run = first_run + in_slot;
      const int line = staging.line_of(run), part = run - line * staging.line_runs;
      const int in_run = block - in_slot * staging.blocks;
      if (line < 0 || line >= lines || part < 0 || part >= staging.line_runs || in_run < 0 ||
          in_run >= staging.blocks)
        return complain("a block's place");
      ++seen[(line * staging.line_runs + part) * staging.blocks + in_run];
    }
  }
  if (staging.line_runs * staging.blocks * convt3d::kLineBlock < span) complain("positions");
  for (int times : seen)
    if (times != 1) return complain("a block not staged once");
}

}  // namespace

int main() {
  int count = 0, patches = 0;
  for (int lines : {1, 2, 3, 7, 16, 33, 256})
    for (int span = 1; span <= 264; ++span)
      for (int units : {1, 2, 3, 4, 5, 6, 8}) check_staged_lines(lines, span, units);
  for (int step_h = 1; step_h <= 8; ++step_h)
    for (int step_w = 1; step_w <= 8; ++step_w)
      for (int samples : {1, 2, 5})
        for (int pitch : {1, 7, 34}) check_box_lines(step_h, step_w, samples, pitch);
  // The longest lines that the copy engine's limits allow.
  for (int step_w = 1; step_w <= 8; ++step_w) check_box_lines(1, step_w, 1, 256);
  // Of stride 1, whose zeros are shared by whole lines: what other axes leave unwritten is read.
  const Axis wide{9, 9, 5, 1, 2, 0, 1};
  for (int64_t stride = 1; stride <= 4; ++stride)
    for (int64_t dilation = 1; dilation <= 3; ++dilation)
      for (int64_t kernel = 1; kernel <= 5; ++kernel)
        for (int64_t padding = 0; padding <= 4; ++padding)
          for (int64_t input = 1; input <= 5; ++input)
            for (int64_t extra = 0; extra < std::max(stride, dilation); ++extra) {
              const int64_t output =
                  (input - 1) * stride - 2 * padding + dilation * (kernel - 1) + extra + 1;
              if (output < 1) continue;
              const Axis axis{input, output, kernel, stride, padding, extra, dilation};
              for (Pass pass : {Pass::kForward, Pass::kGradInput}) {
                for (int tile : {1, 3, 4})
                  for (int planes : {1, 2, 4}) check_tiles(axis, pass, tile, planes);
                for (int tile : {1, 3, 8})
                  for (int width : {2, 4, 8}) check_windows(axis, pass, tile, width);
                for (int samples : {1, 2, 3, 5})
                  for (const Axis& other : {axis, wide}) {
                    check_samples(axis, other, pass, samples, std::nullopt);
                    for (convt3d::FillBy by :
                         {convt3d::FillBy::kBoxLines, convt3d::FillBy::kTensorLines,
                          convt3d::FillBy::kPlanes})
                      check_samples(axis, other, pass, samples, by);
                  }
                for (const Axis& other : {axis, wide})
                  for (int merged = 1; merged <= 4; ++merged)
                    check_tap_tiles(axis, other, pass, merged);
                check_positions(axis, pass);
                patches += stride > 1 && check_one_tap_axis(axis, pass);
              }
              ++count;
            }
  if (patches < 20) {
    ++failures;
    std::printf("only %d axes with kernel = stride\n", patches);
  }
  if (failures) {
    std::printf("%d differences\n", failures);
    return 1;
  }
  std::printf("%d axes agree\n", count);
  return 0;
}

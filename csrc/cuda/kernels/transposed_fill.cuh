// Rows of channels in shared memory from a tensor in which w, not the channel, is fastest.
//
//   memory   channel, line, w      a load takes `kRun` neighbours along w
//   shared   a row per position    its channels side by side, in 16-byte units that are exchanged
//                                  among each other as the matrix units expect it (swizzle)
//
// A thread loads a run of every channel of a few units and transposes them in registers.
// Neighbouring threads take neighbouring units, as many as a run has positions, then neighbouring
// runs: so the eight threads whose 16-byte stores go together meet different banks where a row is
// eight units wide, and loads still take whole sectors.
#pragma once

#include <type_traits>

#include "mma.cuh"
#include "wgmma.cuh"
#include "wgmma_geometry.h"

namespace convt3d {

// Where row and unit stand: `width` units (2, 4 or 8) of each row side by side, blocks of those one
// after the other.
struct SwizzledRows {
  uint32_t base;
  int width, block_bytes;

  __device__ __forceinline__ uint32_t block_of(int unit) const {
    return base + (unit >> (width / 4 + 1)) * block_bytes;
  }
  __device__ __forceinline__ int place(int row, int unit) const {
    return 16 * swizzled_unit(row, unit, width);
  }
};

// What a line of the tensor gives: nothing where it lies outside.
template <typename T>
struct LineSource {
  const T* begin;  // w = 0, first channel
  bool inside;
};

// The part of the tensor that is filled in, and by how many threads.
struct FilledLines {
  int lines;
  int x, span;    // along w: first coordinate, which may lie outside, and how many
  int extent;     // of the tensor along w, a multiple of kRun
  int units;      // to fill, a multiple of 1 << unit_bits
  int channels;   // present in the tensor from the first unit on
  int unit_bits;  // neighbouring threads take 1 << unit_bits units
  int threads;
};

template <typename T, int kRun>
struct Run {
  static constexpr int kBytes = kRun * static_cast<int>(sizeof(T));
  static constexpr int kWords = kBytes < 4 ? 1 : kBytes / 4;
  uint32_t words[kWords];

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int i = 0; i < kWords; ++i) words[i] = 0;
  }
  __device__ __forceinline__ void load(const T* source) {
    if constexpr (kBytes == 2) {
      words[0] = __ldg(reinterpret_cast<const unsigned short*>(source));
    } else if constexpr (kBytes == 4) {
      words[0] = __ldg(reinterpret_cast<const uint32_t*>(source));
    } else if constexpr (kBytes == 8) {
      const uint2 v = __ldg(reinterpret_cast<const uint2*>(source));
      words[0] = v.x, words[1] = v.y;
    } else {
      const uint4 v = __ldg(reinterpret_cast<const uint4*>(source));
      words[0] = v.x, words[1] = v.y, words[2] = v.z, words[3] = v.w;
    }
  }
};

// Channels 2 * pair and 2 * pair + 1 (float32: channel `pair`, rounded to TF32) of position e.
template <typename T, int kRun>
__device__ __forceinline__ uint32_t word_of(const Run<T, kRun>* runs, int pair, int e) {
  if constexpr (sizeof(T) == 4)
    return round_to_tf32(runs[pair].words[e]);
  else
    return __byte_perm(runs[2 * pair].words[e / 2], runs[2 * pair + 1].words[e / 2],
                       e % 2 == 0 ? 0x5410 : 0x7632);
}

// `line_source(line)` gives a LineSource, `row_of(line, column)` the row of column x + `column` or
// a negative number for none. `stride_w` is 1 where kRun > 1. A thread loads `kUnits` units before
// it stores any. Neighbouring threads take 1 << kUnitBits units, where that is not negative.
template <typename T, int kRun, int kUnits, int kUnitBits, typename LineAt, typename RowAt>
__device__ __forceinline__ void fill_transposed(const FilledLines& fill, const SwizzledRows& rows,
                                                int64_t channel_stride, int stride_w, int thread,
                                                const LineAt& line_source, const RowAt& row_of) {
  constexpr int kElements = 16 / static_cast<int>(sizeof(T));
  const int unit_bits = kUnitBits < 0 ? fill.unit_bits : kUnitBits, unit_step = 1 << unit_bits;
  const int before = fill.x & (kRun - 1);  // columns of the first run that are not asked for
  const int runs = (before + fill.span + kRun - 1) / kRun;
  const int slots = fill.threads >> unit_bits, slot = thread >> unit_bits;
  const int line_step = slots / runs, column_step = kRun * (slots % runs);
#pragma unroll 1
  for (int unit = thread & (unit_step - 1); unit < fill.units; unit += kUnits * unit_step) {
    const int channels = fill.channels - unit * kElements;
    int line = slot / runs, column = kRun * (slot % runs) - before;
#pragma unroll 1
    while (line < fill.lines) {
      const int x = fill.x + column;
      const LineSource<T> from = line_source(line);
      const bool inside =
          from.inside && static_cast<unsigned>(x) < static_cast<unsigned>(fill.extent);
      Run<T, kRun> values[kUnits][kElements];
      const T* source =
          from.begin + (inside ? x * stride_w : 0) + unit * kElements * channel_stride;
#pragma unroll
      for (int k = 0; k < kUnits; ++k) {
#pragma unroll
        for (int j = 0; j < kElements; ++j) {
          if (inside && k * unit_step * kElements + j < channels)
            values[k][j].load(source);
          else
            values[k][j].clear();
          source += channel_stride;
          forget_origin(source);  // else all addresses are computed first
        }
        if (kUnits > 1) source += (unit_step - 1) * kElements * channel_stride;
      }
#pragma unroll
      for (int e = 0; e < kRun; ++e) {
        if (static_cast<unsigned>(column + e) >= static_cast<unsigned>(fill.span)) continue;
        const int row = row_of(line, column + e);
        if (row < 0) continue;
#pragma unroll
        for (int k = 0; k < kUnits; ++k) {
          const int at = unit + k * unit_step;
          if (k > 0 && at >= fill.units) break;
          const Run<T, kRun>* v = values[k];
          store_shared(rows.block_of(at) + rows.place(row, at),
                       {word_of(v, 0, e), word_of(v, 1, e), word_of(v, 2, e), word_of(v, 3, e)});
        }
      }
      line += line_step;
      column += column_step;
      if (column >= fill.span) {
        column -= kRun * runs;
        ++line;
      }
    }
  }
}

}  // namespace convt3d

// What grad_input and grad_weight share: the part of grad_output that a tile of positions meets, in
// shared memory, from where operands are gathered in the order of (output channel, tap).
#pragma once

#include "im2col_fragments.cuh"

namespace convt3d {

// A line of it: of one channel, or of all where channels go faster than w.
struct GatheredLine {
  const void* source;  // at w = 0, first channel
  int to;              // first element of the line in the tile
  int inside;
};
static_assert(sizeof(GatheredLine) == kGatheredLineBytes);

// Where the lines of a tile come from; a barrier must follow.
template <typename T>
__device__ void write_gathered_lines(const Im2colArguments& args, const Im2colItem& item,
                                     GatheredLine* lines) {
  const Im2colPlan& plan = args.plan;
  const GatheredTile tile = gathered_tile(plan);
  const int channels = args.output_channels_last ? 1 : args.out_channels;
  const T* const source =
      static_cast<const T*>(args.output.data) + item.n * args.output.stride[0] +
      static_cast<int64_t>(blockIdx.y) * args.out_channels * args.output.stride[1];
  for (int line = threadIdx.x; line < channels * plan.kernel[0] * tile.lines;
       line += kIm2colThreads) {
    int channel = line;
    const int y = args.lines.take(channel), tap_d = args.kernel_d.take(channel);
    const int out_d = plan.stride[0] * item.d - plan.padding[0] + plan.dilation[0] * tap_d;
    const int out_h = plan.stride[1] * item.h - plan.padding[1] + y;
    lines[line] = {source + channel * args.output.stride[1] + out_d * args.output.stride[2] +
                       out_h * args.output.stride[3],
                   (channel * plan.kernel[0] + tap_d) * tile.plane + y * tile.pitch,
                   out_d >= 0 && out_d < plan.axes[0].result_extent && out_h >= 0 &&
                       out_h < plan.axes[1].result_extent};
  }
}

// Copies them, two pieces of 32 elements of a line by a warp at a time; zeros where there is
// nothing. kLines: lines of a thread under way, at the same places of them: what it finds out about
// these serves them all.
template <int kLines, typename T>
__device__ void fill_gathered_tile(const Im2colArguments& args, const Im2colItem& item,
                                   const GatheredLine* lines, T* shared) {
  using Bits = BitsOf<T>;
  constexpr int kPieces = 2;
  const Im2colPlan& plan = args.plan;
  const GatheredTile tile = gathered_tile(plan);
  const int first_w = plan.stride[2] * item.w - plan.padding[2];
  const int line_channels = args.output_channels_last ? args.out_channels : 1;
  const int elements = line_channels * tile.pitch;
  const int all_lines = args.out_channels / line_channels * plan.kernel[0] * tile.lines;
  const int warp = threadIdx.x / 32;
  for (int first = 0; first < elements; first += 32 * kPieces) {
    bool exists[kPieces], inside[kPieces];
    int from[kPieces], to[kPieces];
#pragma unroll
    for (int piece = 0; piece < kPieces; ++piece) {
      int x = first + 32 * piece + threadIdx.x % 32;
      exists[piece] = x < elements;
      const int channel = line_channels > 1 ? args.out_channel.take(x) : 0;
      // take() leaves the position along w.
      const int out_w = first_w + x;
      inside[piece] = exists[piece] && out_w >= 0 && out_w < plan.axes[2].result_extent;
      // Within a line 32 bits suffice: the plan has seen to it.
      from[piece] = channel * static_cast<int>(args.output.stride[1]) +
                    out_w * static_cast<int>(args.output.stride[4]);
      to[piece] = channel * (plan.kernel[0] * tile.plane) + x;
    }
    for (int begin = warp; begin < all_lines; begin += kLines * kIm2colWarps) {
      Bits bits[kLines][kPieces];
      int at[kLines];
#pragma unroll
      for (int i = 0; i < kLines; ++i) {
        const int index = begin + i * kIm2colWarps;
        const GatheredLine line = lines[min(index, all_lines - 1)];
        at[i] = index < all_lines ? line.to : -1;
#pragma unroll
        for (int piece = 0; piece < kPieces; ++piece) {
          bits[i][piece] = 0;
          if (inside[piece] && line.inside)
            bits[i][piece] = __ldg(static_cast<const Bits*>(line.source) + from[piece]);
        }
      }
#pragma unroll
      for (int i = 0; i < kLines; ++i)
#pragma unroll
        for (int piece = 0; piece < kPieces; ++piece)
          if (at[i] >= 0 && exists[piece])
            reinterpret_cast<Bits*>(shared)[at[i] + to[piece]] = bits[i][piece];
    }
  }
}

// Offsets of the columns in the tile; `none` behind the last one.
template <int kTiles>
__device__ void write_column_offsets(const Im2colArguments& args, int* offsets, int none) {
  const GatheredTile tile = gathered_tile(args.plan);
  for (int column = threadIdx.x; column < kTiles * 8; column += kIm2colThreads)
    offsets[column] = column < args.sizes.columns ? column_offset(args.plan, tile, column) : none;
}

// A thread's four neighbouring positions of a tile.
struct PositionQuad {
  int h, w;       // in the tensor
  int positions;  // that are there, of four
  int offset;     // of the first in the gathered tile

  __device__ __forceinline__ PositionQuad(const Im2colArguments& args, const Im2colItem& item,
                                          int index) {
    int row = index;
    const int x = args.quads_w.take(row) * 4;
    h = item.h + row;
    w = item.w + x;
    positions = row < args.plan.tile_h && h < args.plan.axes[1].operand_extent
                    ? min(4, args.plan.axes[2].operand_extent - w)
                    : 0;
    offset = positions > 0 ? position_offset(args.plan, gathered_tile(args.plan), row, x) : 0;
  }
};

}  // namespace convt3d

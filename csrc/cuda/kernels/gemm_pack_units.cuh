// The weights of gemm_pack.cuh, piece by piece (weight_piece.cuh):
//
//   weight -> shared   in the order of the tensor's memory, to the line and plane of each tap
//   shared -> packed   line by line, neighbouring threads to neighbouring columns
//
// A line is an entry of some block of planes along each axis: lines of all blocks are the product
// of the three axes' lines.
#pragma once

#include "gemm_pack_tables.cuh"
#include "weight_piece.cuh"

namespace convt3d {

constexpr int kMostPieceLines = 512;
constexpr int kNoSlot = -(1 << 28);  // stays negative in a sum of three

// A piece: lines of all taps, or a box of them x result channels of one tile x units.
struct GemmPieces {
  PieceShape shape;
  Divisor kernel_h, kernel_w;
  Divisor channel_parts;  // of a channel tile
  Divisor unit_parts;     // of all units
  Divisor channel_tiles, chunk_units;
  int lines[3];  // of a piece, per axis
  Divisor lines_h, lines_w;
  Divisor line_parts[3];
  int planes;  // of a column tile
  bool holes;  // some plane has no tap at some line
  int blocks;

  CONVT3D_HOST_DEVICE int all_lines() const { return lines[0] * lines[1] * lines[2]; }
  // Units from one (line, plane) to the next: odd, so that neighbouring taps fall into different
  // banks.
  CONVT3D_HOST_DEVICE int pitch() const { return shape.channels | 1; }
  CONVT3D_HOST_DEVICE int staged_units() const {
    return shape.units * all_lines() * planes * pitch();
  }
};

template <typename T>
GemmPieces gemm_pieces(const GemmDataArguments& args, const GemmLines& lines) {
  const TileAxis(&axes)[3] = args.plan.axes;
  const int tile_channels = args.plan.channels_per_tile;
  GemmPieces pieces{};
  PieceShape& shape = pieces.shape;
  pieces.planes = 1;
  for (int a = 0; a < 3; ++a) {
    pieces.lines[a] = lines.begin[a][lines.blocks[a]];
    pieces.planes *= axes[a].result_block();
    pieces.holes = pieces.holes || pieces.lines[a] * axes[a].result_block() != axes[a].kernel;
  }
  // Where operand channels are neighbours, two units fill a sector of memory.
  shape.units = args.weight_operand_stride < args.weight.stride[4] ? 2 : 1;
  const int unit_parts = (args.sizes.units + shape.units - 1) / shape.units;
  const auto fits = [&] {
    return pieces.staged_units() <= kPieceUnits &&
           shape.units * pieces.all_lines() <= kMostPieceLines;
  };
  shape.channels = std::min(tile_channels, kMostPieceChannels);
  const auto count_blocks = [&] {
    const int parts = (tile_channels + shape.channels - 1) / shape.channels;
    pieces.channel_parts = Divisor(parts);
    pieces.blocks = args.groups * args.sizes.channel_tiles * parts * unit_parts;
  };
  count_blocks();
  while (shape.channels > kLeastPieceChannels && (pieces.blocks < kEnoughBlocks || !fits())) {
    shape.channels = ((shape.channels + 1) / 2 + 7) / 8 * 8;
    count_blocks();
  }
  while (!fits()) {
    int& most = *std::max_element(pieces.lines, pieces.lines + 3);
    most = (most + 1) / 2;
  }
  for (int a = 0; a < 3; ++a) {
    const int all = lines.begin[a][lines.blocks[a]];
    const int parts = (all + pieces.lines[a] - 1) / pieces.lines[a];
    pieces.line_parts[a] = Divisor(parts);
    pieces.blocks *= parts;
  }
  pieces.unit_parts = Divisor(unit_parts);
  pieces.channel_tiles = Divisor(args.sizes.channel_tiles);
  pieces.chunk_units = Divisor(args.plan.chunk_units);
  pieces.lines_h = Divisor(pieces.lines[1]);
  pieces.lines_w = Divisor(pieces.lines[2]);
  pieces.kernel_h = Divisor(axes[1].kernel);
  pieces.kernel_w = Divisor(axes[2].kernel);
  const int kernel[3] = {axes[0].kernel, axes[1].kernel, axes[2].kernel};
  shape = PieceShape(args.weight, args.weight_operand_stride, args.weight_result_stride,
                     args.weight_group_stride, kernel, kUnitElements<T>,
                     kernel[0] * kernel[1] * kernel[2], shape.channels, shape.units);
  return pieces;
}

// What a piece begins with.
struct PieceOrigin {
  int group, channel_tile;
  int first_channel;  // in the tile
  int first_unit;
  int first_line[3];

  __device__ PieceOrigin(const GemmDataArguments& args, const GemmPieces& pieces, int block) {
    first_channel = pieces.channel_parts.take(block) * pieces.shape.channels;
    first_unit = pieces.unit_parts.take(block) * pieces.shape.units;
    channel_tile = pieces.channel_tiles.take(block);
#pragma unroll
    for (int a = 0; a < 3; ++a) first_line[a] = pieces.line_parts[a].take(block) * pieces.lines[a];
    group = block;
  }

  // Where the packed weights have column 0 of a line's unit, in 16-byte units; -1: no such line.
  __device__ int64_t destination(const GemmDataArguments& args, const GemmLines& lines,
                                 const GemmPieces& pieces, int line, int unit) const {
    const GemmDataSizes& sizes = args.sizes;
    int local[3];
    local[2] = pieces.lines_w.take(line);
    local[1] = pieces.lines_h.take(line);
    local[0] = line;
    int block = 0, entry = 0;
    bool exists = unit < sizes.units;
#pragma unroll
    for (int a = 0; a < 3; ++a) {
      const short* begin = lines.begin[a];
      const int at = first_line[a] + local[a];
      exists = exists && at < begin[lines.blocks[a]];
      int of_axis = 0;
#pragma unroll 1
      while (of_axis + 1 < lines.blocks[a] && begin[of_axis + 1] <= at) ++of_axis;
      block = block * lines.blocks[a] + of_axis;
      entry = entry * (begin[of_axis + 1] - begin[of_axis]) + at - begin[of_axis];
    }
    if (!exists) return -1;
    const int channel_chunk = pieces.chunk_units.quotient(unit);
    const int chunk_unit = channel_chunk * args.plan.chunk_units;
    const int place =
        entry * min(args.plan.chunk_units, sizes.units - chunk_unit) + unit - chunk_unit;
    const bool forward = args.plan.axes[0].pass == Pass::kForward;
    const int blocks = lines.blocks[0] * lines.blocks[1] * lines.blocks[2];
    const int tile = forward ? channel_tile * blocks + block : channel_tile;
    const int chunk = forward ? channel_chunk : block * sizes.channel_chunks + channel_chunk;
    const int64_t packed_tile =
        (static_cast<int64_t>(group) * sizes.column_tiles + tile) * sizes.chunks + chunk;
    return (packed_tile * sizes.steps + place / 2) * (args.step_bytes / kUnitBytes) +
           kHeaderBytes / kUnitBytes + place % 2 * sizes.column_width;
  }
};

// What a tap of an axis, `place` in GemmLines, adds to its slot, a (line, plane) of the piece;
// kNoSlot: another piece's.
__device__ inline int slot_of_tap(const GemmDataArguments& args, const GemmPieces& pieces,
                                  const int (&first_line)[3], int axis, int place) {
  const TileAxis(&axes)[3] = args.plan.axes;
  const int first = axis == 0 ? first_line[0] : axis == 1 ? first_line[1] : first_line[2];
  const int line = (place & ((1 << kLineBits) - 1)) - first;
  if (line < 0 || line >= pieces.lines[axis]) return kNoSlot;
  int line_step = pieces.planes, plane_step = 1;
#pragma unroll 1
  for (int a = 2; a > axis; --a) {
    line_step *= pieces.lines[a];
    plane_step *= axes[a].result_block();
  }
  return line * line_step + (place >> kLineBits) * plane_step;
}

// A float32 value as the sum of two TF32 values.
__device__ __forceinline__ void split_tf32(const uint4& unit, uint4& high, uint4& low) {
  const auto split = [](uint32_t value, uint32_t& high, uint32_t& low) {
    high = round_to_tf32(value);
    low = round_to_tf32(__float_as_uint(__uint_as_float(value) - __uint_as_float(high)));
  };
  split(unit.x, high.x, low.x);
  split(unit.y, high.y, low.y);
  split(unit.z, high.z, low.z);
  split(unit.w, high.w, low.w);
}

struct PieceTables {
  int64_t destinations[kMostPieceLines];
  int slots[kMostAxisTaps];
};

template <typename T>
__device__ void write_units(const GemmDataArguments& args, const GemmLines& lines,
                            const GemmPieces& pieces, int block, uint4* staged,
                            PieceTables& tables) {
  const TileAxis(&axes)[3] = args.plan.axes;
  const PieceShape& shape = pieces.shape;
  const PieceOrigin origin(args, pieces, block);
  const int thread = threadIdx.x;
  const int all_lines = pieces.all_lines(), pitch = pieces.pitch();
  const int kernel_d = axes[0].kernel, kernel_dh = kernel_d + axes[1].kernel;

#pragma unroll 1
  for (int i = thread; i < kernel_dh + axes[2].kernel; i += kPieceThreads) {
    const int axis = (i >= kernel_d) + (i >= kernel_dh);
    tables.slots[i] = slot_of_tap(args, pieces, origin.first_line, axis, lines.taps[i]);
  }
  // The last threads: the first ones are busy with taps.
#pragma unroll 1
  for (int i = kPieceThreads - 1 - thread; i < all_lines * shape.units; i += kPieceThreads) {
    const int unit = i >= all_lines;  // a piece has one or two
    tables.destinations[i] =
        origin.destination(args, lines, pieces, i - unit * all_lines, origin.first_unit + unit);
  }
  if (pieces.holes) {
    for (int i = thread; i < pieces.staged_units(); i += kPieceThreads)
      staged[i] = uint4{0, 0, 0, 0};
  }
  __syncthreads();

  const int64_t unit_stride = kUnitElements<T> * args.weight_operand_stride;
  const int tile_channel = origin.channel_tile * args.plan.channels_per_tile;
  const int first_channel = tile_channel + origin.first_channel;
  const T* weight = static_cast<const T*>(args.weight.data) +
                    origin.group * args.weight_group_stride +
                    first_channel * args.weight_result_stride + origin.first_unit * unit_stride;
  const int channels =
      min(args.result_channels, tile_channel + args.plan.channels_per_tile) - first_channel;
  const int operand_channels = args.operand_channels - origin.first_unit * kUnitElements<T>;
#pragma unroll 2
  for (int i = thread; i < shape.size(); i += kPieceThreads) {
    const PiecePlace at = shape.at(i);
    int tap_d = at.tap;
    const int tap_w = pieces.kernel_w.take(tap_d), tap_h = pieces.kernel_h.take(tap_d);
    const int slot =
        tables.slots[tap_d] + tables.slots[kernel_d + tap_h] + tables.slots[kernel_dh + tap_w];
    if (slot < 0) continue;
    const T* source = weight + tap_d * args.weight.stride[2] + tap_h * args.weight.stride[3] +
                      tap_w * args.weight.stride[4] + at.channel * args.weight_result_stride +
                      at.unit * unit_stride;
    const int present = at.channel < channels ? operand_channels - at.unit * kUnitElements<T> : 0;
    staged[(at.unit * all_lines * pieces.planes + slot) * pitch + at.channel] =
        read_unit(source, args.weight_operand_stride, present, shape.vectors);
  }
  __syncthreads();

  // Each thread stays in its column. The first channels' piece has the columns of padding too.
  const int tile_columns = pieces.planes * args.plan.channels_per_tile;
  const int own = pieces.planes * shape.channels;
  const int columns =
      own + (origin.first_channel == 0 ? args.sizes.column_width - tile_columns : 0);
  const int rows = kPieceThreads / columns, row = thread / columns;
  const int index = thread % columns;
  const int plane = index / shape.channels, channel = index % shape.channels;
  const bool padding = index >= own;
  if (row >= rows) return;
  if (!padding && origin.first_channel + channel >= args.plan.channels_per_tile) return;
  const int column = padding ? tile_columns + index - own
                             : plane * args.plan.channels_per_tile + origin.first_channel + channel;
  const int line_pitch = pieces.planes * pitch;
  const uint4* source = staged + plane * pitch + channel;
  uint4* const packed = reinterpret_cast<uint4*>(args.packed) + column;
#pragma unroll 4
  for (int line = row; line < all_lines * shape.units; line += rows) {
    const int64_t destination = tables.destinations[line];
    if (destination < 0) continue;
    const uint4 unit = padding ? uint4{0, 0, 0, 0} : source[line * line_pitch];
    if constexpr (kWeightParts<T> == 2) {
      uint4 high, low;
      split_tf32(unit, high, low);
      packed[destination] = high;
      packed[destination + 2 * args.sizes.column_width] = low;
    } else {
      packed[destination] = unit;
    }
  }
}

}  // namespace convt3d

// What the implicit matrix product (gemm_data.cuh) finds prepared besides weights: tables that
// spare its blocks all divisions, and the headers of k-steps.
#pragma once

#include <algorithm>

#include "gemm_data.h"
#include "mma.cuh"
#include "scalar.cuh"

namespace convt3d {

// Copies of the packed weights per k-step: float32 carries a high and a low TF32 half.
template <typename T>
constexpr int kWeightParts = sizeof(T) == 4 ? 2 : 1;
template <typename T>
constexpr int kUnitElements = kUnitBytes / static_cast<int>(sizeof(T));

struct GemmDataTables {
  ColumnTile* columns;   // column_tiles
  Chunk* chunks;         // chunks
  RowPlace* rows;        // operand_rows
  ResultPlace* results;  // places
  int* stages;           // column_tiles x chunks: stages of k-steps
  int* positions;        // block_rows: operand row that a position reads at row offset 0
};

struct GemmDataArguments {
  GemmDataPlan plan;
  GemmDataSizes sizes;
  int batch, groups;
  int tiles[3];                           // of positions, per axis
  int operand_channels, result_channels;  // per group
  int step_bytes;                         // of one packed k-step
  int pack_headers, pack_tails;           // threads that pack_weights needs for each
  int staging_pitch;
  TensorPointer operand, weight, result;
  int64_t weight_group_stride, weight_operand_stride, weight_result_stride;
  VectorPointer bias;
  char* packed;
  GemmDataTables tables;
  bool allow_tf32;  // float32: one TF32 product for one, not three
  bool result_channels_last;
  bool result_in_vectors;  // channels of a position start on 16-byte boundaries
};

// Leading fields of a packed k-step.
struct StepHeader {
  int offset[2];  // bytes from a row of the operand tile to the two units of this step
  int groups;     // bit g: column group g has a tap here
  int unused;
};

// Splits the fastest coordinate off a flat index.
__device__ __forceinline__ int take(int& flat, int extent) {
  const int coordinate = flat % extent;
  flat /= extent;
  return coordinate;
}

// Blocks of one channel slice go fastest over the column tiles: a line's parts leave together.
__device__ inline ColumnTile column_tile(const GemmDataPlan& plan, int index) {
  ColumnTile tile{};
  if (plan.axes[0].pass == Pass::kForward) {
#pragma unroll 1
    for (int a = 2; a >= 0; --a)
      tile.plane[a] = take(index, plan.axes[a].plane_blocks()) * plan.axes[a].plane_block;
  }
  tile.channel = index * plan.channels_per_tile;
  return tile;
}

// Channels go fastest over the chunks.
__device__ inline Chunk chunk_at(const GemmDataArguments& args, int index) {
  const GemmDataPlan& plan = args.plan;
  Chunk chunk{};
  chunk.first_unit = take(index, args.sizes.channel_chunks) * plan.chunk_units;
  chunk.units = min(plan.chunk_units, args.sizes.units - chunk.first_unit);
  if (plan.axes[0].pass == Pass::kGradInput) {
#pragma unroll 1
    for (int a = 2; a >= 0; --a)
      chunk.plane[a] = take(index, plan.axes[a].plane_blocks()) * plan.axes[a].plane_block;
  }
#pragma unroll 1
  for (int a = 0; a < 3; ++a)
    chunk.offset[a] = operand_coordinate(plan.axes[a], 0, chunk.plane[a], 0) -
                      operand_coordinate(plan.axes[a], 0, 0, 0);
  return chunk;
}

// Most taps of the three axes together: fits_data_kernels() allows 1024 along one, 65536 in all.
constexpr int kMostAxisTaps = 1024 + 64 + 1;

// The entries of each axis, block of planes by block, make up its lines. The host lists them: which
// shifts have taps takes long to find out.
struct GemmLines {
  short begin[3][kMostPlaneBlocks + 1];  // entries of the blocks before
  int blocks[3];
  // Per tap, of one axis after the other: its line, and from kLineBits on its plane in the block.
  uint16_t taps[kMostAxisTaps];
};
constexpr int kLineBits = 10;  // six are left, as kMostPlaneBlocks needs

inline GemmLines gemm_lines(const GemmDataPlan& plan) {
  GemmLines lines{};
  uint16_t* tap = lines.taps;
  for (int a = 0; a < 3; ++a) {
    const TileAxis& axis = plan.axes[a];
    lines.blocks[a] = axis.plane_blocks();
    for (int b = 0; b < lines.blocks[a]; ++b)
      lines.begin[a][b + 1] =
          static_cast<short>(lines.begin[a][b] + entry_count(axis, b * axis.plane_block));
    for (int t = 0; t < axis.kernel; ++t) {
      const TapPlace place = place_of_tap(axis, t);
      *tap++ = static_cast<uint16_t>(lines.begin[a][place.block] + place.entry | place.plane
                                                                                     << kLineBits);
    }
  }
  return lines;
}

// The plane block that a column tile and a chunk meet in: its first lines, its entries, and the
// chunk's units.
struct Block {
  int begin[3];
  int entries[3];
  int units;

  __device__ Block(const GemmDataArguments& args, const GemmLines& lines, int tile, int chunk) {
    const int channel_chunk = take(chunk, args.sizes.channel_chunks);
    units = min(args.plan.chunk_units, args.sizes.units - channel_chunk * args.plan.chunk_units);
    int block = args.plan.axes[0].pass == Pass::kForward ? tile : chunk;
#pragma unroll 1
    for (int a = 2; a >= 0; --a) {
      const int of_axis = take(block, lines.blocks[a]);
      begin[a] = lines.begin[a][of_axis];
      entries[a] = lines.begin[a][of_axis + 1] - begin[a];
    }
  }
  __device__ int all_units() const { return entries[0] * entries[1] * entries[2] * units; }
};

__device__ inline void write_stages(const GemmDataArguments& args, const GemmLines& lines,
                                    int index) {
  const int chunk = index % args.sizes.chunks, tile = index / args.sizes.chunks;
  args.tables.stages[index] =
      (Block(args, lines, tile, chunk).all_units() + 2 * kStageSteps - 1) / (2 * kStageSteps);
  if (tile == 0) args.tables.chunks[chunk] = chunk_at(args, chunk);
  if (chunk == 0) args.tables.columns[tile] = column_tile(args.plan, tile);
}

__device__ inline void write_row(const GemmDataArguments& args, int index) {
  const TileAxis(&axes)[3] = args.plan.axes;
  // Planes go faster than steps: that is the order of coordinates.
  int rest = index;
  int row = 0, row_stride = 1;
  int at[3];
#pragma unroll
  for (int a = 2; a >= 0; --a) {
    const int local = a == 0 ? rest : take(rest, axes[a].operand_rows());
    const int block = axes[a].operand_block();
    const int axis_row = local % block * axes[a].halo() + local / block;
    row += axis_row * row_stride;
    row_stride *= axes[a].operand_rows();
    at[a] = operand_coordinate(axes[a], 0, 0, axis_row) - operand_coordinate(axes[a], 0, 0, 0);
  }
  const int64_t offset = at[0] * args.operand.stride[2] + at[1] * args.operand.stride[3] +
                         at[2] * args.operand.stride[4];
  args.tables.rows[index] = {static_cast<int>(offset), at[0] * 65536 + (at[1] & 0xffff), at[2],
                             row};
}

__device__ inline void write_place(const GemmDataArguments& args, int index) {
  const TileAxis &d = args.plan.axes[0], &h = args.plan.axes[1], &w = args.plan.axes[2];
  int rest = index;
  const int plane_w = take(rest, w.result_block()), t_w = take(rest, w.tile);
  const int plane_h = take(rest, h.result_block()), t_h = take(rest, h.tile);
  const int plane_d = take(rest, d.result_block()), t_d = rest;
  const int r_d = result_coordinate(d, t_d, plane_d) - result_coordinate(d, 0, 0);
  const int r_h = result_coordinate(h, t_h, plane_h) - result_coordinate(h, 0, 0);
  const int r_w = result_coordinate(w, t_w, plane_w) - result_coordinate(w, 0, 0);
  const int row = (t_d * h.tile + t_h) * w.tile + t_w;
  const int column = ((plane_d * h.result_block() + plane_h) * w.result_block() + plane_w) *
                     args.plan.channels_per_tile;
  args.tables.results[index] = {
      static_cast<int>(r_d * args.result.stride[2] + r_h * args.result.stride[3] +
                       r_w * args.result.stride[4]),
      args.result_channels_last ? row * args.staging_pitch + column
                                : column * args.staging_pitch + row,
      r_d << 16 | r_h, r_w};
}

__device__ inline void write_position(const GemmDataArguments& args, int index) {
  const TileAxis &d = args.plan.axes[0], &h = args.plan.axes[1], &w = args.plan.axes[2];
  int rest = index;
  const int t_w = take(rest, w.tile), t_h = take(rest, h.tile);
  // Rows beyond the tile read row 0 and are never stored.
  args.tables.positions[index] =
      rest < d.tile ? (rest * h.operand_rows() + t_h) * w.operand_rows() + t_w : 0;
}

// What a header takes from a line of an axis.
struct HeaderLine {
  unsigned long long planes;  // bit p: plane p of the block has a tap here
  int row;                    // Entry::row
};

// The lines of the axes, from line 0 of each: its axis' lines start where the taps before end.
__device__ inline void find_header_lines(const GemmDataArguments& args, const GemmLines& lines,
                                         HeaderLine* found) {
  const TileAxis(&axes)[3] = args.plan.axes;
  const int kernel_d = axes[0].kernel, kernel_dh = kernel_d + axes[1].kernel;
  const int taps = kernel_dh + axes[2].kernel;
  for (int i = threadIdx.x; i < taps; i += blockDim.x) found[i] = {};
  __syncthreads();
  for (int i = threadIdx.x; i < taps; i += blockDim.x) {
    const int axis = (i >= kernel_d) + (i >= kernel_dh);
    const int first = axis == 0 ? 0 : axis == 1 ? kernel_d : kernel_dh;
    HeaderLine& line = found[first + (lines.taps[i] & ((1 << kLineBits) - 1))];
    line.row = row_of_tap(axes[axis], i - first);  // the same for all taps of a line
    atomicOr(&line.planes, 1ull << (lines.taps[i] >> kLineBits));
  }
  __syncthreads();
}

// The header of a k-step: where its two units lie in the operand tile, and which column groups
// have a tap for either.
__device__ inline void write_header(const GemmDataArguments& args, const GemmLines& lines,
                                    const HeaderLine* found, int index) {
  const GemmDataPlan& plan = args.plan;
  const TileAxis &d = plan.axes[0], &h = plan.axes[1], &w = plan.axes[2];
  StepHeader* header =
      reinterpret_cast<StepHeader*>(args.packed + static_cast<int64_t>(index) * args.step_bytes);
  const int step = take(index, args.sizes.steps);
  const int chunk = take(index, args.sizes.chunks);
  const Block block(args, lines, take(index, args.sizes.column_tiles), chunk);
  StepHeader result{};
#pragma unroll 1
  for (int half = 0; half < 2; ++half) {
    int rest = 2 * step + half;
    if (rest >= block.all_units()) {
      // Weights of zero: any operand will do that the result depends on anyway, so that what is not
      // finite elsewhere stays there.
      result.offset[half] = result.offset[0];
      continue;
    }
    const int unit = take(rest, block.units);
    const int entry_w = take(rest, block.entries[2]), entry_h = take(rest, block.entries[1]);
    const HeaderLine in_d = found[block.begin[0] + rest];
    const HeaderLine in_h = found[d.kernel + block.begin[1] + entry_h];
    const HeaderLine in_w = found[d.kernel + h.kernel + block.begin[2] + entry_w];
    const int row = (in_d.row * h.operand_rows() + in_h.row) * w.operand_rows() + in_w.row;
    result.offset[half] = row * args.sizes.row_pitch + unit * kUnitBytes;
    int column = 0;
#pragma unroll 1
    for (int plane_d = 0; plane_d < d.result_block(); ++plane_d) {
#pragma unroll 1
      for (int plane_h = 0; plane_h < h.result_block(); ++plane_h) {
#pragma unroll 1
        for (int plane_w = 0; plane_w < w.result_block(); ++plane_w) {
          const int next = column + plan.channels_per_tile;
          if ((in_d.planes >> plane_d & in_h.planes >> plane_h & in_w.planes >> plane_w & 1) != 0)
            result.groups |= (2 << (next - 1) / 16) - (1 << column / 16);
          column = next;
        }
      }
    }
  }
  *header = result;
}

// Clears the units that fill up a tile's last stage.
template <typename T>
__device__ void write_tail(const GemmDataArguments& args, const GemmLines& lines, int index) {
  const int column = take(index, args.sizes.column_width);
  const int chunk_index = take(index, args.sizes.chunks);
  const int tile_index = take(index, args.sizes.column_tiles);
  const int units = Block(args, lines, tile_index, chunk_index).all_units();
  constexpr int kStageUnits = 2 * kStageSteps;
  const int end = (units + kStageUnits - 1) / kStageUnits * kStageUnits;
  const int64_t packed_tile =
      (static_cast<int64_t>(index) * args.sizes.column_tiles + tile_index) * args.sizes.chunks +
      chunk_index;
  char* packed = args.packed + packed_tile * args.sizes.steps * args.step_bytes + kHeaderBytes;
#pragma unroll 1
  for (int unit = units; unit < end; ++unit) {
    char* destination = packed + static_cast<int64_t>(unit / 2) * args.step_bytes;
    for (int part = 0; part < kWeightParts<T>; ++part)
      *reinterpret_cast<uint4*>(
          destination + ((part * 2 + unit % 2) * args.sizes.column_width + column) * kUnitBytes) =
          uint4{0, 0, 0, 0};
  }
}

}  // namespace convt3d

// What the implicit matrix product (gemm_data.cuh) finds prepared: weights in the order of
// consumption, and tables that spare its blocks all divisions. One small kernel per call.
#pragma once

#include <algorithm>

#include "gemm_data.h"
#include "mma.cuh"
#include "scalar.cuh"

namespace convt3d {

constexpr int kGemmWarps = 4;
constexpr int kUnitBytes = 16;
constexpr int kStages = 3;
constexpr int kStageSteps = 4;  // k-steps per stage
constexpr int kHeaderBytes = 16;

// Copies of the packed weights per k-step: float32 carries a high and a low TF32 half.
template <typename T>
constexpr int kWeightParts = sizeof(T) == 4 ? 2 : 1;
template <typename T>
constexpr int kUnitElements = kUnitBytes / static_cast<int>(sizeof(T));

struct ColumnTile {
  int plane[3];  // forward: its block's first planes
  int channel;   // first result channel in the group
};
struct Chunk {
  int plane[3];    // grad_input: its block's first planes
  int first_unit;  // of the operand's channels in the group
  int units;
  int offset[3];  // coordinates of its row 0 from those of chunk 0
};
struct RowPlace {  // an operand row; listed in the order of the operand's coordinates
  int offset;      // in the operand tensor from row 0 of the tile, elements
  int dh;          // coordinates from row 0: d * 65536 + h, h as 16 bits
  int w;
  int row;  // in the tile
};
struct ResultPlace {  // a (position, plane) of the tile, planes of w fastest
  int offset;         // in the result tensor from position 0 and plane 0, elements
  int staging;        // in the staging buffer, elements
  int dh;             // d * 65536 + h
  int w;
};
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
  int tiles[3];                              // of positions, per axis
  int operand_channels, result_channels;     // per group
  int step_bytes;                            // of one packed k-step
  int depth_entries;                         // most of a column tile
  int pack_units, pack_headers, pack_tails;  // threads that pack_weights needs for each
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

// The plane block that a column tile and a chunk meet in, and its entries.
struct Block {
  int plane[3];
  int entries[3];

  __device__ Block(const GemmDataPlan& plan, const ColumnTile& tile, const Chunk& chunk) {
    const bool forward = plan.axes[0].pass == Pass::kForward;
#pragma unroll 1
    for (int a = 0; a < 3; ++a) {
      plane[a] = forward ? tile.plane[a] : chunk.plane[a];
      entries[a] = entry_count(plan.axes[a], plane[a]);
    }
  }
  __device__ int all_entries() const { return entries[0] * entries[1] * entries[2]; }
};

__device__ inline void write_tables(const GemmDataArguments& args, int index) {
  const TileAxis &d = args.plan.axes[0], &h = args.plan.axes[1], &w = args.plan.axes[2];
  if (index < args.sizes.column_tiles) args.tables.columns[index] = column_tile(args.plan, index);
  if (index < args.sizes.chunks) args.tables.chunks[index] = chunk_at(args, index);
  if (index < args.sizes.column_tiles * args.sizes.chunks) {
    const Chunk chunk = chunk_at(args, index % args.sizes.chunks);
    const Block block(args.plan, column_tile(args.plan, index / args.sizes.chunks), chunk);
    args.tables.stages[index] =
        (block.all_entries() * chunk.units + 2 * kStageSteps - 1) / (2 * kStageSteps);
  }
  if (index < args.sizes.operand_rows) {
    int rest = index;
    int row = 0;
    int at[3];
    // Planes go faster than steps: that is the order of coordinates.
    const TileAxis(&axes)[3] = args.plan.axes;
    int local[3];
    local[2] = take(rest, w.operand_rows());
    local[1] = take(rest, h.operand_rows());
    local[0] = rest;
#pragma unroll 1
    for (int a = 0; a < 3; ++a) {
      const int block = axes[a].operand_block();
      const int axis_row = local[a] % block * axes[a].halo() + local[a] / block;
      row = row * axes[a].operand_rows() + axis_row;
      at[a] = operand_coordinate(axes[a], 0, 0, axis_row) - operand_coordinate(axes[a], 0, 0, 0);
    }
    const int64_t offset = at[0] * args.operand.stride[2] + at[1] * args.operand.stride[3] +
                           at[2] * args.operand.stride[4];
    args.tables.rows[index] = {static_cast<int>(offset), at[0] * 65536 + (at[1] & 0xffff), at[2],
                               row};
  }
  if (index < args.sizes.places) {
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
  if (index < args.sizes.block_rows) {
    int rest = index;
    const int t_w = take(rest, w.tile), t_h = take(rest, h.tile);
    // Rows beyond the tile read row 0 and are never stored.
    args.tables.positions[index] =
        rest < d.tile ? (rest * h.operand_rows() + t_h) * w.operand_rows() + t_w : 0;
  }
}

// The header of a k-step: where its two units lie in the operand tile, and which column groups
// have a tap for either.
__device__ inline void write_header(const GemmDataArguments& args, int index) {
  const GemmDataPlan& plan = args.plan;
  StepHeader* header =
      reinterpret_cast<StepHeader*>(args.packed + static_cast<int64_t>(index) * args.step_bytes);
  const int step = take(index, args.sizes.steps);
  const Chunk chunk = chunk_at(args, take(index, args.sizes.chunks));
  const ColumnTile tile = column_tile(plan, take(index, args.sizes.column_tiles));
  const Block block(plan, tile, chunk);
  StepHeader result{};
#pragma unroll 1
  for (int half = 0; half < 2; ++half) {
    int rest = 2 * step + half;
    if (rest >= block.all_entries() * chunk.units) {
      // Weights of zero: any operand will do that the result depends on anyway, so that what is not
      // finite elsewhere stays there.
      result.offset[half] = result.offset[0];
      continue;
    }
    const int unit = take(rest, chunk.units);
    Entry entry[3];
    int row = 0, row_stride = 1;
#pragma unroll 1
    for (int a = 2; a >= 0; --a) {
      entry[a] = entry_at(plan.axes[a], block.plane[a], take(rest, block.entries[a]));
      row += entry[a].row * row_stride;
      row_stride *= plan.axes[a].operand_rows();
    }
    result.offset[half] = row * args.sizes.row_pitch + unit * kUnitBytes;
    const int planes =
        plan.axes[0].result_block() * plan.axes[1].result_block() * plan.axes[2].result_block();
    for (int p = 0; p < planes; ++p) {
      int plane = p;
      bool present = true;
#pragma unroll 1
      for (int a = 2; a >= 0; --a) {
        const int result_plane = tile.plane[a] + take(plane, plan.axes[a].result_block());
        present = present && tap_of_entry(plan.axes[a], entry[a], result_plane) >= 0;
      }
      if (!present) continue;
      const int first = p * plan.channels_per_tile / 16;
      const int last = ((p + 1) * plan.channels_per_tile - 1) / 16;
      for (int g = first; g <= last; ++g) result.groups |= 1 << g;
    }
  }
  *header = result;
}

// The units (8 or 4 operand channels) that one column has at one depth entry of one plane block.
// Neighbouring threads take neighbouring columns; a thread walks over the entries of height and
// width, whose weights lie next to each other.
template <typename T>
__device__ void write_units(const GemmDataArguments& args, int index) {
  const GemmDataPlan& plan = args.plan;
  const int column = take(index, args.sizes.column_width);
  const int all_unit = take(index, args.sizes.units);
  const int depth_entry = take(index, args.depth_entries);
  const int plane_chunk = take(index, args.sizes.chunks / args.sizes.channel_chunks);
  const int tile_index = take(index, args.sizes.column_tiles);
  const int group = index;
  const ColumnTile tile = column_tile(plan, tile_index);
  const int chunk_index = plane_chunk * args.sizes.channel_chunks + all_unit / plan.chunk_units;
  const Chunk chunk = chunk_at(args, chunk_index);
  const Block block(plan, tile, chunk);
  if (depth_entry >= block.entries[0]) return;

  int plane = column / plan.channels_per_tile;
  const int plane_w = tile.plane[2] + take(plane, plan.axes[2].result_block());
  const int plane_h = tile.plane[1] + take(plane, plan.axes[1].result_block());
  const int plane_d = tile.plane[0] + take(plane, plan.axes[0].result_block());
  const int channel = tile.channel + column % plan.channels_per_tile;
  const Entry entry_d = entry_at(plan.axes[0], block.plane[0], depth_entry);
  const int tap_d = tap_of_entry(plan.axes[0], entry_d, plane_d);
  const bool column_exists = plane == 0 && channel < args.result_channels && tap_d >= 0;

  const int first_channel = all_unit * kUnitElements<T>;
  const T* weight = static_cast<const T*>(args.weight.data) + group * args.weight_group_stride +
                    channel * args.weight_result_stride +
                    first_channel * args.weight_operand_stride + tap_d * args.weight.stride[2];
  const int64_t packed_tile =
      (static_cast<int64_t>(group) * args.sizes.column_tiles + tile_index) * args.sizes.chunks +
      chunk_index;
  char* packed = args.packed + packed_tile * args.sizes.steps * args.step_bytes + kHeaderBytes;

  for (int h = 0; h < block.entries[1]; ++h) {
    const int tap_h =
        tap_of_entry(plan.axes[1], entry_at(plan.axes[1], block.plane[1], h), plane_h);
    for (int w = 0; w < block.entries[2]; ++w) {
      const int tap_w =
          tap_of_entry(plan.axes[2], entry_at(plan.axes[2], block.plane[2], w), plane_w);
      const bool present = column_exists && tap_h >= 0 && tap_w >= 0;
      const T* source = weight + tap_h * args.weight.stride[3] + tap_w * args.weight.stride[4];
      alignas(16) T values[kWeightParts<T>][kUnitElements<T>];
#pragma unroll
      for (int j = 0; j < kUnitElements<T>; ++j) {
        T value = Convert<T>::from(0.f);
        if (present && first_channel + j < args.operand_channels)
          value = source[j * args.weight_operand_stride];
        if constexpr (sizeof(T) == 4) {
          const float high = __uint_as_float(round_to_tf32(__float_as_uint(value)));
          values[0][j] = high;
          values[1][j] = __uint_as_float(round_to_tf32(__float_as_uint(value - high)));
        } else {
          values[0][j] = value;
        }
      }
      const int place =
          ((depth_entry * block.entries[1] + h) * block.entries[2] + w) * chunk.units + all_unit -
          chunk.first_unit;
      char* destination = packed + static_cast<int64_t>(place / 2) * args.step_bytes;
#pragma unroll
      for (int part = 0; part < kWeightParts<T>; ++part)
        *reinterpret_cast<uint4*>(destination +
                                  ((part * 2 + place % 2) * args.sizes.column_width + column) *
                                      kUnitBytes) = *reinterpret_cast<const uint4*>(values[part]);
    }
  }
}

// Blocks of kPackThreads: first those that write units, then the rest.
// Axis loops stay rolled: this kernel runs once through its code, and fetching instructions is
// what it waits for.
constexpr int kPackThreads = 128;

// Clears the units that fill up a tile's last stage.
template <typename T>
__device__ void write_tail(const GemmDataArguments& args, int index) {
  const int column = take(index, args.sizes.column_width);
  const int chunk_index = take(index, args.sizes.chunks);
  const int tile_index = take(index, args.sizes.column_tiles);
  const Chunk chunk = chunk_at(args, chunk_index);
  const int units =
      Block(args.plan, column_tile(args.plan, tile_index), chunk).all_entries() * chunk.units;
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

template <typename T>
__global__ void __launch_bounds__(kPackThreads)
    pack_weights(const __grid_constant__ GemmDataArguments args) {
  int index = static_cast<int>(blockIdx.x) * kPackThreads + static_cast<int>(threadIdx.x);
  if (index < args.pack_units) {
    write_units<T>(args, index);
    return;
  }
  index -= args.pack_units;
  if (index < args.pack_headers) write_header(args, index);
  if (index < args.pack_tails) write_tail<T>(args, index);
  write_tables(args, index);
}

template <typename T>
cudaError_t launch_pack_weights(const GemmDataArguments& args, cudaStream_t stream) {
  const int others =
      std::max({args.pack_headers, args.pack_tails, args.sizes.column_tiles * args.sizes.chunks,
                args.sizes.operand_rows, args.sizes.places, args.sizes.block_rows});
  const int blocks = (args.pack_units + others + kPackThreads - 1) / kPackThreads;
  pack_weights<T><<<blocks, kPackThreads, 0, stream>>>(args);
  return cudaGetLastError();
}

}  // namespace convt3d

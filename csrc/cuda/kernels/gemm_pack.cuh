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
  int plane[3];  // the tile's result planes are [plane[a], plane[a] + plane_block)
  int channel;   // first result channel in the group
  int entries;   // distinct operand positions that its taps read
  int unused[3];
};
struct RowPlace {  // an operand row, relative to row 0 of the tile
  int offset;      // in the operand tensor, elements
  int d, h, w;     // coordinates
};
struct ResultPlace {  // a (position, plane) of the tile, planes of w fastest
  int offset;         // in the result tensor from position 0 and plane 0, elements
  int staging;        // in the staging buffer, elements
  int dh;             // d * 65536 + h
  int w;
};
struct GemmDataTables {
  ColumnTile* columns;   // column_tiles
  RowPlace* rows;        // operand_rows
  ResultPlace* results;  // places
  int* positions;        // block_rows: operand row that a position reads at row offset 0
};

struct GemmDataArguments {
  GemmDataPlan plan;
  GemmDataSizes sizes;
  int batch, groups;
  int tiles[3];                           // of positions, per axis
  int operand_channels, result_channels;  // per group
  int step_bytes;                         // of one packed k-step
  int steps;                              // packed k-steps in all
  int staging_pitch;
  TensorPointer operand, weight, result;
  int64_t weight_group_stride, weight_operand_stride, weight_result_stride;
  VectorPointer bias;
  char* packed;
  GemmDataTables tables;
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

// Planes of one channel slice go fastest over the column tiles: a line's parts leave together.
__device__ inline ColumnTile column_tile(const GemmDataPlan& plan, int index) {
  ColumnTile tile{};
  tile.entries = 1;
#pragma unroll
  for (int a = 2; a >= 0; --a) {
    tile.plane[a] = take(index, plan.axes[a].plane_blocks()) * plan.axes[a].plane_block;
    tile.entries *= entry_count(plan.axes[a], tile.plane[a]);
  }
  tile.channel = index * plan.channels_per_tile;
  return tile;
}

__device__ inline void write_tables(const GemmDataArguments& args, int index) {
  const TileAxis &d = args.plan.axes[0], &h = args.plan.axes[1], &w = args.plan.axes[2];
  if (index < args.sizes.column_tiles) args.tables.columns[index] = column_tile(args.plan, index);
  if (index < args.sizes.operand_rows) {
    int rest = index;
    const int row_w = take(rest, w.operand_rows()), row_h = take(rest, h.operand_rows());
    RowPlace row;
    row.d = operand_coordinate(d, 0, rest) - operand_coordinate(d, 0, 0);
    row.h = operand_coordinate(h, 0, row_h) - operand_coordinate(h, 0, 0);
    row.w = operand_coordinate(w, 0, row_w) - operand_coordinate(w, 0, 0);
    row.offset = static_cast<int>(row.d * args.operand.stride[2] + row.h * args.operand.stride[3] +
                                  row.w * args.operand.stride[4]);
    args.tables.rows[index] = row;
  }
  if (index < args.sizes.places) {
    int rest = index;
    const int plane_w = take(rest, w.plane_block), t_w = take(rest, w.tile);
    const int plane_h = take(rest, h.plane_block), t_h = take(rest, h.tile);
    const int plane_d = take(rest, d.plane_block), t_d = rest;
    const int r_d = result_coordinate(d, t_d, plane_d) - result_coordinate(d, 0, 0);
    const int r_h = result_coordinate(h, t_h, plane_h) - result_coordinate(h, 0, 0);
    const int r_w = result_coordinate(w, t_w, plane_w) - result_coordinate(w, 0, 0);
    const int row = (t_d * h.tile + t_h) * w.tile + t_w;
    const int column = ((plane_d * h.plane_block + plane_h) * w.plane_block + plane_w) *
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

// One block per k-step, two threads per column: each writes one unit (8 or 4 operand channels).
// The blocks after those write the tables.
template <typename T>
__global__ void pack_weights(const __grid_constant__ GemmDataArguments args) {
  const GemmDataPlan& plan = args.plan;
  const int block = static_cast<int>(blockIdx.x);
  if (block >= args.steps) {
    write_tables(args, (block - args.steps) * static_cast<int>(blockDim.x) + threadIdx.x);
    return;
  }
  int flat = block;
  const int step = take(flat, args.sizes.steps);
  const int chunk = take(flat, args.sizes.chunks);
  const ColumnTile tile = column_tile(plan, take(flat, args.sizes.column_tiles));
  const int group = flat;
  const int column = threadIdx.x % args.sizes.column_width;
  const int half = threadIdx.x / args.sizes.column_width;
  char* destination = args.packed + static_cast<int64_t>(block) * args.step_bytes;

  // The entry and the channels of this thread's unit.
  const int first_unit = chunk * plan.chunk_units;
  const int units = min(plan.chunk_units, args.sizes.units - first_unit);
  int rest = 2 * step + half;
  const bool exists = rest < tile.entries * units;
  const int unit = take(rest, units);
  Entry entry[3];
  int row = 0, row_stride = 1;
#pragma unroll
  for (int a = 2; a >= 0; --a) {
    const int count = entry_count(plan.axes[a], tile.plane[a]);
    // A residue without taps has no entries, and then `exists` is false.
    entry[a] = entry_at(plan.axes[a], tile.plane[a], count > 0 ? take(rest, count) : 0);
    row += entry[a].row * row_stride;
    row_stride *= plan.axes[a].operand_rows();
  }

  // The tap of this thread's column, if it has one.
  int plane = column / plan.channels_per_tile;
  bool present = exists;
  int64_t weight_offset = 0;
#pragma unroll
  for (int a = 2; a >= 0; --a) {
    const int result_plane = tile.plane[a] + take(plane, plan.axes[a].plane_block);
    const int tap = exists ? tap_of_entry(plan.axes[a], entry[a], result_plane) : -1;
    present = present && tap >= 0;
    weight_offset += tap * args.weight.stride[2 + a];
  }
  const int channel = tile.channel + column % plan.channels_per_tile;
  present = present && plane == 0 && channel < args.result_channels;

  __shared__ int groups;
  if (threadIdx.x == 0) groups = 0;
  __syncthreads();
  if (present) atomicOr(&groups, 1 << column / 16);
  __syncthreads();
  StepHeader* header = reinterpret_cast<StepHeader*>(destination);
  if (column == 0)
    header->offset[half] = exists ? row * args.sizes.row_pitch + unit * kUnitBytes : 0;
  if (threadIdx.x == 0) header->groups = groups;

  const T* source = static_cast<const T*>(args.weight.data) + group * args.weight_group_stride +
                    channel * args.weight_result_stride + weight_offset;
  const int first_channel = (first_unit + unit) * kUnitElements<T>;
  alignas(16) T values[kWeightParts<T>][kUnitElements<T>];
#pragma unroll
  for (int j = 0; j < kUnitElements<T>; ++j) {
    const int operand_channel = first_channel + j;
    T value = Convert<T>::from(0.f);
    if (present && operand_channel < args.operand_channels)
      value = source[operand_channel * args.weight_operand_stride];
    if constexpr (sizeof(T) == 4) {
      const float high = __uint_as_float(round_to_tf32(__float_as_uint(value)));
      values[0][j] = high;
      values[1][j] = __uint_as_float(round_to_tf32(__float_as_uint(value - high)));
    } else {
      values[0][j] = value;
    }
  }
#pragma unroll
  for (int part = 0; part < kWeightParts<T>; ++part) {
    const int place = (part * 2 + half) * args.sizes.column_width + column;
    *reinterpret_cast<uint4*>(destination + kHeaderBytes + place * kUnitBytes) =
        *reinterpret_cast<const uint4*>(values[part]);
  }
}

template <typename T>
cudaError_t launch_pack_weights(const GemmDataArguments& args, cudaStream_t stream) {
  const int threads = 2 * args.sizes.column_width;
  const int longest = std::max(
      {args.sizes.column_tiles, args.sizes.operand_rows, args.sizes.places, args.sizes.block_rows});
  pack_weights<T><<<args.steps + (longest + threads - 1) / threads, threads, 0, stream>>>(args);
  return cudaGetLastError();
}

}  // namespace convt3d

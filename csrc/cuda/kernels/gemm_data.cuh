// Forward and grad_input as one implicit matrix product (mma.sync):
//
//   rows     a tile of positions q (4 warps x kRowFragments x 16)
//   columns  result planes x result channels, in tiles of kColumnGroups x 16
//   depth    entries (shifts or taps) x operand channels, in k-steps of two 16-byte units
//
//   operand tile ("halo")  global -> shared once per channel chunk, one row per position with its
//                          channels side by side: an entry is an offset to other rows, and every
//                          entry reads the same tile. Row pitch is an odd number of units, so that
//                          eight neighbouring rows fall into different banks.
//   weights                packed by pack_weights into the order of consumption and streamed
//                          through a ring of stages; each k-step carries its operand offsets and a
//                          mask of column groups that have a tap at all.
//   result                 accumulators -> shared -> global in runs along the fastest dimension.
//
// No split over the depth: each result is one fixed sequence of sums, the same in every run and
// whatever the rest of the batch is.
#pragma once

#include <algorithm>
#include <limits>

#include "gemm_data.h"
#include "mma.cuh"
#include "scalar.cuh"

namespace convt3d {

constexpr int kGemmWarps = 4;
constexpr int kGemmThreads = 32 * kGemmWarps;
constexpr int kUnitBytes = 16;
constexpr int kStages = 3;
constexpr int kStageSteps = 4;  // k-steps per stage
constexpr int kHeaderBytes = 16;

// Copies of the packed weights per k-step: float32 carries a high and a low TF32 half.
template <typename T>
constexpr int kWeightParts = sizeof(T) == 4 ? 2 : 1;
template <typename T>
constexpr int kUnitElements = kUnitBytes / static_cast<int>(sizeof(T));

struct GemmDataArguments {
  GemmDataPlan plan;
  GemmDataSizes sizes;
  int batch, groups;
  int operand_channels, result_channels;  // per group
  int step_bytes;                         // of one packed k-step
  TensorPointer operand, weight, result;
  int64_t weight_group_stride, weight_operand_stride, weight_result_stride;
  VectorPointer bias;
  const char* packed;
  bool result_channels_last;
  bool result_in_vectors;              // channels of a position start on 16-byte boundaries
  short entries[3][kMostPlaneBlocks];  // entry_count of each plane block
};

// Leading fields of a packed k-step.
struct StepHeader {
  int offset[2];  // bytes from a row of the operand tile to the two units of this step
  int groups;     // bit g: column group g has a tap here
  int unused;
};

// A column tile's place: result planes [plane[a], plane[a] + plane_block) and channels from
// `channel` on. Planes of one tile go fastest over tiles, so that a line's parts leave together.
struct ColumnTile {
  int plane[3];
  int channel;
};

__host__ __device__ inline ColumnTile column_tile(const GemmDataPlan& plan, int index) {
  ColumnTile tile;
  for (int a = 2; a >= 0; --a) {
    const int blocks = plan.axes[a].plane_blocks();
    tile.plane[a] = index % blocks * plan.axes[a].plane_block;
    index /= blocks;
  }
  tile.channel = index * plan.channels_per_tile;
  return tile;
}

// ---- Packing ---------------------------------------------------------------------------------
// One block per k-step, two threads per column: each writes one unit (8 or 4 operand channels).
template <typename T>
__global__ void pack_weights(const __grid_constant__ GemmDataArguments args, char* packed) {
  const GemmDataPlan& plan = args.plan;
  int flat = blockIdx.x;
  const int step = flat % args.sizes.steps;
  flat /= args.sizes.steps;
  const int chunk = flat % args.sizes.chunks;
  flat /= args.sizes.chunks;
  const int tile_index = flat % args.sizes.column_tiles;
  const int group = flat / args.sizes.column_tiles;
  const ColumnTile tile = column_tile(plan, tile_index);

  const int count_w = entry_count(plan.axes[2], tile.plane[2]);
  const int count_h = entry_count(plan.axes[1], tile.plane[1]);
  const int count_d = entry_count(plan.axes[0], tile.plane[0]);
  const int first_unit = chunk * plan.chunk_units;
  const int units = min(plan.chunk_units, args.sizes.units - first_unit);
  const int all_units = count_d * count_h * count_w * units;

  char* destination = packed + static_cast<int64_t>(blockIdx.x) * args.step_bytes;
  const int column = threadIdx.x % args.sizes.column_width;
  const int half = threadIdx.x / args.sizes.column_width;

  // Both halves' entries: the header needs them, each thread packs its own.
  Entry entry[2][3];
  bool valid[2];
  int offset[2], unit_of[2];
  for (int i = 0; i < 2; ++i) {
    int unit = 2 * step + i;
    valid[i] = unit < all_units;
    unit_of[i] = unit % units;
    int rest = unit / units;
    offset[i] = 0;
    if (!valid[i]) continue;
    const int index[3] = {rest / count_w / count_h, rest / count_w % count_h, rest % count_w};
    int row = 0;
    for (int a = 0; a < 3; ++a) {
      entry[i][a] = entry_at(plan.axes[a], tile.plane[a], index[a]);
      row = row * plan.axes[a].operand_rows() + entry[i][a].row;
    }
    offset[i] = row * args.sizes.row_pitch + unit_of[i] * kUnitBytes;
  }

  const int planes_h = plan.axes[1].plane_block, planes_w = plan.axes[2].plane_block;
  const int planes = plan.axes[0].plane_block * planes_h * planes_w;
  // The flat tap of half i for plane p of the tile, or -1.
  const auto tap_offset = [&](int i, int p, int64_t& weight_offset) {
    if (!valid[i] || p >= planes) return false;
    const int local[3] = {p / planes_w / planes_h, p / planes_w % planes_h, p % planes_w};
    weight_offset = 0;
    for (int a = 0; a < 3; ++a) {
      const int plane = tile.plane[a] + local[a];
      if (plane >= plan.axes[a].result_planes) return false;
      const int tap = tap_of_entry(plan.axes[a], entry[i][a], plane);
      if (tap < 0) return false;
      weight_offset += tap * args.weight.stride[2 + a];
    }
    return true;
  };

  if (threadIdx.x == 0) {
    int mask = 0;
    int64_t ignored;
    for (int p = 0; p < planes; ++p) {
      if (!tap_offset(0, p, ignored) && !tap_offset(1, p, ignored)) continue;
      const int first = p * plan.channels_per_tile / 16;
      const int last = ((p + 1) * plan.channels_per_tile - 1) / 16;
      for (int g = first; g <= last; ++g) mask |= 1 << g;
    }
    *reinterpret_cast<StepHeader*>(destination) = {{offset[0], offset[1]}, mask, 0};
  }

  const int plane = column / plan.channels_per_tile;
  const int channel = tile.channel + column % plan.channels_per_tile;
  int64_t weight_offset = 0;
  const bool present = channel < args.result_channels && tap_offset(half, plane, weight_offset);
  const T* source = static_cast<const T*>(args.weight.data) + group * args.weight_group_stride +
                    channel * args.weight_result_stride + weight_offset;
  const int first_channel = (first_unit + unit_of[half]) * kUnitElements<T>;
  alignas(16) T values[kWeightParts<T>][kUnitElements<T>];
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
  for (int part = 0; part < kWeightParts<T>; ++part) {
    const int place = (part * 2 + half) * args.sizes.column_width + column;
    *reinterpret_cast<uint4*>(destination + kHeaderBytes + place * kUnitBytes) =
        *reinterpret_cast<const uint4*>(values[part]);
  }
}

// ---- Filling the operand tile ----------------------------------------------------------------
// Offsets of the tile's rows from its first row's position (which may lie outside the tensor);
// kOutside where a row has no position in the operand. Written once per block.
constexpr int kOutside = std::numeric_limits<int>::min();

__device__ inline void tabulate_rows(const GemmDataArguments& args, const int (&q)[3],
                                     int* row_offsets) {
  const TileAxis &d = args.plan.axes[0], &h = args.plan.axes[1], &w = args.plan.axes[2];
  const int rows_h = h.operand_rows(), rows_w = w.operand_rows();
  for (int row = threadIdx.x; row < args.sizes.operand_rows; row += kGemmThreads) {
    const int at_w = row % rows_w, rest = row / rows_w;
    const int at_h = rest % rows_h, at_d = rest / rows_h;
    const int x_d = operand_coordinate(d, q[0], at_d), x_h = operand_coordinate(h, q[1], at_h),
              x_w = operand_coordinate(w, q[2], at_w);
    const bool inside = x_d >= 0 && x_d < d.operand_extent && x_h >= 0 && x_h < h.operand_extent &&
                        x_w >= 0 && x_w < w.operand_extent;
    const int64_t offset = (x_d - operand_coordinate(d, q[0], 0)) * args.operand.stride[2] +
                           (x_h - operand_coordinate(h, q[1], 0)) * args.operand.stride[3] +
                           (x_w - operand_coordinate(w, q[2], 0)) * args.operand.stride[4];
    row_offsets[row] = inside ? static_cast<int>(offset) : kOutside;
  }
}

template <typename T>
__device__ void fill_operand(const GemmDataArguments& args, const int (&q)[3], int n, int group,
                             int chunk, const int* row_offsets, char* tile) {
  const GemmDataPlan& plan = args.plan;
  const int rows = args.sizes.operand_rows, pitch = args.sizes.row_pitch;
  const int first_unit = chunk * plan.chunk_units;
  const int units = min(plan.chunk_units, args.sizes.units - first_unit);
  const int first_channel = first_unit * kUnitElements<T>;
  const T* operand = static_cast<const T*>(args.operand.data) + n * args.operand.stride[0] +
                     (static_cast<int64_t>(group) * args.operand_channels + first_channel) *
                         args.operand.stride[1];
#pragma unroll
  for (int a = 0; a < 3; ++a)
    operand += operand_coordinate(plan.axes[a], q[a], 0) * args.operand.stride[2 + a];

  if (plan.asynchronous_fill) {
    // Neighbouring threads take neighbouring units of a row, then the next row.
    const int lanes = min(units, kGemmThreads);
    const int rows_at_once = kGemmThreads / lanes;
    const int first_row = threadIdx.x / lanes;
    if (first_row >= rows_at_once) return;
    for (int unit = threadIdx.x % lanes; unit < units; unit += lanes) {
      const T* source = operand + unit * kUnitElements<T>;
      const uint32_t destination = shared_address(tile) + unit * kUnitBytes;
#pragma unroll 4
      for (int row = first_row; row < rows; row += rows_at_once) {
        const int offset = row_offsets[row];
        const bool inside = offset != kOutside;
        copy_async_16(destination + row * pitch, inside ? source + offset : args.operand.data,
                      inside);
      }
    }
  } else {
    // Neighbouring threads take neighbouring rows: along w, the fastest dimension of a contiguous
    // tensor. Several units are loaded before the first is stored.
    constexpr int kUnroll = 4;
    const int channels = args.operand_channels - first_channel;
    const int64_t stride = args.operand.stride[1];
    for (int row = threadIdx.x; row < rows; row += kGemmThreads) {
      const int offset = row_offsets[row];
      const bool inside = offset != kOutside;
      const T* source = operand + (inside ? offset : 0);
      char* destination = tile + row * pitch;
      for (int unit = 0; unit < units; unit += kUnroll) {
        alignas(16) T values[kUnroll][kUnitElements<T>];
#pragma unroll
        for (int i = 0; i < kUnroll; ++i) {
#pragma unroll
          for (int j = 0; j < kUnitElements<T>; ++j) {
            values[i][j] = Convert<T>::from(0.f);
            if (inside && (unit + i) * kUnitElements<T> + j < channels) values[i][j] = *source;
            source += stride;
          }
        }
#pragma unroll
        for (int i = 0; i < kUnroll; ++i) {
          if (unit + i < units)
            *reinterpret_cast<uint4*>(destination + (unit + i) * kUnitBytes) =
                *reinterpret_cast<const uint4*>(values[i]);
        }
      }
    }
  }
}

// ---- The product -----------------------------------------------------------------------------
template <typename T, int kRowFragments, int kColumnGroups>
struct GemmTile {
  float sum[kRowFragments][2 * kColumnGroups][4];

  __device__ void clear() {
    each([](float& value) { value = 0.f; });
  }
  __device__ void add(const GemmTile& other) {
#pragma unroll
    for (int i = 0; i < kRowFragments; ++i) {
#pragma unroll
      for (int c = 0; c < 2 * kColumnGroups; ++c) {
#pragma unroll
        for (int e = 0; e < 4; ++e) sum[i][c][e] += other.sum[i][c][e];
      }
    }
  }
  template <typename Function>
  __device__ void each(Function&& function) {
#pragma unroll
    for (auto& row : sum) {
#pragma unroll
      for (auto& column : row) {
#pragma unroll
        for (float& value : column) function(value);
      }
    }
  }

  // One k-step: `rows` are this lane's operand row addresses, `step` the packed weights.
  __device__ void multiply(const uint32_t (&rows)[kRowFragments], const char* step) {
    const int lane = threadIdx.x % 32;
    const int4 header = *reinterpret_cast<const int4*>(step);
    if (header.z == 0) return;
    const int offset = lane < 16 ? header.x : header.y;
    const uint32_t weights =
        shared_address(step) + kHeaderBytes +
        ((lane / 8 % 2) * (16 * kColumnGroups) + lane % 8 + lane / 16 * 8) * kUnitBytes;
    constexpr uint32_t kPartBytes = 2 * 16 * kColumnGroups * kUnitBytes;

    uint32_t a[kRowFragments][4], a_low[kRowFragments][4];
#pragma unroll
    for (int i = 0; i < kRowFragments; ++i) {
      load_matrix_x4(a[i], rows[i] + offset);
      if constexpr (kWeightParts<T> == 2) {
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          const float value = __uint_as_float(a[i][j]);
          a[i][j] = round_to_tf32(a[i][j]);
          a_low[i][j] = round_to_tf32(__float_as_uint(value - __uint_as_float(a[i][j])));
        }
      }
    }
#pragma unroll
    for (int g = 0; g < kColumnGroups; ++g) {
      if ((header.z >> g & 1) == 0) continue;
      uint32_t b[4];
      load_matrix_x4(b, weights + g * 16 * kUnitBytes);
      if constexpr (kWeightParts<T> == 2) {
        uint32_t b_low[4];
        load_matrix_x4(b_low, weights + kPartBytes + g * 16 * kUnitBytes);
#pragma unroll
        for (int i = 0; i < kRowFragments; ++i) {
          multiply_tile<T>(sum[i][2 * g], a_low[i], b[0], b[1]);
          multiply_tile<T>(sum[i][2 * g + 1], a_low[i], b[2], b[3]);
          multiply_tile<T>(sum[i][2 * g], a[i], b_low[0], b_low[1]);
          multiply_tile<T>(sum[i][2 * g + 1], a[i], b_low[2], b_low[3]);
        }
      }
#pragma unroll
      for (int i = 0; i < kRowFragments; ++i) {
        multiply_tile<T>(sum[i][2 * g], a[i], b[0], b[1]);
        multiply_tile<T>(sum[i][2 * g + 1], a[i], b[2], b[3]);
      }
    }
  }
};

// ---- Storing the result ----------------------------------------------------------------------
// Staged as [column][row] for a result whose fastest dimension is w, as [row][column] for
// channels_last. Pitches are chosen so that neither writing nor reading piles onto one bank.
template <typename T>
__host__ __device__ constexpr int staging_pitch(bool channels_last, int rows, int columns) {
  return channels_last ? columns + 16 / static_cast<int>(sizeof(T)) : rows + 4;
}

template <typename T, int kRowFragments, int kColumnGroups>
__device__ void store_result(const GemmDataArguments& args,
                             const GemmTile<T, kRowFragments, kColumnGroups>& tile,
                             const ColumnTile& columns, const int (&q)[3], int n, int group,
                             int2* table, T* staging) {
  constexpr int kRows = kGemmWarps * kRowFragments * 16;
  constexpr int kColumns = 16 * kColumnGroups;
  const GemmDataPlan& plan = args.plan;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const bool channels_last = args.result_channels_last;
  const int pitch = staging_pitch<T>(channels_last, kRows, kColumns);
  const int channels = min(plan.channels_per_tile, args.result_channels - columns.channel);
  const int64_t first_channel =
      static_cast<int64_t>(group) * args.result_channels + columns.channel;

  // Where each (position, plane) of the tile goes, planes of w fastest: offset in the result from
  // the tile's first position, and place in the staging buffer.
  const TileAxis &d = plan.axes[0], &h = plan.axes[1], &w = plan.axes[2];
  const int planes = d.plane_block * h.plane_block * w.plane_block;
  const int places = d.tile * h.tile * w.tile * planes;
  const int corner[3] = {result_coordinate(d, q[0], columns.plane[0]),
                         result_coordinate(h, q[1], columns.plane[1]),
                         result_coordinate(w, q[2], columns.plane[2])};
  for (int at = threadIdx.x; at < places; at += kGemmThreads) {
    int rest = at;
    const auto take = [&rest](int extent) {
      const int coordinate = rest % extent;
      rest /= extent;
      return coordinate;
    };
    const int plane_w = take(w.plane_block), t_w = take(w.tile);
    const int plane_h = take(h.plane_block), t_h = take(h.tile);
    const int plane_d = take(d.plane_block), t_d = rest;
    const int r_d = result_coordinate(d, q[0] + t_d, columns.plane[0] + plane_d);
    const int r_h = result_coordinate(h, q[1] + t_h, columns.plane[1] + plane_h);
    const int r_w = result_coordinate(w, q[2] + t_w, columns.plane[2] + plane_w);
    const bool inside = columns.plane[0] + plane_d < d.result_planes &&
                        columns.plane[1] + plane_h < h.result_planes &&
                        columns.plane[2] + plane_w < w.result_planes && r_d >= 0 &&
                        r_d < d.result_extent && r_h >= 0 && r_h < h.result_extent && r_w >= 0 &&
                        r_w < w.result_extent;
    const int64_t offset = (r_d - corner[0]) * args.result.stride[2] +
                           (r_h - corner[1]) * args.result.stride[3] +
                           (r_w - corner[2]) * args.result.stride[4];
    const int row = (t_d * h.tile + t_h) * w.tile + t_w;
    const int column =
        ((plane_d * h.plane_block + plane_h) * w.plane_block + plane_w) * plan.channels_per_tile;
    table[at] = {inside ? static_cast<int>(offset) : kOutside,
                 channels_last ? row * pitch + column : column * pitch + row};
  }
#pragma unroll
  for (int c = 0; c < 2 * kColumnGroups; ++c) {
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      const int column = c * 8 + lane % 4 * 2 + e;
      const int channel = column % plan.channels_per_tile;
      float bias = 0.f;
      if (args.bias.data != nullptr && channel < channels)
        bias = Convert<float>::from(
            static_cast<const T*>(args.bias.data)[(first_channel + channel) * args.bias.stride]);
#pragma unroll
      for (int i = 0; i < kRowFragments; ++i) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int row = (warp * kRowFragments + i) * 16 + half * 8 + lane / 4;
          const T value = Convert<T>::from(tile.sum[i][c][2 * half + e] + bias);
          staging[channels_last ? row * pitch + column : column * pitch + row] = value;
        }
      }
    }
  }
  __syncthreads();

  T* result = static_cast<T*>(args.result.data) + n * args.result.stride[0] +
              first_channel * args.result.stride[1] + corner[0] * args.result.stride[2] +
              corner[1] * args.result.stride[3] + corner[2] * args.result.stride[4];
  if (!channels_last) {
    // Neighbouring threads write neighbouring results along w; each walks over the channels.
    const int64_t stride = args.result.stride[1];
    for (int at = threadIdx.x; at < places; at += kGemmThreads) {
      const int2 place = table[at];
      if (place.x == kOutside) continue;
      T* destination = result + place.x;
      const T* source = staging + place.y;
#pragma unroll 8
      for (int channel = 0; channel < channels; ++channel) {
        *destination = *source;
        destination += stride;
        source += pitch;
      }
    }
    return;
  }
  // Neighbouring threads write neighbouring channels of one position, in 16-byte units if they
  // can be had.
  const bool vectors = channels % kUnitElements<T> == 0 &&
                       plan.channels_per_tile % kUnitElements<T> == 0 && args.result_in_vectors;
  const int lanes = min(vectors ? channels / kUnitElements<T> : channels, kGemmThreads);
  const int places_at_once = kGemmThreads / lanes;
  const int lane_of_place = threadIdx.x % lanes;
  if (threadIdx.x / lanes >= places_at_once) return;
#pragma unroll 4
  for (int at = threadIdx.x / lanes; at < places; at += places_at_once) {
    const int2 place = table[at];
    if (place.x == kOutside) continue;
    if (vectors) {
      *reinterpret_cast<uint4*>(result + place.x + lane_of_place * kUnitElements<T>) =
          *reinterpret_cast<const uint4*>(staging + place.y + lane_of_place * kUnitElements<T>);
    } else {
      result[place.x + lane_of_place * args.result.stride[1]] = staging[place.y + lane_of_place];
    }
  }
}

template <typename T, int kRowFragments, int kColumnGroups>
__global__ void __launch_bounds__(kGemmThreads, kRowFragments == 4 ? 2 : 3)
    gemm_data_kernel(const __grid_constant__ GemmDataArguments args) {
  extern __shared__ __align__(16) char shared[];
  const GemmDataPlan& plan = args.plan;
  char* operand_tile = shared;
  int* row_offsets = reinterpret_cast<int*>(shared + args.sizes.operand_bytes);
  int2* places = reinterpret_cast<int2*>(shared + args.sizes.places_at);
  char* ring = shared + args.sizes.ring_at;  // weight stages, then the result's staging
  constexpr int kStepBytes = kHeaderBytes + kWeightParts<T> * 2 * 16 * kColumnGroups * kUnitBytes;
  constexpr int kStageBytes = kStageSteps * kStepBytes;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;

  // Which tile of positions, group and run of column tiles.
  int flat = blockIdx.x;
  int q[3];
  for (int a = 2; a >= 0; --a) {
    const int tiles = plan.axes[a].tiles();
    q[a] = plan.axes[a].first_position + flat % tiles * plan.axes[a].tile;
    flat /= tiles;
  }
  const int n = flat;
  const int runs = (args.sizes.column_tiles + plan.columns_per_block - 1) / plan.columns_per_block;
  const int group = blockIdx.y / runs;
  const int first_column = blockIdx.y % runs * plan.columns_per_block;
  const int last_column = min(first_column + plan.columns_per_block, args.sizes.column_tiles);

  // Operand rows of this lane's fragment rows, as ldmatrix addresses.
  uint32_t rows[kRowFragments];
#pragma unroll
  for (int i = 0; i < kRowFragments; ++i) {
    int row = (warp * kRowFragments + i) * 16 + lane % 16;
    const int tile_h = plan.axes[1].tile, tile_w = plan.axes[2].tile;
    if (row >= plan.axes[0].tile * tile_h * tile_w) row = 0;  // beyond the tile: never stored
    const int operand_row =
        (row / tile_w / tile_h * plan.axes[1].operand_rows() + row / tile_w % tile_h) *
            plan.axes[2].operand_rows() +
        row % tile_w;
    rows[i] = shared_address(operand_tile) + operand_row * args.sizes.row_pitch;
  }

  tabulate_rows(args, q, row_offsets);
  __syncthreads();
  GemmTile<T, kRowFragments, kColumnGroups> tile;
  bool filled = false;
  for (int index = first_column; index < last_column; ++index) {
    const ColumnTile columns = column_tile(plan, index);
    int entries = 1;
#pragma unroll
    for (int a = 0; a < 3; ++a)
      entries *= args.entries[a][columns.plane[a] / plan.axes[a].plane_block];
    tile.clear();
    for (int chunk = 0; chunk < args.sizes.chunks; ++chunk) {
      if (!filled || args.sizes.chunks > 1) {
        fill_operand<T>(args, q, n, group, chunk, row_offsets, operand_tile);
        filled = true;
      }
      const int units = min(plan.chunk_units, args.sizes.units - chunk * plan.chunk_units);
      const int steps = (entries * units + 1) / 2;
      const int stages = (steps + kStageSteps - 1) / kStageSteps;
      const int64_t packed_tile =
          (static_cast<int64_t>(group) * args.sizes.column_tiles + index) * args.sizes.chunks +
          chunk;
      const char* packed = args.packed + packed_tile * args.sizes.steps * kStepBytes;
      const auto prefetch = [&](int stage) {
        if (stage < stages) {
          const char* source = packed + static_cast<int64_t>(stage) * kStageBytes;
          const uint32_t destination = shared_address(ring + stage % kStages * kStageBytes);
          for (int at = threadIdx.x * kUnitBytes; at < kStageBytes; at += kGemmThreads * kUnitBytes)
            copy_async_16(destination + at, source + at, true);
        }
        copy_async_commit();
      };
#pragma unroll
      for (int stage = 0; stage < kStages - 1; ++stage) prefetch(stage);
      for (int stage = 0; stage < stages; ++stage) {
        copy_async_wait<kStages - 2>();
        __syncthreads();
        prefetch(stage + kStages - 1);
        const char* step = ring + stage % kStages * kStageBytes;
        if constexpr (kWeightParts<T> == 2) {
          // The tensor cores cut the low bits of every sum they carry: short sums are carried
          // there, long ones in float32 registers.
          GemmTile<T, kRowFragments, kColumnGroups> partial;
          partial.clear();
#pragma unroll
          for (int i = 0; i < kStageSteps; ++i) partial.multiply(rows, step + i * kStepBytes);
          tile.add(partial);
        } else {
#pragma unroll
          for (int i = 0; i < kStageSteps; ++i) tile.multiply(rows, step + i * kStepBytes);
        }
      }
      copy_async_wait<0>();
      __syncthreads();  // the ring and the operand tile may be overwritten
    }
    store_result<T>(args, tile, columns, q, n, group, places, reinterpret_cast<T*>(ring));
    __syncthreads();
  }
}

// ---- Launch ----------------------------------------------------------------------------------
template <typename T, int kRowFragments, int kColumnGroups>
cudaError_t launch_gemm_kernel(const GemmDataArguments& args, cudaStream_t stream) {
  const auto kernel = gemm_data_kernel<T, kRowFragments, kColumnGroups>;
  const cudaError_t status = cudaFuncSetAttribute(
      kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, args.sizes.shared_bytes);
  if (status != cudaSuccess) return status;
  const GemmDataPlan& plan = args.plan;
  const int64_t tiles = static_cast<int64_t>(args.batch) * plan.axes[0].tiles() *
                        plan.axes[1].tiles() * plan.axes[2].tiles();
  const int runs = (args.sizes.column_tiles + plan.columns_per_block - 1) / plan.columns_per_block;
  const dim3 grid(static_cast<unsigned>(tiles), static_cast<unsigned>(args.groups * runs));
  kernel<<<grid, kGemmThreads, args.sizes.shared_bytes, stream>>>(args);
  return cudaGetLastError();
}

template <typename T>
cudaError_t launch_gemm_data_typed(const GemmDataArguments& args, cudaStream_t stream) {
  const int steps = args.groups * args.sizes.column_tiles * args.sizes.chunks * args.sizes.steps;
  pack_weights<T>
      <<<steps, 2 * args.sizes.column_width, 0, stream>>>(args, const_cast<char*>(args.packed));
  const cudaError_t status = cudaGetLastError();
  if (status != cudaSuccess) return status;
  const auto with_columns = [&](auto rows) {
    constexpr int kRows = decltype(rows)::value;
    switch (args.plan.column_groups) {
      case 1:
        return launch_gemm_kernel<T, kRows, 1>(args, stream);
      case 2:
        return launch_gemm_kernel<T, kRows, 2>(args, stream);
      case 3:
        return launch_gemm_kernel<T, kRows, 3>(args, stream);
      case 4:
        return launch_gemm_kernel<T, kRows, 4>(args, stream);
      default:
        return cudaErrorInvalidValue;
    }
  };
  // float32 keeps two sets of sums, which four row fragments have no registers for.
  if constexpr (kWeightParts<T> == 1) {
    if (args.plan.row_fragments == 4) return with_columns(std::integral_constant<int, 4>{});
  }
  return with_columns(std::integral_constant<int, 2>{});
}

}  // namespace convt3d

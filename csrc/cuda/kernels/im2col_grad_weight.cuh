// grad_weight where outputs have few channels: the transposed input times what its positions meet
// of grad_output, for every output channel and tap (im2col).
//
//   block   a slice of channels, a split of the tiles of positions; for each tile the matrix of
//   what
//           positions meet is written to shared memory
//   warp    32 channels of it and all columns, sums in registers; warps of the same channels share
//           the positions of a tile and add their sums in shared memory at the end
//   split   leaves its sums in a workspace, which a second kernel adds in a fixed order
#pragma once

#include "im2col_gather.cuh"
#include "launch.cuh"

namespace convt3d {

// 32 channels and 16 positions, four neighbouring ones per thread: one step of products in 16 bits,
// two in float32.
template <typename T, bool kChannelsLast>
struct TransposedChunk {
  static constexpr int kWords = sizeof(T);  // of four elements
  uint32_t words[4][kWords];

  // Channel of row `row` (0 to 31).
  static __device__ __forceinline__ int channel_of(int row) {
    const int g = row % 8, m = row / 16, upper = row / 8 % 2;
    return kChannelsLast ? g * 4 + m * 2 + upper : row;
  }
  // `source`: the thread's first position, first of the 32 channels.
  __device__ __forceinline__ void load(const T* source, const Im2colArguments& args, int channels,
                                       int positions) {
    const int g = threadIdx.x % 32 / 4;
    const int64_t step = kChannelsLast ? args.input.stride[4] : 8 * args.input.stride[1];
    source += kChannelsLast ? g * 4 : g * args.input.stride[1];
#pragma unroll
    for (int i = 0; i < 4; ++i, source += step) {
      const bool valid =
          kChannelsLast ? i < positions && g * 4 < channels : positions > 0 && g + 8 * i < channels;
      load_words<kWords>(words[i], source, valid);
    }
  }
  template <bool kAccurate>
  __device__ __forceinline__ LeftFragment<T, kAccurate> fragment(int step, int m) const {
    if constexpr (sizeof(T) == 4 && kChannelsLast)
      return {words[2 * step][2 * m], words[2 * step][2 * m + 1], words[2 * step + 1][2 * m],
              words[2 * step + 1][2 * m + 1]};
    else if constexpr (sizeof(T) == 4)
      return {words[2 * m][2 * step], words[2 * m + 1][2 * step], words[2 * m][2 * step + 1],
              words[2 * m + 1][2 * step + 1]};
    else if constexpr (kChannelsLast)
      return {low_halves(words[0][m], words[1][m]), high_halves(words[0][m], words[1][m]),
              low_halves(words[2][m], words[3][m]), high_halves(words[2][m], words[3][m])};
    else
      return {words[2 * m][0], words[2 * m + 1][0], words[2 * m][1], words[2 * m + 1][1]};
  }
};

// Writes the matrix of a tile: what each position meets, for every column; zeros for positions that
// are not there. A thread takes the same eight columns of one position after the other.
template <typename T, int kTiles>
__device__ void write_gathered_matrix(const Im2colArguments& args, const Im2colItem& item,
                                      const T* gathered, const int* offsets, T* matrix) {
  constexpr int kStep = kIm2colThreads / kTiles;  // positions at once
  const int columns = threadIdx.x % kTiles * 8, first = threadIdx.x / kTiles;
  if (first >= kStep) return;
  int offset[8];
#pragma unroll
  for (int i = 0; i < 8; ++i) offset[i] = offsets[columns + i];
  const GatheredTile tile = gathered_tile(args.plan);
  const int positions = args.plan.tile_h * args.plan.tile_w;
  const WindowAxis &h = args.plan.axes[1], &w = args.plan.axes[2];
#pragma unroll 1
  for (int position = first; position < round_to_steps(positions); position += kStep) {
    int row = position / 4;
    const int x = args.quads_w.take(row) * 4 + position % 4;
    const bool valid =
        position < positions && item.h + row < h.operand_extent && item.w + x < w.operand_extent;
    const T* const from = gathered + (valid ? position_offset(args.plan, tile, row, x) : 0);
    const uint32_t keep = valid ? ~0u : 0u;
    uint32_t bits[8];
#pragma unroll
    for (int i = 0; i < 8; ++i) bits[i] = bits_of(from + offset[i], true);
    T* const to = matrix + position * matrix_pitch(kTiles, sizeof(T)) + columns;
    if constexpr (sizeof(T) == 4) {
#pragma unroll
      for (int i = 0; i < 8; i += 2)
        *reinterpret_cast<uint2*>(to + i) = make_uint2(bits[i] & keep, bits[i + 1] & keep);
    } else {
      *reinterpret_cast<uint4*>(to) =
          make_uint4(low_halves(bits[0], bits[1]) & keep, low_halves(bits[2], bits[3]) & keep,
                     low_halves(bits[4], bits[5]) & keep, low_halves(bits[6], bits[7]) & keep);
    }
  }
}

// The products of 16 positions with all columns: `rows` are those of the matrix.
template <typename T, int kTiles, bool kAccurate, int kSteps>
__device__ __forceinline__ void multiply_rows(float (&sums)[kTiles][2][4],
                                              const LeftFragment<T, kAccurate> (&left)[kSteps][2],
                                              const T* rows) {
  constexpr int kPitch = matrix_pitch(kTiles, sizeof(T));
  const int lane = threadIdx.x % 32;
  if constexpr (sizeof(T) == 4) {
    const auto at = [&](int position, int tile) {
      return __float_as_uint(rows[(lane % 4 * 4 + position) * kPitch + tile * 8 + lane / 4]);
    };
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      RightFragment<kAccurate> right[2];
      right[0].template set<T>(at(0, tile), at(1, tile));
      right[1].template set<T>(at(2, tile), at(3, tile));
      multiply_steps<T, kAccurate>(sums[tile], left, right);
    }
  } else {
    // A thread's two words are positions 4 t and the next, and the two after those.
    const int row = lane % 8 / 2 * 4 + lane % 2 + lane / 8 % 2 * 2;
    const uint32_t address = shared_address(rows + row * kPitch + lane / 16 * 8);
#pragma unroll
    for (int tile = 0; tile < kTiles; tile += 2) {
      uint32_t right[4];
      load_matrix_trans_x4(right, address + tile * 16);
#pragma unroll
      for (int m = 0; m < 2; ++m) {
        multiply_tile<T>(sums[tile][m], left[0][m].high, right[0], right[1]);
        multiply_tile<T>(sums[tile + 1][m], left[0][m].high, right[2], right[3]);
      }
    }
  }
}

template <typename T, int kTiles, bool kChannelsLast, bool kAccurate>
__global__ void __launch_bounds__(kIm2colThreads, kAccurate || sizeof(T) * kTiles > 16 ? 1 : 2)
    im2col_grad_weight_kernel(const __grid_constant__ Im2colArguments args) {
  extern __shared__ __align__(16) char shared[];
  const Im2colPlan& plan = args.plan;
  const Im2colSizes& sizes = args.sizes;
  T* const gathered = reinterpret_cast<T*>(shared);
  T* const matrix = reinterpret_cast<T*>(shared + sizes.shared_bytes - sizes.table_bytes -
                                         sizes.line_bytes - sizes.matrix_bytes);
  int* const offsets = reinterpret_cast<int*>(shared + sizes.shared_bytes - sizes.table_bytes);
  GatheredLine* const lines = reinterpret_cast<GatheredLine*>(shared + sizes.shared_bytes -
                                                              sizes.table_bytes - sizes.line_bytes);
  // Columns behind the last one get what the first has, and are not stored.
  write_column_offsets<kTiles>(args, offsets, 0);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int channel_warp = warp % plan.channel_warps, position_warp = warp / plan.channel_warps;
  const int position_warps = kIm2colWarps / plan.channel_warps;  // what is left only gathers
  const int split = blockIdx.x % plan.splits, channel_block = blockIdx.x / plan.splits;
  const int channel = (channel_block * plan.channel_warps + channel_warp) * kIm2colRows;
  const int channels = sizes.channels - channel;
  const T* const input =
      static_cast<const T*>(args.input.data) +
      (static_cast<int64_t>(blockIdx.y) * sizes.channels + channel) * args.input.stride[1];
  const int units = (plan.tile_h * args.quads_w.value() + 3) / 4;
  // In shared memory because registers are short.
  __shared__ __align__(8) char item_memory[sizeof(Im2colItem)];
  Im2colItem& item = *reinterpret_cast<Im2colItem*>(item_memory);
  float sums[kTiles][2][4] = {};
  const int64_t last = sizes.items * (split + 1) / plan.splits;
  for (int64_t index = sizes.items * split / plan.splits; index < last; ++index) {
    __syncthreads();  // offsets are written; the tile before has been read
    if (threadIdx.x == 0) item = Im2colItem(args, static_cast<int>(index));
    __syncthreads();
    write_gathered_lines<T>(args, item, lines);
    __syncthreads();
    fill_gathered_tile<sizeof(T) * kTiles <= 16 ? 4 : 8>(args, item, lines, gathered);
    __syncthreads();
    write_gathered_matrix<T, kTiles>(args, item, gathered, offsets, matrix);
    __syncthreads();
    const T* const plane = input + item.n * args.input.stride[0] + item.d * args.input.stride[2];
    const auto load = [&](TransposedChunk<T, kChannelsLast>& chunk, int unit) {
      const PositionQuad quad(args, item, unit * 4 + lane % 4);
      chunk.load(plane + quad.h * args.input.stride[3] + quad.w * args.input.stride[4], args,
                 channels, quad.positions);
    };
    TransposedChunk<T, kChannelsLast> chunk;
    if (position_warp >= position_warps) continue;
    if (position_warp < units) load(chunk, position_warp);
#pragma unroll 1
    for (int unit = position_warp; unit < units; unit += position_warps) {
      constexpr int kSteps = sizeof(T) / 2;
      LeftFragment<T, kAccurate> left[kSteps][2];
#pragma unroll
      for (int step = 0; step < kSteps; ++step)
#pragma unroll
        for (int m = 0; m < 2; ++m) left[step][m] = chunk.template fragment<kAccurate>(step, m);
      if (unit + position_warps < units) load(chunk, unit + position_warps);
      multiply_rows<T, kTiles, kAccurate>(sums, left,
                                          matrix + unit * 16 * matrix_pitch(kTiles, sizeof(T)));
    }
  }
  // The sums of warps that shared positions, in their order.
  float4* const shelf = reinterpret_cast<float4*>(matrix) + channel_warp * kTiles * 2 * 32 + lane;
  for (int other = 1; other < position_warps; ++other) {
    __syncthreads();
    if (position_warp == other) {
#pragma unroll
      for (int i = 0; i < kTiles * 2; ++i) {
        const auto& sum = sums[i / 2][i % 2];
        shelf[i * 32] = make_float4(sum[0], sum[1], sum[2], sum[3]);
      }
    }
    __syncthreads();
    if (position_warp == 0) {
#pragma unroll
      for (int i = 0; i < kTiles * 2; ++i) {
        auto& sum = sums[i / 2][i % 2];
        const float4 more = shelf[i * 32];
        sum[0] += more.x;
        sum[1] += more.y;
        sum[2] += more.z;
        sum[3] += more.w;
      }
    }
  }
  if (position_warp != 0) return;
  // Slots: split, group, channel block and warp, then fragments.
  float4* const slot =
      reinterpret_cast<float4*>(args.workspace) +
      (((static_cast<int64_t>(split) * gridDim.y + blockIdx.y) * sizes.channel_blocks +
        channel_block) *
           plan.channel_warps +
       channel_warp) *
          kTiles * 2 * 32 +
      lane;
#pragma unroll
  for (int i = 0; i < kTiles * 2; ++i) {
    const auto& sum = sums[i / 2][i % 2];
    slot[i * 32] = make_float4(sum[0], sum[1], sum[2], sum[3]);
  }
}

// Adds the splits: one block per fragment of 16 channels and 8 columns. Its warps take the splits
// in turns; the order of all sums is fixed.
constexpr int kIm2colSumWarps = 8;
template <typename T, bool kChannelsLast>
__global__ void __launch_bounds__(32 * kIm2colSumWarps)
    im2col_sum_kernel(const __grid_constant__ Im2colArguments args) {
  const Im2colPlan& plan = args.plan;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int64_t fragments = gridDim.x;
  const float4* const source =
      reinterpret_cast<const float4*>(args.workspace) + blockIdx.x * int64_t{32} + lane;
  float4 sum = make_float4(0.f, 0.f, 0.f, 0.f);
  const auto add = [&](const float4& value) {
    sum.x += value.x;
    sum.y += value.y;
    sum.z += value.z;
    sum.w += value.w;
  };
#pragma unroll 4
  for (int split = warp; split < plan.splits; split += kIm2colSumWarps)
    add(source[split * fragments * 32]);
  __shared__ float4 others[kIm2colSumWarps][32];
  others[warp][lane] = sum;
  __syncthreads();
  if (warp != 0) return;
#pragma unroll
  for (int other = 1; other < kIm2colSumWarps; ++other) add(others[other][lane]);
  const int group_fragments = args.sizes.channel_blocks * plan.channel_warps * plan.tiles * 2;
  const int group = blockIdx.x / group_fragments, fragment = blockIdx.x % group_fragments;
  const int first = fragment / (plan.tiles * 2) * kIm2colRows;
  const int column = fragment % (plan.tiles * 2) / 2 * 8 + lane % 4 * 2;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int row = fragment % 2 * 16 + i / 2 * 8 + lane / 4;
    const int channel = first + TransposedChunk<T, kChannelsLast>::channel_of(row);
    if (channel >= args.sizes.channels || column + i % 2 >= args.sizes.columns) continue;
    const float value = i == 0 ? sum.x : i == 1 ? sum.y : i == 2 ? sum.z : sum.w;
    static_cast<T*>(
        args.weight.data)[(static_cast<int64_t>(group) * args.sizes.channels + channel) *
                              args.weight.stride[0] +
                          weight_offset(args, column + i % 2)] = Convert<T>::from(value);
  }
}

}  // namespace convt3d

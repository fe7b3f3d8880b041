// grad_input where outputs have few channels: what an input position meets of grad_output, for
// every output channel and tap (im2col), times the transposed weight.
//
//   block   persistent: weights packed into shared memory once; then tile by tile (d, h, w)
//   warp    32 positions: their columns gathered into registers once, then 32 channels at a time
//   result  16 bytes along the channels, or four positions along w, straight from registers
#pragma once

#include "im2col_gather.cuh"

namespace convt3d {

constexpr int kNoColumn = -1;  // behind the last one: zeros

// Columns of a thread in a step of depth.
template <typename T>
constexpr int kStepColumns = 8 / static_cast<int>(sizeof(T));

// The channel that column `g` of tile `tile` of a slice of 32 stands for: a thread gets eight
// neighbours.
CONVT3D_HOST_DEVICE constexpr int slice_channel(int tile, int g) {
  return g / 2 * 8 + tile * 2 + g % 2;
}

template <typename T, int kSteps, bool kAccurate>
__device__ void pack_grad_input_weights(const Im2colArguments& args, char* packed) {
  const int slices = (args.sizes.channels + kIm2colRows - 1) / kIm2colRows;
  const int entries = slices * 4 * kSteps * 32;
  const T* const weight =
      static_cast<const T*>(args.weight.data) +
      static_cast<int64_t>(blockIdx.y) * args.sizes.channels * args.weight.stride[0];
  for (int entry = threadIdx.x; entry < entries; entry += kIm2colThreads) {
    const int lane = entry % 32, step = entry / 32 % kSteps, tile = entry / 32 / kSteps;
    const int channel = tile / 4 * kIm2colRows + slice_channel(tile % 4, lane / 4);
    const int column = (step * 4 + lane % 4) * kStepColumns<T>;
    const auto bits = [&](int c) {
      return bits_of(weight + channel * args.weight.stride[0] + weight_offset(args, column + c),
                     channel < args.sizes.channels && column + c < args.sizes.columns);
    };
    RightFragment<kAccurate> fragment;
    if constexpr (sizeof(T) == 4)
      fragment.template set<T>(bits(0), bits(1));
    else
      fragment.template set<T>(bits(0) | bits(1) << 16, bits(2) | bits(3) << 16);
    fragment.store(packed + entry * RightFragment<kAccurate>::kBytes);
  }
}

template <typename T, int kTiles, bool kChannelsLast, bool kAccurate>
__global__ void __launch_bounds__(kIm2colThreads, kAccurate || sizeof(T) * kTiles > 24 ? 1 : 2)
    im2col_grad_input_kernel(const __grid_constant__ Im2colArguments args) {
  constexpr int kSteps = kTiles * 2 / kStepColumns<T>;
  constexpr int kBytes = RightFragment<kAccurate>::kBytes;
  extern __shared__ __align__(16) char shared[];
  const Im2colSizes& sizes = args.sizes;
  char* const weights = shared;
  T* const gathered = reinterpret_cast<T*>(shared + sizes.weight_bytes);
  int* const offsets = reinterpret_cast<int*>(shared + sizes.shared_bytes - sizes.table_bytes);
  GatheredLine* const lines = reinterpret_cast<GatheredLine*>(shared + sizes.shared_bytes -
                                                              sizes.table_bytes - sizes.line_bytes);
  write_column_offsets<kTiles>(args, offsets, kNoColumn);
  pack_grad_input_weights<T, kSteps, kAccurate>(args, weights);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int stride_w = args.plan.stride[2];
  for (int64_t index = blockIdx.x; index < sizes.items; index += gridDim.x) {
    const Im2colItem item(args, static_cast<int>(index));
    __syncthreads();  // weights are packed; the tile before has been read
    write_gathered_lines<T>(args, item, lines);
    __syncthreads();
    fill_gathered_tile<8>(args, item, lines, gathered);
    __syncthreads();
    T* const plane = static_cast<T*>(args.input.data) + item.n * args.input.stride[0] +
                     static_cast<int64_t>(blockIdx.y) * sizes.channels * args.input.stride[1] +
                     item.d * args.input.stride[2];
    const int units = (args.plan.tile_h * args.quads_w.value() + 7) / 8;
    for (int unit = warp; unit < units; unit += kIm2colWarps) {
      const PositionQuad quad(args, item, unit * 8 + lane / 4);
      // The columns of four positions in a step of depth. Positions that are not there lie in the
      // tile, too, and their results are not stored.
      const auto gather = [&](uint32_t (&words)[8], int step) {
        const int* const column = offsets + (step * 4 + lane % 4) * kStepColumns<T>;
        const auto at = [&](int c, int p) {
          const int offset = column[c];
          return bits_of(gathered + quad.offset + offset + p * stride_w, offset != kNoColumn);
        };
#pragma unroll
        for (int m = 0; m < 2; ++m)
#pragma unroll
          for (int c = 0; c < 2; ++c)
#pragma unroll
            for (int half = 0; half < 2; ++half) {
              const int p = 2 * m + half;
              words[4 * m + 2 * c + half] =
                  sizeof(T) == 4 ? at(c, p) : at(2 * c, p) | at(2 * c + 1, p) << 16;
            }
      };
      // Kept for all channels, but for accurate products: their halves would have to be kept, too.
      uint32_t kept[kAccurate ? 2 : kSteps][8];
      if constexpr (!kAccurate) {
#pragma unroll
        for (int step = 0; step < kSteps; ++step) gather(kept[step], step);
      }
      T* const to = plane + quad.h * args.input.stride[3] + quad.w * args.input.stride[4];
      const char* right_at = weights + lane * kBytes;
#pragma unroll 1
      for (int first = 0; first < sizes.channels; first += kIm2colRows) {
        float sums[4][2][4] = {};
#pragma unroll(kAccurate ? 1 : kSteps)
        for (int step = 0; step < kSteps; step += 2) {
          if constexpr (kAccurate) {
            gather(kept[0], step);
            gather(kept[1], step + 1);
          }
          const auto& words = kept[kAccurate ? 0 : step];
          const auto& more = kept[kAccurate ? 1 : step + 1];
          const LeftFragment<T, kAccurate> left[2][2] = {
              {{words[0], words[1], words[2], words[3]}, {words[4], words[5], words[6], words[7]}},
              {{more[0], more[1], more[2], more[3]}, {more[4], more[5], more[6], more[7]}}};
#pragma unroll
          for (int tile = 0; tile < 4; ++tile) {
            RightFragment<kAccurate> right[2];
            right[0].load(right_at + (tile * kSteps + step) * 32 * kBytes);
            right[1].load(right_at + (tile * kSteps + step + 1) * 32 * kBytes);
            multiply_steps<T, kAccurate>(sums[tile], left, right);
          }
        }
        right_at += 4 * kSteps * 32 * kBytes;
        if constexpr (kChannelsLast) {
          const int channel = first + lane % 4 * 8;
          T* const run = to + channel;
#pragma unroll
          for (int p = 0; p < 4; ++p) {
            const auto value = [&](int i) { return sums[i / 2][p / 2][p % 2 * 2 + i % 2]; };
            if (p >= quad.positions || channel >= sizes.channels) continue;
            T* const at = run + p * args.input.stride[4];
            if constexpr (sizeof(T) == 4) {
              store_quad(at, value(0), value(1), value(2), value(3));
              if (channel + 4 < sizes.channels)
                store_quad(at + 4, value(4), value(5), value(6), value(7));
            } else {
              store_vector(at,
                           {pack_pair<T>(value(0), value(1)), pack_pair<T>(value(2), value(3)),
                            pack_pair<T>(value(4), value(5)), pack_pair<T>(value(6), value(7))});
            }
          }
        } else {
#pragma unroll
          for (int tile = 0; tile < 4; ++tile)
#pragma unroll
            for (int e = 0; e < 2; ++e) {
              const int channel = first + lane % 4 * 8 + tile * 2 + e;
              const auto& sum = sums[tile];
              if (quad.positions > 0 && channel < sizes.channels)
                store_quad(to + channel * args.input.stride[1], sum[0][e], sum[0][2 + e], sum[1][e],
                           sum[1][2 + e]);
            }
        }
      }
    }
  }
}

}  // namespace convt3d

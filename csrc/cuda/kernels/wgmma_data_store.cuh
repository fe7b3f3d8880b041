// Results of the WGMMA data kernel (wgmma_data.cuh): from the sums of a warpgroup to memory.
#pragma once

#include <type_traits>

#include "wgmma_data_tables.cuh"

namespace convt3d {

constexpr int kStagedChannels = 8;

template <typename T>
__device__ __forceinline__ uint32_t pack_pair(float low, float high) {
  if constexpr (std::is_same_v<T, __half>) {
    const __half2 pair = __floats2half2_rn(low, high);
    return *reinterpret_cast<const uint32_t*>(&pair);
  } else {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    return *reinterpret_cast<const uint32_t*>(&pair);
  }
}

// Where a column tile's results go: `base` is position (0, 0) of the result's plane of depth, first
// channel of the tile.
template <typename T>
struct ResultTile {
  T* base;
  int h, w;  // first positions
  int plane_h, plane_w;
  int channels;       // from the first on, in the group
  const float* bias;  // of the tile's channels, in shared memory
};

// Channels-last: eight (in a last half, four) neighbouring channels of a position at a time.
template <typename T, int kColumns, int kBlocks>
__device__ __forceinline__ void store_channels_last(const WgmmaDataArguments& args,
                                                    const ResultTile<T>& to,
                                                    const float (&sums)[kBlocks][1][kColumns / 2],
                                                    const int (&positions)[kBlocks][2], int lane) {
  const WindowAxis &axis_h = args.plan.axes[1], &axis_w = args.plan.axes[2];
  const int stride_h = static_cast<int>(args.result.stride[3]);
  const int stride_w = static_cast<int>(args.result.stride[4]);
  const bool has_bias = args.bias.data != nullptr;
#pragma unroll
  for (int block = 0; block < kBlocks; ++block) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int hw = positions[block][half];
      const int y = axis_h.result_step * (to.h + (hw >> 16)) + to.plane_h;
      const int x = axis_w.result_step * (to.w + (hw & 0xffff)) + to.plane_w;
      if (hw < 0 || y >= axis_h.result_extent || x >= axis_w.result_extent) continue;
      T* const target = to.base + y * stride_h + x * stride_w;
#pragma unroll
      for (int first = 0; first < kColumns; first += 32) {
        constexpr int kWhole = 8;
        const int owned = kColumns - first >= 32 ? kWhole : 4;
        const int channel = first + owned * (lane % 4);
        uint32_t words[4];
#pragma unroll
        for (int j = 0; j < owned / 2; ++j) {
          const float* pair = &sums[block][0][first / 2 + j * 4 + half * 2];
          words[j] = has_bias ? pack_pair<T>(pair[0] + to.bias[channel + 2 * j],
                                             pair[1] + to.bias[channel + 2 * j + 1])
                              : pack_pair<T>(pair[0], pair[1]);
        }
        if (args.result_in_vectors) {
          if (channel >= to.channels) continue;
          if (owned == kWhole)
            *reinterpret_cast<uint4*>(target + channel) = {words[0], words[1], words[2], words[3]};
          else
            *reinterpret_cast<uint2*>(target + channel) = {words[0], words[1]};
        } else {
#pragma unroll
          for (int i = 0; i < owned; ++i)
            if (channel + i < to.channels)
              reinterpret_cast<unsigned short*>(target)[channel + i] =
                  static_cast<unsigned short>(words[i / 2] >> (16 * (i % 2)));
        }
      }
    }
  }
}

// Contiguous: eight channels at a time through shared memory, then out in runs along w, 16 bytes at
// a time wherever they lie in memory.
template <typename T, int kColumns, int kPlanes, int kBlocks>
__device__ __forceinline__ void store_contiguous(
    const WgmmaDataArguments& args, const WgmmaShared& shared, const ResultTile<T>& to,
    const float (&sums)[kBlocks][kPlanes][kColumns / 2], const int (&slots)[kBlocks][2],
    int warpgroup, int lane) {
  const WindowAxis &axis_h = args.plan.axes[1], &axis_w = args.plan.axes[2];
  const int channel_pitch = args.sizes.channel_pitch;
  const int thread = threadIdx.x % kWarpgroupThreads;
  const Run* const runs = shared.runs + warpgroup * args.sizes.runs;
  // Threads that share a run, 16 bytes each.
  constexpr int kSharers = kPlanes * kBlocks > 4 ? 16 : 8;
  constexpr int kRunsAtOnce = kWarpgroupThreads / kSharers;
  const int run_count = args.sizes.runs;
  // A thread keeps its run for several channels; eight runs are at work at once.
  constexpr int kRuns = 8, kChannelStep = kRunsAtOnce / kRuns;
  const int first_run = thread / kSharers % kRuns, first_channel = thread / kSharers / kRuns;
  const int64_t stride_c = args.result.stride[1];
#pragma unroll
  for (int first = 0; first < kColumns; first += kStagedChannels) {
    if (first >= to.channels) break;
    // Two buffers: one is read while the next is written.
    unsigned short* const staging =
        reinterpret_cast<unsigned short*>(shared.staging) +
        (warpgroup * 2 + first / kStagedChannels % 2) * kStagedChannels * channel_pitch;
    const float bias[2] = {to.bias[first + 2 * (lane % 4)], to.bias[first + 2 * (lane % 4) + 1]};
#pragma unroll
    for (int block = 0; block < kBlocks; ++block) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        if (slots[block][half] < 0) continue;
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          unsigned short* const target =
              staging + (2 * (lane % 4) + e) * channel_pitch + slots[block][half];
          const int at = first / 2 + half * 2 + e;
          if constexpr (kPlanes == 1) {
            *target = static_cast<unsigned short>(pack_pair<T>(sums[block][0][at] + bias[e], 0.f));
          } else {
#pragma unroll
            for (int p = 0; p < kPlanes; p += 2)
              *reinterpret_cast<uint32_t*>(target + p) =
                  pack_pair<T>(sums[block][p][at] + bias[e], sums[block][p + 1][at] + bias[e]);
          }
        }
      }
    }
    named_barrier(1 + warpgroup, kWarpgroupThreads);
    const int channels = min(kStagedChannels, to.channels - first);
    for (int r = first_run; r < run_count; r += kRuns) {
      const Run run = runs[r];
      const int y = axis_h.result_step * (to.h + run.h) + to.plane_h;
      const int x = kPlanes * (to.w + run.w);
      const int count = min(kPlanes * run.length, axis_w.result_extent - x);
      if (y >= axis_h.result_extent || count <= 0) continue;
      T* target = to.base + (first + first_channel) * stride_c +
                  y * static_cast<int>(args.result.stride[3]) + x;
      const unsigned short* source = staging + first_channel * channel_pitch + run.slot;
      for (int channel = first_channel; channel < channels; channel += kChannelStep) {
        const int skew = static_cast<int>(reinterpret_cast<uintptr_t>(target) / 2 % 8);
        for (int e0 = thread % kSharers * 8 - skew; e0 < count; e0 += kSharers * 8) {
          if (e0 >= 0 && e0 + 8 <= count) {
            const uint32_t* const words = reinterpret_cast<const uint32_t*>(source + (e0 & ~1));
            uint4 value{words[0], words[1], words[2], words[3]};
            if (e0 % 2 != 0)
              value = {__byte_perm(value.x, value.y, 0x5432), __byte_perm(value.y, value.z, 0x5432),
                       __byte_perm(value.z, value.w, 0x5432),
                       __byte_perm(value.w, words[4], 0x5432)};
            *reinterpret_cast<uint4*>(target + e0) = value;
          } else {
#pragma unroll
            for (int j = 0; j < 8; ++j)
              if (static_cast<unsigned>(e0 + j) < static_cast<unsigned>(count))
                reinterpret_cast<unsigned short*>(target)[e0 + j] = source[e0 + j];
          }
        }
        target += kChannelStep * stride_c;
        source += kChannelStep * channel_pitch;
      }
    }
  }
}

}  // namespace convt3d

// Results of the WGMMA data kernel (wgmma_data.cuh): from the sums of a warpgroup to memory.
#pragma once

#include "wgmma_data_tables.cuh"

namespace convt3d {

// Elements of 32 bits.
template <typename T>
constexpr int kWordElements = 4 / static_cast<int>(sizeof(T));

// Where a column tile's results go: `base` is position (0, 0) of the first sample's plane of depth,
// first channel of the tile.
template <typename T>
struct ResultTile {
  T* base;
  unsigned end;  // position_end() of the samples in the batch
  int h, w;      // first positions
  int plane_h, plane_w;
  int channels;       // from the first on, in the group
  const float* bias;  // of the tile's channels, in shared memory
};

// ---- Channels-last -----------------------------------------------------------------------------
// Calls `body` with the columns that a thread owns side by side: how many at a time (16 bytes of
// them; in a last part of the tile half of that, then a quarter), the first of four threads' and
// how far from that its own begin.
template <typename T, int kColumns, typename Body>
__device__ __forceinline__ void for_owned_columns(const Body& body) {
  const int thread = static_cast<int>(threadIdx.x % 4);
  constexpr int kMost = 1 << kOwnedBits<T>;
#pragma unroll
  for (int first = 0; first + 4 * kMost <= kColumns; first += 4 * kMost)
    body(std::integral_constant<int, kMost>{}, first, kMost * thread);
  if constexpr (kMost == 8 && kColumns % 32 >= 16)
    body(std::integral_constant<int, 4>{}, kColumns / 32 * 32, 4 * thread);
  if constexpr (kColumns % 16 >= 8)
    body(std::integral_constant<int, 2>{}, kColumns / 16 * 16, 2 * thread);
}

// The results of a row, at `position`: two sums of every four from `sums` on.
template <bool kInVectors, typename T, int kColumns>
__device__ __forceinline__ void store_row(T* position, const float* sums, int channels,
                                          const float* bias) {
  for_owned_columns<T, kColumns>(
      [&]<int kOwned>(std::integral_constant<int, kOwned>, int first, int own) {
        constexpr int kVector = 4 * kWordElements<T>;
        constexpr int kCount = kOwned < kVector ? kOwned : kVector;
        constexpr int kWords = kCount / kWordElements<T>;
#pragma unroll
        for (int part = 0; part < kOwned; part += kVector) {
          uint32_t words[kWords];
#pragma unroll
          for (int j = 0; j < kCount; j += 2) {
            const float* const pair = sums + first / 2 + (part + j) * 2;
            if constexpr (kWordElements<T> == 1) {
              words[j] = __float_as_uint(pair[0] + (bias + own)[first + part + j]);
              words[j + 1] = __float_as_uint(pair[1] + (bias + own)[first + part + j + 1]);
            } else {
              words[j / 2] = pack_pair<T>(pair[0], pair[1]);
            }
          }
          T* const target = position + own + (first + part);
          const int left = channels - own - (first + part);
          if constexpr (kInVectors && kWordElements<T> == 1) {
            store_words_if(left > 0, target, words);
          } else if constexpr (kInVectors) {
            // In 16 bits branches are as fast, for small results faster.
            if (left > 0) store_words_if(true, target, words);
          } else {
            using Bits = BitsOf<T>;
#pragma unroll
            for (int i = 0; i < kCount; ++i)
              if (i < left)
                reinterpret_cast<Bits*>(target)[i] = static_cast<Bits>(
                    words[i / kWordElements<T>] >> (8 * sizeof(T) * (i % kWordElements<T>)));
          }
        }
      });
}

template <typename T, int kColumns, int kPlanes, int kBlocks, int kSlots>
__device__ __forceinline__ void store_channels_last(const WgmmaDataArguments& args,
                                                    const ResultTile<T>& to,
                                                    float (&sums)[kBlocks][kSlots][kColumns / 2],
                                                    const unsigned* rows, int lane) {
  const WindowAxis &axis_h = args.plan.axes[1], &axis_w = args.plan.axes[2];
  const int stride_n = static_cast<int>(args.result.stride[0]);
  const int stride_h = static_cast<int>(args.result.stride[3]);
  const int stride_w = static_cast<int>(args.result.stride[4]);
  // Zeros where there is no bias. float32 adds it when it stores: without an operation in between,
  // ptxas spills.
  if constexpr (kWordElements<T> > 1)
    for_owned_columns<T, kColumns>(
        [&]<int kOwned>(std::integral_constant<int, kOwned>, int first, int own) {
#pragma unroll
          for (int j = 0; j < kOwned; j += 2) {
            const float* const own_bias = to.bias + own + (first + j);
            const float bias[2] = {own_bias[0], own_bias[1]};
#pragma unroll
            for (int block = 0; block < kBlocks; ++block)
#pragma unroll
              for (int p = 0; p < kPlanes; ++p)
#pragma unroll
                for (int i = 0; i < 4; ++i) sums[block][p][first / 2 + j * 2 + i] += bias[i % 2];
          }
        });
#pragma unroll
  for (int p = 0; p < kPlanes; ++p) {
    // Of all rows first, so that their latencies overlap.
    int offsets[kBlocks][2];  // negative: no result
#pragma unroll
    for (int block = 0; block < kBlocks; ++block) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const unsigned row = rows[(half * kBlocks + block) * 8 + lane / 4];
        const TilePosition at = unpack_position(row);
        const int y = axis_h.result_step * (to.h + at.h) + to.plane_h;
        const int x = axis_w.result_step * (to.w + at.w) + (kPlanes > 1 ? p : to.plane_w);
        const bool exists = row < to.end && y < axis_h.result_extent && x < axis_w.result_extent;
        offsets[block][half] = exists ? at.sample * stride_n + y * stride_h + x * stride_w : -1;
      }
    }
    const auto store_rows = [&]<bool kInVectors>(std::bool_constant<kInVectors>) {
#pragma unroll
      for (int block = 0; block < kBlocks; ++block)
#pragma unroll
        for (int half = 0; half < 2; ++half)
          if (offsets[block][half] >= 0)
            store_row<kInVectors, T, kColumns>(to.base + offsets[block][half],
                                               &sums[block][p][2 * half], to.channels, to.bias);
    };
    if (args.result_in_vectors)
      store_rows(std::true_type{});
    else
      store_rows(std::false_type{});
  }
}

// ---- Contiguous --------------------------------------------------------------------------------
// Each warp passes eight channels at a time through shared memory of its own, from "a lane owns
// channels of a row" to "a lane owns neighbours along w of a channel". A word is 32 bits of the
// latter, a vector four words: the same positions for all channels, so that they are located once
// per column tile.
template <typename T, int kPlanes, int kBlocks>
struct StagedWords {
  static constexpr int kPerChannel = 16 * kBlocks * kPlanes / kWordElements<T>;
  static constexpr int kPitch = staging_pitch_words(kPerChannel);
  // Lanes are spread over channels, or take several words.
  static constexpr int kChannelsAtOnce = kPerChannel < 32 ? 32 / kPerChannel : 1;
  static constexpr int kPerLane = kPerChannel > 32 ? kPerChannel / 32 : 1;
  // The same in vectors, of which a channel has at most 32. Of eight channels with two each, they
  // leave lanes without one.
  static constexpr int kVectors = kPerChannel / 4;
  static constexpr int kVectorChannels =
      32 / kVectors < kStagedChannels ? 32 / kVectors : kStagedChannels;
};

// Where the elements of a word go, relative to the result tile.
struct WordPlace {
  int offset[2];
  bool inside[2];
  bool together;  // all inside, neighbours, on a 32-bit boundary
};

template <typename T, int kPlanes>
__device__ __forceinline__ WordPlace locate_word(const WgmmaDataArguments& args,
                                                 const ResultTile<T>& to, const unsigned* rows,
                                                 int word) {
  const WindowAxis &axis_h = args.plan.axes[1], &axis_w = args.plan.axes[2];
  WordPlace place{};
#pragma unroll
  for (int e = 0; e < kWordElements<T>; ++e) {
    const int element = kWordElements<T> * word + e;
    const unsigned row = rows[element / kPlanes];
    const TilePosition at = unpack_position(row);
    const int y = axis_h.result_step * (to.h + at.h) + to.plane_h;
    const int x =
        axis_w.result_step * (to.w + at.w) + (kPlanes > 1 ? element % kPlanes : to.plane_w);
    place.offset[e] = at.sample * static_cast<int>(args.result.stride[0]) +
                      y * static_cast<int>(args.result.stride[3]) +
                      x * static_cast<int>(args.result.stride[4]);
    // Said so that the compiler keeps one offset where it can.
    if (kPlanes > 1 && e == 1) place.offset[1] = place.offset[0] + 1;
    place.inside[e] = row < to.end && y < axis_h.result_extent && x < axis_w.result_extent;
  }
  if constexpr (kWordElements<T> == 1)
    place.together = place.inside[0];
  else
    place.together =
        place.inside[0] && place.inside[1] && place.offset[1] == place.offset[0] + 1 &&
        (reinterpret_cast<uintptr_t>(to.base + place.offset[0]) | 2 * args.result.stride[1]) % 4 ==
            0;
  return place;
}

// Eight channels of a warp's sums into its staging buffer, a channel after the other.
template <typename T, int kColumns, int kPlanes, int kBlocks, int kSlots>
__device__ __forceinline__ void stage_channels(uint32_t* staging,
                                               const float (&sums)[kBlocks][kSlots][kColumns / 2],
                                               const float* tile_bias, int first, int lane) {
  using Words = StagedWords<T, kPlanes, kBlocks>;
  const float* const own_bias = tile_bias + first + 2 * (lane % 4);
  const float bias[2] = {own_bias[0], own_bias[1]};
  const auto sum = [&](int block, int p, int half, int e) {
    return sums[block][p][first / 2 + half * 2 + e] + bias[e];
  };
  if constexpr (kPlanes == 1 && kWordElements<T> == 2) {
    // Transposed 8 x 8 at a time: matrix m is half m % 2 of block m / 2.
    constexpr int kAtOnce = kBlocks == 1 ? 2 : 4;
    const int m = lane / 8 % kAtOnce;
    const uint32_t target =
        shared_address(staging + lane % 8 * Words::kPitch + (m % 2 * kBlocks + m / 2) * 4);
#pragma unroll
    for (int block = 0; block < kBlocks; block += kAtOnce / 2) {
      uint32_t words[kAtOnce];
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i)
        words[i] = pack_pair<T>(sum(block + i / 2, 0, i % 2, 0), sum(block + i / 2, 0, i % 2, 1));
      store_matrices_transposed(target + block * 16, words);
    }
  } else {
    constexpr int kWords = kPlanes / kWordElements<T>;  // of a position
    uint32_t* const target = staging + 2 * (lane % 4) * Words::kPitch + lane / 4 * kWords;
#pragma unroll
    for (int block = 0; block < kBlocks; ++block)
#pragma unroll
      for (int half = 0; half < 2; ++half)
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          uint32_t words[kWords];
#pragma unroll
          for (int i = 0; i < kWords; ++i)
            if constexpr (kWordElements<T> == 2)
              words[i] = pack_pair<T>(sum(block, 2 * i, half, e), sum(block, 2 * i + 1, half, e));
            else
              words[i] = __float_as_uint(sum(block, i, half, e));
          uint32_t* const at = target + e * Words::kPitch + (half * kBlocks + block) * 8 * kWords;
          if constexpr (kWords == 4)
            *reinterpret_cast<uint4*>(at) = {words[0], words[1], words[2], words[3]};
          else if constexpr (kWords == 2)
            *reinterpret_cast<uint2*>(at) = {words[0], words[1]};
          else
            *at = words[0];
        }
  }
}

// 16 bytes at a time, which lie inside the result or outside as a whole.
template <typename T, int kColumns, int kPlanes, int kBlocks, int kSlots>
__device__ __forceinline__ void store_vectors(const WgmmaDataArguments& args,
                                              const ResultTile<T>& to,
                                              const float (&sums)[kBlocks][kSlots][kColumns / 2],
                                              const unsigned* rows, uint32_t* staging, int lane) {
  using Words = StagedWords<T, kPlanes, kBlocks>;
  constexpr int kBuffer = kStagedChannels * Words::kPitch, kGroups = kColumns / kStagedChannels;
  constexpr int kAtOnce = Words::kVectorChannels, kSteps = kStagedChannels / kAtOnce;
  // Neighbouring lanes take neighbours of a channel.
  const int first_word = lane % Words::kVectors * 4, first_channel = lane / Words::kVectors;
  const WordPlace place = locate_word<T, kPlanes>(args, to, rows, first_word);
  if (!__any_sync(0xffffffffu, place.together)) return;
  const int64_t stride_c = args.result.stride[1];
  T* target = to.base + place.offset[0] + first_channel * stride_c;
  // Lanes without a channel read another lane's.
  const uint32_t* const staged =
      staging + first_channel % kStagedChannels * Words::kPitch + first_word;
  // Of two buffers, one is read while the other is written: while the vectors of eight channels
  // come, the next but one go there.
  const auto stage = [&](int group) {
    stage_channels<T, kColumns, kPlanes>(staging + group % 2 * kBuffer, sums, to.bias,
                                         group * kStagedChannels, lane);
  };
  stage(0);
  if constexpr (kGroups > 1) stage(1);
  __syncwarp();
#pragma unroll
  for (int group = 0; group < kGroups; ++group) {
    const int channels = to.channels - group * kStagedChannels;
    if (channels <= 0) break;
    uint32_t words[kSteps][4];
#pragma unroll
    for (int i = 0; i < kSteps; ++i) {
      const uint4 vector = *reinterpret_cast<const uint4*>(staged + group % 2 * kBuffer +
                                                           i * kAtOnce * Words::kPitch);
      words[i][0] = vector.x, words[i][1] = vector.y;
      words[i][2] = vector.z, words[i][3] = vector.w;
    }
    __syncwarp();
    if (group + 2 < kGroups) stage(group + 2);
#pragma unroll
    for (int i = 0; i < kSteps; ++i) {
      const int channel = first_channel + i * kAtOnce;
      store_words_if(place.together && channel < min(kStagedChannels, channels), target, words[i]);
      target += kAtOnce * stride_c;
    }
  }
}

// In words, or in elements where a word has no place.
template <typename T, int kColumns, int kPlanes, int kBlocks, int kSlots>
__device__ __forceinline__ void store_words(const WgmmaDataArguments& args, const ResultTile<T>& to,
                                            const float (&sums)[kBlocks][kSlots][kColumns / 2],
                                            const unsigned* rows, uint32_t* staging, int lane) {
  using Words = StagedWords<T, kPlanes, kBlocks>;
  constexpr int kBuffer = kStagedChannels * Words::kPitch;
  // Neighbouring lanes take neighbours of a channel.
  constexpr int kPerChannel = Words::kPerChannel, kPerLane = Words::kPerLane;
  constexpr int kAtOnce = Words::kChannelsAtOnce;
  const int first_word = lane % kPerChannel, first_channel = lane / kPerChannel;
  WordPlace places[kPerLane];
  bool any = false, apart = false;
#pragma unroll
  for (int k = 0; k < kPerLane; ++k) {
    places[k] = locate_word<T, kPlanes>(args, to, rows, first_word + 32 * k);
    const bool inside = places[k].inside[0] || places[k].inside[1];
    any = any || inside;
    apart = apart || (inside && !places[k].together);
  }
  if (!__any_sync(0xffffffffu, any)) return;
  apart = __any_sync(0xffffffffu, apart);
  const int64_t stride_c = args.result.stride[1];
  T* target = to.base + first_channel * stride_c;
#pragma unroll
  for (int first = 0; first < kColumns; first += kStagedChannels) {
    if (first >= to.channels) break;
    // Two buffers: one is read while the next is written.
    uint32_t* const buffer = staging + first / kStagedChannels % 2 * kBuffer;
    stage_channels<T, kColumns, kPlanes>(buffer, sums, to.bias, first, lane);
    __syncwarp();
    const uint32_t* const staged = buffer + first_channel * Words::kPitch + first_word;
    const int channels = min(kStagedChannels, to.channels - first) - first_channel;
    constexpr int kSteps = kStagedChannels / kAtOnce;
    uint32_t words[kSteps][kPerLane];
#pragma unroll
    for (int i = 0; i < kSteps; ++i)
#pragma unroll
      for (int k = 0; k < kPerLane; ++k) words[i][k] = staged[i * kAtOnce * Words::kPitch + 32 * k];
#pragma unroll
    for (int i = 0; i < kSteps; ++i) {
      if (i * kAtOnce < channels) {
#pragma unroll
        for (int k = 0; k < kPerLane; ++k) {
          const WordPlace& place = places[k];
          if (place.together) {
            *reinterpret_cast<uint32_t*>(target + place.offset[0]) = words[i][k];
          } else if (apart) {
            unsigned short* const elements = reinterpret_cast<unsigned short*>(target);
            if (place.inside[0])
              elements[place.offset[0]] = static_cast<unsigned short>(words[i][k]);
            if (place.inside[1])
              elements[place.offset[1]] = static_cast<unsigned short>(words[i][k] >> 16);
          }
        }
      }
      target += kAtOnce * stride_c;
    }
  }
}

template <bool kMerged, typename T, int kColumns, int kPlanes, int kBlocks, int kSlots>
__device__ __forceinline__ void store_contiguous(const WgmmaDataArguments& args,
                                                 const ResultTile<T>& to,
                                                 const float (&sums)[kBlocks][kSlots][kColumns / 2],
                                                 const unsigned* rows, uint32_t* staging,
                                                 int lane) {
  // See has_vector_runs().
  if constexpr (!kMerged) {
    if (args.result_in_vectors) {
      store_vectors<T, kColumns, kPlanes>(args, to, sums, rows, staging, lane);
      return;
    }
  }
  store_words<T, kColumns, kPlanes>(args, to, sums, rows, staging, lane);
}

}  // namespace convt3d

// Results of the WGMMA data kernel (wgmma_data.cuh): from the sums of a warpgroup to memory.
#pragma once

#include "wgmma_data_tables.cuh"

namespace convt3d {

// Elements of 32 bits.
template <typename T>
constexpr int kWordElements = 4 / static_cast<int>(sizeof(T));

// Where a column tile's results go: `base` is the tile's first position, planes (0, 0), first
// channel.
template <typename T>
struct ResultTile {
  T* base;
  int samples;
  int h, w;  // first positions
  int plane_h, plane_w;
  int channels;       // from the first on, in the group
  const float* bias;  // of the tile's channels, in shared memory

  // Of the tile's plane p along w, where it has several.
  template <int kPlanes>
  __device__ __forceinline__ T* of_plane(const WgmmaDataArguments& args, int p) const {
    return base + (plane_h * static_cast<int>(args.result.stride[3]) +
                   (kPlanes > 1 ? p : plane_w) * static_cast<int>(args.result.stride[4]));
  }
  template <int kPlanes>
  __device__ __forceinline__ unsigned limits(const WgmmaDataArguments& args, int p) const {
    int positions = args.indices.positions_w[kPlanes > 1 ? 0 : plane_w];
    // Not by index: lanes may ask for different planes.
#pragma unroll
    for (int plane = 1; plane < kPlanes; ++plane)
      if (p == plane) positions = args.indices.positions_w[plane];
    return pack_limits(samples, args.indices.positions_h[plane_h] - h, positions - w);
  }
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

// How the results of a column tile leave: 16 bytes at a time, of channels that all exist or not, or
// in elements.
enum class RowStores { kWholeVectors, kVectors, kElements };

// A thread's neighbouring results of a row: two sums of every four from `sums` on.
template <RowStores kStores, typename T, int kOwned>
__device__ __forceinline__ void store_owned(bool exists, T* target, const float* sums,
                                            const float* bias, int channels) {
  constexpr int kVector = 4 * kWordElements<T>;
  constexpr int kCount = kOwned < kVector ? kOwned : kVector;
#pragma unroll
  for (int part = 0; part < kOwned; part += kCount) {
    uint32_t words[kCount / kWordElements<T>];
#pragma unroll
    for (int j = 0; j < kCount; j += 2) {
      const float* const pair = sums + (part + j) * 2;
      const float first = pair[0] + bias[part + j], second = pair[1] + bias[part + j + 1];
      if constexpr (kWordElements<T> == 1) {
        words[j] = __float_as_uint(first);
        words[j + 1] = __float_as_uint(second);
      } else {
        words[j / 2] = pack_pair<T>(first, second);
      }
    }
    if constexpr (kStores == RowStores::kElements) {
      using Bits = BitsOf<T>;
#pragma unroll
      for (int i = 0; i < kCount; ++i)
        if (exists && part + i < channels)
          reinterpret_cast<Bits*>(target)[part + i] = static_cast<Bits>(
              words[i / kWordElements<T>] >> (8 * sizeof(T) * (i % kWordElements<T>)));
    } else {
      store_words_if(exists && (kStores == RowStores::kWholeVectors || part < channels),
                     target + part, words);
    }
  }
}

template <typename T, int kColumns, int kPlanes, int kBlocks, int kSlots>
__device__ __forceinline__ void store_channels_last(
    const WgmmaDataArguments& args, const ResultTile<T>& to,
    const float (&sums)[kBlocks][kSlots][kColumns / 2], const TileRow* rows, int lane) {
  // Once for all channels, where registers are left for that.
  constexpr bool kHeld = kBlocks * kSlots * kColumns / 2 < 128;
  TileRow held[kBlocks][2];
  const auto row_of = [&](int block, int half) {
    return rows[(half * kBlocks + block) * 8 + lane / 4];
  };
  if constexpr (kHeld) {
#pragma unroll
    for (int block = 0; block < kBlocks; ++block)
#pragma unroll
      for (int half = 0; half < 2; ++half) held[block][half] = row_of(block, half);
  }
  const auto store = [&]<RowStores kStores, bool kBias>() {
    for_owned_columns<T, kColumns>(
        [&]<int kOwned>(std::integral_constant<int, kOwned>, int first, int own) {
          const float* const bias = to.bias + own + first;
          float held_bias[kOwned] = {};
          if constexpr (kHeld && kBias)
#pragma unroll
            for (int j = 0; j < kOwned; ++j) held_bias[j] = bias[j];
#pragma unroll
          for (int p = 0; p < kPlanes; ++p) {
            T* base = to.template of_plane<kPlanes>(args, p) + own;
            forget_origin(base);  // adding to it is one instruction then
            const unsigned limits = to.template limits<kPlanes>(args, p);
#pragma unroll
            for (int block = 0; block < kBlocks; ++block)
#pragma unroll
              for (int half = 0; half < 2; ++half) {
                const TileRow row = kHeld ? held[block][half] : row_of(block, half);
                const bool exists = is_inside(row.position, limits);
                // A branch keeps the compiler from finding all rows' places at once.
                if (kHeld || exists)
                  store_owned<kStores, T, kOwned>(
                      exists, base + row.offset + first, &sums[block][p][first / 2 + 2 * half],
                      kHeld || !kBias ? held_bias : bias, to.channels - own - first);
              }
          }
        });
  };
  if (!args.result_in_vectors)
    store.template operator()<RowStores::kElements, true>();
  else if (to.channels < kColumns)
    store.template operator()<RowStores::kVectors, true>();
  // Float32 always adds the bias, zeros where there is none: without an operation in between, ptxas
  // spills.
  else if (kWordElements<T> == 1 || args.bias.data != nullptr)
    store.template operator()<RowStores::kWholeVectors, true>();
  else
    store.template operator()<RowStores::kWholeVectors, false>();
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
};

// Where the elements of a word go, relative to the result tile.
struct WordPlace {
  int offset[2];
  bool inside[2];
  bool together;  // all inside, neighbours, on a 32-bit boundary
};

template <typename T, int kPlanes>
__device__ __forceinline__ WordPlace locate_word(const WgmmaDataArguments& args,
                                                 const ResultTile<T>& to, const TileRow* rows,
                                                 int word) {
  WordPlace place{};
#pragma unroll
  for (int e = 0; e < kWordElements<T>; ++e) {
    const int element = kWordElements<T> * word + e, p = element % kPlanes;
    const TileRow row = rows[element / kPlanes];
    place.offset[e] = row.offset + (kPlanes > 1 ? p * static_cast<int>(args.result.stride[4]) : 0);
    // Said so that the compiler keeps one offset where it can.
    if (kPlanes > 1 && e == 1) place.offset[1] = place.offset[0] + 1;
    place.inside[e] = is_inside(row.position, to.template limits<kPlanes>(args, p));
  }
  if constexpr (kWordElements<T> == 1)
    place.together = place.inside[0];
  else
    place.together =
        place.inside[0] && place.inside[1] && place.offset[1] == place.offset[0] + 1 &&
        (reinterpret_cast<uintptr_t>(to.template of_plane<kPlanes>(args, 0) + place.offset[0]) |
         2 * args.result.stride[1]) %
                4 ==
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

// kWidth words at a time: vectors, which lie inside the result or outside as a whole, or single
// words, which leave in elements where they have no place.
template <int kWidth, typename T, int kColumns, int kPlanes, int kBlocks, int kSlots>
__device__ __forceinline__ void store_staged(const WgmmaDataArguments& args,
                                             const ResultTile<T>& to,
                                             const float (&sums)[kBlocks][kSlots][kColumns / 2],
                                             const TileRow* rows, uint32_t* staging, int lane) {
  using Words = StagedWords<T, kPlanes, kBlocks>;
  constexpr bool kElements = kWidth == 1 && kWordElements<T> == 2;
  constexpr int kBuffer = kStagedChannels * Words::kPitch, kGroups = kColumns / kStagedChannels;
  // Neighbouring lanes take neighbours of a channel. They are spread over channels, or take several
  // of one channel; with two vectors in each of eight channels, some have none.
  constexpr int kPerChannel = Words::kPerChannel / kWidth;
  constexpr int kPerLane = kPerChannel > 32 ? kPerChannel / 32 : 1;
  constexpr int kAtOnce = kPerChannel * kStagedChannels <= 32 ? kStagedChannels
                          : kPerLane > 1                      ? 1
                                                              : 32 / kPerChannel;
  const int first_unit = lane % kPerChannel, first_channel = lane / kPerChannel;
  const int64_t stride_c = args.result.stride[1];
  T* targets[kPerLane];
  // Channels that leave whole, from the lane's first on: one comparison tells whether it stores.
  int whole[kPerLane];
  unsigned apart_inside[kPerLane];  // a bit per element of those that do not
  int distance[kPerLane];           // of their elements
  bool any = false, apart = false;
#pragma unroll
  for (int k = 0; k < kPerLane; ++k) {
    const WordPlace place = locate_word<T, kPlanes>(args, to, rows, kWidth * (first_unit + 32 * k));
    targets[k] =
        to.template of_plane<kPlanes>(args, 0) + place.offset[0] + first_channel * stride_c;
    forget_origin(targets[k]);  // adding to it is two instructions, there and below
    whole[k] = place.together && first_channel < kStagedChannels ? to.channels - first_channel : 0;
    apart_inside[k] = place.together ? 0 : (place.inside[0] ? 1 : 0) | (place.inside[1] ? 2 : 0);
    distance[k] = place.offset[1] - place.offset[0];
    any = any || place.together || (kElements && apart_inside[k] != 0);
    apart = apart || apart_inside[k] != 0;
  }
  if (!__any_sync(0xffffffffu, any)) return;
  if constexpr (kElements) apart = __any_sync(0xffffffffu, apart);
  // Lanes without a channel read another lane's.
  const uint32_t* const staged =
      staging + first_channel % kStagedChannels * Words::kPitch + kWidth * first_unit;
  // Of two buffers, one is read while the other is written: while the words of eight channels come,
  // the next but one go there.
  const auto stage = [&](int group) {
    stage_channels<T, kColumns, kPlanes>(staging + group % 2 * kBuffer, sums, to.bias,
                                         group * kStagedChannels, lane);
  };
  stage(0);
  if constexpr (kGroups > 1) stage(1);
  __syncwarp();
  // Registers for so many words at a time.
  constexpr int kMost = kWidth == 4 ? 16 : 8;
  constexpr int kAllSteps = kStagedChannels / kAtOnce, kWords = kPerLane * kWidth;
  constexpr int kSteps = kAllSteps * kWords <= kMost ? kAllSteps : kMost / kWords;
#pragma unroll
  for (int group = 0; group < kGroups; ++group) {
    if (group * kStagedChannels >= to.channels) break;
#pragma unroll
    for (int step = 0; step < kAllSteps; step += kSteps) {
      uint32_t words[kSteps][kPerLane][kWidth];
#pragma unroll
      for (int i = 0; i < kSteps; ++i)
#pragma unroll
        for (int k = 0; k < kPerLane; ++k) {
          const uint32_t* const from =
              staged + group % 2 * kBuffer + (step + i) * kAtOnce * Words::kPitch + kWidth * 32 * k;
          if constexpr (kWidth == 4) {
            const uint4 vector = *reinterpret_cast<const uint4*>(from);
            words[i][k][0] = vector.x, words[i][k][1] = vector.y;
            words[i][k][2] = vector.z, words[i][k][3] = vector.w;
          } else {
            words[i][k][0] = *from;
          }
        }
      if (step + kSteps == kAllSteps) {
        __syncwarp();
        if (group + 2 < kGroups) stage(group + 2);
        // Keeps ptxas from storing first, which would wait for the words above at once. With
        // several planes staging takes longer than that.
        if constexpr (kPlanes == 1) __syncwarp();
      }
      const auto store = [&]<bool kApart>() {
#pragma unroll
        for (int i = 0; i < kSteps; ++i)
#pragma unroll
          for (int k = 0; k < kPerLane; ++k) {
            const int channel = group * kStagedChannels + (step + i) * kAtOnce;
            store_words_if(channel < whole[k], targets[k], words[i][k]);
            if constexpr (kApart) {
              const bool exists = channel < to.channels - first_channel;
              unsigned short* const elements = reinterpret_cast<unsigned short*>(targets[k]);
              if (exists && (apart_inside[k] & 1))
                elements[0] = static_cast<unsigned short>(words[i][k][0]);
              if (exists && (apart_inside[k] & 2))
                elements[distance[k]] = static_cast<unsigned short>(words[i][k][0] >> 16);
            }
            targets[k] += kAtOnce * stride_c;
            forget_origin(targets[k]);
          }
      };
      if (kElements && apart)
        store.template operator()<kElements>();
      else
        store.template operator()<false>();
    }
  }
}

template <bool kMerged, typename T, int kColumns, int kPlanes, int kBlocks, int kSlots>
__device__ __forceinline__ void store_contiguous(const WgmmaDataArguments& args,
                                                 const ResultTile<T>& to,
                                                 const float (&sums)[kBlocks][kSlots][kColumns / 2],
                                                 const TileRow* rows, uint32_t* staging, int lane) {
  // See has_vector_runs().
  if constexpr (!kMerged) {
    if (args.result_in_vectors) {
      store_staged<4, T, kColumns, kPlanes>(args, to, sums, rows, staging, lane);
      return;
    }
  }
  store_staged<1, T, kColumns, kPlanes>(args, to, sums, rows, staging, lane);
}

}  // namespace convt3d

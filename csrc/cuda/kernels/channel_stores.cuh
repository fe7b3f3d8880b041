// Sums of matrix products to global memory where channels are neighbours, 16 bytes at a time.
#pragma once

#include <cstdint>

#include "mma.cuh"
#include "scalar.cuh"
#include "wgmma.cuh"

namespace convt3d {

// Four lanes that have four words each exchange them: lane i gets the i-th of each.
__device__ __forceinline__ void exchange_words(uint32_t (&words)[4], int lane) {
#pragma unroll
  for (int bit = 1; bit <= 2; bit *= 2) {
    const bool upper = (lane & bit) != 0;
#pragma unroll
    for (int pair = 0; pair < 2; ++pair) {
      uint32_t& low = words[bit == 1 ? 2 * pair : pair];
      uint32_t& high = words[bit == 1 ? 2 * pair + 1 : pair + 2];
      const uint32_t received = shuffle_word(upper ? low : high, lane ^ bit);
      low = upper ? received : low;
      high = upper ? high : received;
    }
  }
}

// A thread's part of a row: eight neighbouring results, or (float32) two. `channels`: that there
// are.
template <typename T>
__device__ __forceinline__ void store_columns(T* target, const uint32_t* words, int channels,
                                              bool in_vectors) {
  constexpr int kWords = sizeof(T) == 4 ? 2 : 4, kElements = 4 / static_cast<int>(sizeof(T));
  if (in_vectors && channels > 0) {
    if constexpr (kWords == 4)
      store_vector(target, {words[0], words[1], words[2], words[3]});
    else
      store_half_vector(target, {words[0], words[1], 0, 0});
    return;
  }
#pragma unroll
  for (int i = 0; i < kWords * kElements; ++i)
    if (i < channels)
      reinterpret_cast<BitsOf<T>*>(target)[i] =
          static_cast<BitsOf<T>>(words[i / kElements] >> (8 * sizeof(T) * (i % kElements)));
}

}  // namespace convt3d

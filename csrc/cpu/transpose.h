// to[j][i] = from[i][j], the movement between channels-last and contiguous rows.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

#if defined(__SSE__)
#include <xmmintrin.h>
#endif

namespace convt3d::cpu {

template <bool kAdd, typename T>
inline void put(T& place, T value, T offset) {
  if constexpr (kAdd) {
    place += value;
  } else {
    place = value + offset;
  }
}

// `rows` and `columns` are those of `from`, the steps are the distances of rows. With kAdd the
// result is added to what is there, else it replaces it and offsets[j] is added (nullptr: none).
template <bool kAdd, typename T>
void transpose(T* to, int64_t to_step, const T* from, int64_t from_step, int64_t rows,
               int64_t columns, const T* offsets) {
  // Sixteen rows at a time fill a cache line of float32 on the other side.
  constexpr int64_t kRows = 16;
  for (int64_t first = 0; first < rows; first += kRows) {
    const int64_t end = std::min(first + kRows, rows);
    int64_t j = 0;
#if defined(__SSE__)
    if constexpr (std::is_same_v<T, float>) {
      if (end - first == kRows) {
        for (; j + 4 <= columns; j += 4) {
          for (int64_t i = first; i < end; i += 4) {
            const float* source = from + i * from_step + j;
            __m128 tile[4];
            for (int k = 0; k < 4; ++k) tile[k] = _mm_loadu_ps(source + k * from_step);
            _MM_TRANSPOSE4_PS(tile[0], tile[1], tile[2], tile[3]);
            for (int k = 0; k < 4; ++k) {
              float* target = to + (j + k) * to_step + i;
              if constexpr (kAdd) {
                tile[k] = _mm_add_ps(tile[k], _mm_loadu_ps(target));
              } else if (offsets) {
                tile[k] = _mm_add_ps(tile[k], _mm_set1_ps(offsets[j + k]));
              }
              _mm_storeu_ps(target, tile[k]);
            }
          }
        }
      }
    }
#endif
    for (; j < columns; ++j) {
      const T offset = offsets ? offsets[j] : T(0);
      for (int64_t i = first; i < end; ++i)
        put<kAdd>(to[j * to_step + i], from[i * from_step + j], offset);
    }
  }
}

}  // namespace convt3d::cpu

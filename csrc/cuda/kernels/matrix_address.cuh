// Where an operand of a warpgroup's matrix product lies in shared memory, and its sums in
// registers.
#pragma once

#include <cstdint>

namespace convt3d {

// Operands with depth fastest. Without swizzle, 8 rows x 16 bytes lie together and `depth_pitch` is
// the distance of the two 16-byte halves of a step; with it, a row is `width` 16-byte units.
// `row_pitch`: bytes between groups of eight rows.
struct MatrixAddress {
  uint32_t low;   // address in 16-byte units, depth pitch: moves with the address
  uint32_t high;  // row pitch, swizzle

  __device__ MatrixAddress(uint32_t address, uint32_t depth_pitch, uint32_t row_pitch,
                           int width = 1)
      : low((address & 0x3ffff) >> 4 | depth_pitch >> 4 << 16),
        high(row_pitch >> 4 | (width == 8   ? 1u
                               : width == 4 ? 2u
                               : width == 2 ? 3u
                                            : 0u)
                                  << 30) {}
  // The descriptor with another low part.
  __device__ __forceinline__ uint64_t with(uint32_t other) const {
    return static_cast<uint64_t>(high) << 32 | other;
  }
};

// Row and column of a 64-row product of which a thread of the warpgroup holds sum i.
__device__ __forceinline__ int sum_row(int thread, int i) {
  return thread / 32 * 16 + i / 2 % 2 * 8 + thread % 32 / 4;
}
__device__ __forceinline__ int sum_column(int thread, int i) {
  return i / 4 * 8 + thread % 4 * 2 + i % 2;
}

}  // namespace convt3d

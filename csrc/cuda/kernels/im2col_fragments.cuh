// Operands of the im2col kernels in registers: from memory straight into the order of the tensor
// cores' fragments. Which position is which row, and which channel which step of depth, is free as
// long as both operands agree: a thread takes what lies side by side in memory.
#pragma once

#include "im2col_arguments.h"
#include "mma.cuh"
#include "scalar.cuh"

namespace convt3d {

// Elements of 16 bytes, and of a thread in a chunk of depth (two steps of products).
template <typename T>
constexpr int kRunElements = 16 / static_cast<int>(sizeof(T));

// Low and high halves of two words.
__device__ __forceinline__ uint32_t low_halves(uint32_t a, uint32_t b) {
  return __byte_perm(a, b, 0x5410);
}
__device__ __forceinline__ uint32_t high_halves(uint32_t a, uint32_t b) {
  return __byte_perm(a, b, 0x7632);
}

// A step's operands. Float32 is rounded to TF32; with kAccurate the rest is kept, too.
template <typename T, bool kAccurate>
struct LeftFragment {
  uint32_t high[4], low[kAccurate ? 4 : 1];

  LeftFragment() = default;
  __device__ __forceinline__ LeftFragment(uint32_t a, uint32_t b, uint32_t c, uint32_t d)
      : high{a, b, c, d} {
    if constexpr (sizeof(T) == 4) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float value = __uint_as_float(high[i]);
        high[i] = round_to_tf32(high[i]);
        if constexpr (kAccurate)
          low[i] = round_to_tf32(__float_as_uint(value - __uint_as_float(high[i])));
      }
    }
  }
};
template <bool kAccurate>
struct RightFragment {
  uint32_t high[2], low[kAccurate ? 2 : 1];

  // Packed weights: high parts, and with kAccurate the low ones behind them.
  static constexpr int kBytes = kAccurate ? 16 : 8;
  __device__ __forceinline__ void load(const char* shared) {
    if constexpr (kAccurate) {
      const uint4 packed = *reinterpret_cast<const uint4*>(shared);
      high[0] = packed.x;
      high[1] = packed.y;
      low[0] = packed.z;
      low[1] = packed.w;
    } else {
      const uint2 packed = *reinterpret_cast<const uint2*>(shared);
      high[0] = packed.x;
      high[1] = packed.y;
    }
  }
  __device__ __forceinline__ void store(char* shared) const {
    if constexpr (kAccurate)
      *reinterpret_cast<uint4*>(shared) = make_uint4(high[0], high[1], low[0], low[1]);
    else
      *reinterpret_cast<uint2*>(shared) = make_uint2(high[0], high[1]);
  }
  // Of two values each (16 bits), or of one (float32).
  template <typename T>
  __device__ __forceinline__ void set(uint32_t first, uint32_t second) {
    high[0] = first;
    high[1] = second;
    if constexpr (sizeof(T) == 4) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const float value = __uint_as_float(high[i]);
        high[i] = round_to_tf32(high[i]);
        if constexpr (kAccurate)
          low[i] = round_to_tf32(__float_as_uint(value - __uint_as_float(high[i])));
      }
    }
  }
};

// Some steps of depth, of two fragments of 16 rows and one of 8 columns. The tensor cores cut sums
// off where they do not fit a float: accurate sums are theirs for two steps only.
template <typename T, bool kAccurate, int kSteps>
__device__ __forceinline__ void multiply_steps(float (&sums)[2][4],
                                               const LeftFragment<T, kAccurate> (&left)[kSteps][2],
                                               const RightFragment<kAccurate> (&right)[kSteps]) {
  if constexpr (kAccurate) {
    float part[2][4] = {};
#pragma unroll
    for (int step = 0; step < kSteps; ++step)
#pragma unroll
      for (int m = 0; m < 2; ++m) {
        multiply_tile<T>(part[m], left[step][m].low, right[step].high[0], right[step].high[1]);
        multiply_tile<T>(part[m], left[step][m].high, right[step].low[0], right[step].low[1]);
        multiply_tile<T>(part[m], left[step][m].high, right[step].high[0], right[step].high[1]);
      }
#pragma unroll
    for (int m = 0; m < 2; ++m)
#pragma unroll
      for (int i = 0; i < 4; ++i) sums[m][i] += part[m][i];
  } else {
#pragma unroll
    for (int step = 0; step < kSteps; ++step)
#pragma unroll
      for (int m = 0; m < 2; ++m)
        multiply_tile<T>(sums[m], left[step][m].high, right[step].high[0], right[step].high[1]);
  }
}

// Of four 32-bit words, or of two.
template <int kWords>
__device__ __forceinline__ void load_words(uint32_t* words, const void* source, bool valid) {
  if constexpr (kWords == 4) {
    const uint4 loaded = valid ? *static_cast<const uint4*>(source) : make_uint4(0, 0, 0, 0);
    words[0] = loaded.x;
    words[1] = loaded.y;
    words[2] = loaded.z;
    words[3] = loaded.w;
  } else {
    const uint2 loaded = valid ? *static_cast<const uint2*>(source) : make_uint2(0, 0);
    words[0] = loaded.x;
    words[1] = loaded.y;
  }
}

// Four neighbouring elements as they are stored.
template <typename T>
__device__ __forceinline__ void store_quad(T* to, float a, float b, float c, float d) {
  if constexpr (sizeof(T) == 4)
    store_vector(to,
                 {__float_as_uint(a), __float_as_uint(b), __float_as_uint(c), __float_as_uint(d)});
  else
    store_half_vector(to, {pack_pair<T>(a, b), pack_pair<T>(c, d), 0, 0});
}

// Offsets of the weight's columns (output channels x taps) in its tensor.
__device__ __forceinline__ int64_t weight_offset(const Im2colArguments& args, int column) {
  int rest = column;
  const int w = args.kernel_w.take(rest), h = args.kernel_h.take(rest);
  const int d = rest % args.plan.kernel[0], channel = rest / args.plan.kernel[0];
  return channel * args.weight.stride[1] + d * args.weight.stride[2] + h * args.weight.stride[3] +
         w * args.weight.stride[4];
}

// An element's bits; zero where it is not there.
template <typename T>
__device__ __forceinline__ uint32_t bits_of(const T* source, bool valid) {
  if constexpr (sizeof(T) == 4)
    return valid ? *reinterpret_cast<const uint32_t*>(source) : 0u;
  else
    return valid ? *reinterpret_cast<const uint16_t*>(source) : 0u;
}

}  // namespace convt3d

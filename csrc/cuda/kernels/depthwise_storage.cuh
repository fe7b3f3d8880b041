// Conversions of the 16-bit types for the depthwise kernels.
#pragma once

#include "depthwise_data_thread.h"
#include "scalar.cuh"

namespace convt3d {

template <>
struct Storage<__half> {
  using Quad = uint2;
  static __device__ float load(__half value) { return __half2float(value); }
  static __device__ void load(const Quad& quad, float (&values)[4]) {
    const float2 low = __half22float2(reinterpret_cast<const __half2&>(quad.x));
    const float2 high = __half22float2(reinterpret_cast<const __half2&>(quad.y));
    values[0] = low.x;
    values[1] = low.y;
    values[2] = high.x;
    values[3] = high.y;
  }
  static __device__ __half store(float value) { return __float2half_rn(value); }
  static __device__ Quad store(const float (&values)[4]) {
    const __half2 low = __floats2half2_rn(values[0], values[1]);
    const __half2 high = __floats2half2_rn(values[2], values[3]);
    return {reinterpret_cast<const uint32_t&>(low), reinterpret_cast<const uint32_t&>(high)};
  }
};
template <>
struct Storage<__nv_bfloat16> {
  using Quad = uint2;
  static __device__ float load(__nv_bfloat16 value) { return __bfloat162float(value); }
  static __device__ void load(const Quad& quad, float (&values)[4]) {
    values[0] = __uint_as_float(quad.x << 16);
    values[1] = __uint_as_float(quad.x & 0xffff0000u);
    values[2] = __uint_as_float(quad.y << 16);
    values[3] = __uint_as_float(quad.y & 0xffff0000u);
  }
  static __device__ __nv_bfloat16 store(float value) { return __float2bfloat16_rn(value); }
  static __device__ Quad store(const float (&values)[4]) {
    const __nv_bfloat162 low = __floats2bfloat162_rn(values[0], values[1]);
    const __nv_bfloat162 high = __floats2bfloat162_rn(values[2], values[3]);
    return {reinterpret_cast<const uint32_t&>(low), reinterpret_cast<const uint32_t&>(high)};
  }
};

}  // namespace convt3d

// Storage types and the types they are accumulated in.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <type_traits>

namespace convt3d {

template <typename Real>
struct Complex {
  Real real;
  Real imag;
};

// float16, bfloat16 -> float; float32 -> float; float64 -> double; complex through real parts.
template <typename T>
struct AccumulatorOf {
  using type = float;
};
template <>
struct AccumulatorOf<double> {
  using type = double;
};
template <typename Real>
struct AccumulatorOf<Complex<Real>> {
  using type = Complex<typename AccumulatorOf<Real>::type>;
};
template <typename T>
using Accumulator = typename AccumulatorOf<T>::type;

// The type that sums many accumulators: float sums would lose digits over millions of terms.
template <typename A>
struct WideOf {
  using type = double;
};
template <typename Real>
struct WideOf<Complex<Real>> {
  using type = Complex<double>;
};
template <typename A>
using Wide = typename WideOf<A>::type;

template <typename To>
struct Convert {
  template <typename From>
  static __device__ To from(From value) {
    return static_cast<To>(value);
  }
  static __device__ To from(__half value) { return static_cast<To>(__half2float(value)); }
  static __device__ To from(__nv_bfloat16 value) {
    return static_cast<To>(__bfloat162float(value));
  }
};
template <>
struct Convert<__half> {
  static __device__ __half from(float value) { return __float2half_rn(value); }
  static __device__ __half from(double value) { return __double2half(value); }
};
template <>
struct Convert<__nv_bfloat16> {
  static __device__ __nv_bfloat16 from(float value) { return __float2bfloat16_rn(value); }
  static __device__ __nv_bfloat16 from(double value) { return __double2bfloat16(value); }
};
template <typename Real>
struct Convert<Complex<Real>> {
  template <typename From>
  static __device__ Complex<Real> from(Complex<From> value) {
    return {Convert<Real>::from(value.real), Convert<Real>::from(value.imag)};
  }
};

// What an element of two or four bytes is copied as.
template <typename T>
using BitsOf = std::conditional_t<sizeof(T) == 4, uint32_t, unsigned short>;

// Two values of a 16-bit type side by side.
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

template <typename Real>
__device__ void add(Real& sum, Real value) {
  sum += value;
}
template <typename Real>
__device__ void add(Complex<Real>& sum, Complex<Real> value) {
  sum.real += value.real;
  sum.imag += value.imag;
}

template <typename Real>
__device__ void multiply_add(Real& sum, Real a, Real b) {
  sum += a * b;
}
template <typename Real>
__device__ void multiply_add(Complex<Real>& sum, Complex<Real> a, Complex<Real> b) {
  sum.real += a.real * b.real - a.imag * b.imag;
  sum.imag += a.real * b.imag + a.imag * b.real;
}

template <typename Real>
__device__ Real shuffle_down(Real value, int distance) {
  return __shfl_down_sync(0xffffffffu, value, distance);
}
template <typename Real>
__device__ Complex<Real> shuffle_down(Complex<Real> value, int distance) {
  return {shuffle_down(value.real, distance), shuffle_down(value.imag, distance)};
}

}  // namespace convt3d

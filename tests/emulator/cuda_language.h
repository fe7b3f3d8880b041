// Included before everything else (-include) where kernels are compiled for the emulator: the parts
// of CUDA C++ that only nvcc knows.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <vector_functions.h>

#include <bit>
#include <cstdint>
#include <cstring>
#include <functional>
#include <utility>

#include "block.h"
#include "shared_memory.h"

#undef __global__
#undef __device__
#undef __host__
#undef __shared__
#undef __grid_constant__
#undef __launch_bounds__
#undef __forceinline__
#define __global__
#define __device__
#define __host__
// Fits both `extern __shared__`, which becomes the emulator's buffer, and an array of a function,
// which becomes static. (The former not in an unnamed namespace.) All fibers run on one thread of
// the system.
#define __shared__ thread_local
#define __grid_constant__
#define __launch_bounds__(...)
#define __forceinline__ inline

extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;

// ---- Arithmetic ------------------------------------------------------------------------------
inline int min(int a, int b) { return a < b ? a : b; }
inline int max(int a, int b) { return a > b ? a : b; }
inline unsigned min(unsigned a, unsigned b) { return a < b ? a : b; }
inline unsigned max(unsigned a, unsigned b) { return a > b ? a : b; }
inline int64_t min(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t max(int64_t a, int64_t b) { return a > b ? a : b; }

inline unsigned __float_as_uint(float value) {
  unsigned bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}
inline float __uint_as_float(unsigned bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}
// Bytes of b:a by the selector's hexadecimal digits.
inline unsigned __byte_perm(unsigned a, unsigned b, unsigned selector) {
  const uint64_t bytes = static_cast<uint64_t>(b) << 32 | a;
  unsigned result = 0;
  for (int i = 0; i < 4; ++i)
    result |= static_cast<unsigned>(bytes >> 8 * (selector >> 4 * i & 7) & 255) << 8 * i;
  return result;
}
inline int __clz(int value) { return std::countl_zero(static_cast<unsigned>(value)); }
template <typename T>
T atomicOr(T* target, T value) {
  return std::exchange(*target, *target | value);
}
template <typename T>
T atomicAdd(T* target, T value) {
  return std::exchange(*target, *target + value);
}
// Blocks run one after the other.
inline void __threadfence() {}
template <typename T>
T __ldcg(const T* source) {
  return *source;
}
template <typename T>
T __ldg(const T* source) {
  if (reinterpret_cast<uintptr_t>(source) % sizeof(T) != 0)
    convt3d::emulator::fail("__ldg of %zu bytes at %p", sizeof(T),
                            static_cast<const void*>(source));
  return *source;
}

// ---- Threads together ------------------------------------------------------------------------
inline void __syncthreads(
    const convt3d::emulator::Where& where = convt3d::emulator::Where::current()) {
  convt3d::emulator::meet_block(0, 0, where);
}
inline void __syncwarp(
    unsigned mask = convt3d::emulator::kWholeWarp,
    const convt3d::emulator::Where& where = convt3d::emulator::Where::current()) {
  convt3d::emulator::meet_lanes("__syncwarp", mask, nullptr, [](const auto&) {}, where);
}

namespace convt3d::emulator {
// The value of lane `from`, its own where there is no such lane.
template <typename T>
T shuffle(const char* what, unsigned mask, T value, int from, const Where& where) {
  struct Lane {
    T own, received;
    int from;
  };
  Lane mine{value, value, from};
  meet_lanes(
      what, mask, &mine,
      [&](const Operands& lanes) {
        for (int lane = 0; lane < kWarpThreads; ++lane) {
          if ((mask >> lane & 1) == 0) continue;
          Lane& to = *static_cast<Lane*>(lanes[lane]);
          if (to.from < 0 || to.from >= kWarpThreads) continue;
          if ((mask >> to.from & 1) == 0) fail_at(where, "%s: lane %d is not there", what, to.from);
          to.received = static_cast<Lane*>(lanes[to.from])->own;
        }
      },
      where);
  return mine.received;
}
}  // namespace convt3d::emulator

template <typename T>
T __shfl_sync(unsigned mask, T value, int source,
              const convt3d::emulator::Where& where = convt3d::emulator::Where::current()) {
  return convt3d::emulator::shuffle("__shfl_sync", mask, value, source & 31, where);
}
template <typename T>
T __shfl_down_sync(unsigned mask, T value, int distance,
                   const convt3d::emulator::Where& where = convt3d::emulator::Where::current()) {
  const int lane = convt3d::emulator::this_lane();
  return convt3d::emulator::shuffle("__shfl_down_sync", mask, value, lane + distance, where);
}
inline int __any_sync(unsigned mask, int predicate,
                      const convt3d::emulator::Where& where = convt3d::emulator::Where::current()) {
  using namespace convt3d::emulator;
  int vote[2] = {predicate, 0};
  meet_lanes(
      "__any_sync", mask, vote,
      [mask](const Operands& lanes) {
        int any = 0;
        for (int lane = 0; lane < kWarpThreads; ++lane)
          if (mask >> lane & 1) any |= static_cast<int*>(lanes[lane])[0] != 0;
        for (int lane = 0; lane < kWarpThreads; ++lane)
          if (mask >> lane & 1) static_cast<int*>(lanes[lane])[1] = any;
      },
      where);
  return vote[1];
}

// ---- Launches --------------------------------------------------------------------------------
// Complete when they return. By another name: cuda_runtime.h has templates of the same form.
#define cudaLaunchKernelEx launch_emulated
template <typename... Parameters, typename... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* launch, void (*kernel)(Parameters...),
                               const Arguments&... arguments) {
  using namespace convt3d::emulator;
  gridDim = launch->gridDim;
  blockDim = launch->blockDim;
  const Grid grid{{gridDim.x, gridDim.y, gridDim.z},
                  static_cast<int>(blockDim.x * blockDim.y * blockDim.z),
                  static_cast<int>(launch->dynamicSmemBytes)};
  if (grid.blocks[0] == 0 || grid.blocks[1] == 0 || grid.blocks[2] == 0 || grid.blocks[1] > 65535 ||
      grid.blocks[2] > 65535)
    return cudaErrorInvalidConfiguration;
  run_grid(grid, [&] { kernel(static_cast<Parameters>(arguments)...); });
  return cudaSuccess;
}
#define cudaMemsetAsync memset_emulated
inline cudaError_t cudaMemsetAsync(void* target, int value, size_t bytes, cudaStream_t) {
  std::memset(target, value, bytes);
  return cudaSuccess;
}
// Attributes are the compiler's, which is not nvcc.
template <typename Kernel>
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes*, Kernel*) {
  return cudaErrorNotSupported;
}
template <typename Kernel>
cudaError_t cudaFuncSetAttribute(Kernel*, cudaFuncAttribute, int bytes) {
  return bytes <= convt3d::emulator::kSharedBytes ? cudaSuccess : cudaErrorInvalidValue;
}

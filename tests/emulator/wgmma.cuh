// Stands in for csrc/cuda/kernels/wgmma.cuh where kernels are compiled for the emulator.
#pragma once

#include <cuda.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <cstring>

#include "copy_engine.h"
#include "instructions.h"
#include "matrix_address.cuh"
#include "mma.cuh"
#include "shared_memory.h"

#define CONVT3D_HAS_WGMMA 1

namespace convt3d {

constexpr int kWarpgroupThreads = 128;

// ---- Barriers in shared memory ---------------------------------------------------------------
inline void barrier_init(uint32_t barrier, int arrivals,
                         const emulator::Where& where = emulator::Where::current()) {
  emulator::init_barrier(barrier, arrivals, where);
}
inline void barrier_arrive(uint32_t barrier,
                           const emulator::Where& where = emulator::Where::current()) {
  emulator::arrive_at_barrier(barrier, 0, where);
}
inline void barrier_expect(uint32_t barrier, uint32_t bytes,
                           const emulator::Where& where = emulator::Where::current()) {
  emulator::arrive_at_barrier(barrier, bytes, where);
}
inline void barrier_wait(uint32_t barrier, uint32_t parity,
                         const emulator::Where& where = emulator::Where::current()) {
  emulator::wait_barrier(barrier, parity, where);
}
inline bool barrier_test(uint32_t barrier, uint32_t parity) {
  return emulator::has_completed(barrier, parity);
}
inline void fence_barrier_init() {}
inline void named_barrier(int id, int threads,
                          const emulator::Where& where = emulator::Where::current()) {
  emulator::meet_block(id, threads, where);
}

// ---- Memory ----------------------------------------------------------------------------------
inline void copy_bulk(uint32_t destination, const void* source, uint32_t bytes, uint32_t barrier,
                      const emulator::Where& where = emulator::Where::current()) {
  emulator::copy_bulk(destination, source, bytes, barrier, where);
}
inline void copy_tensor(uint32_t destination, const CUtensorMap* map, uint32_t barrier, int c,
                        int x, int y, int z, int n,
                        const emulator::Where& where = emulator::Where::current()) {
  emulator::copy_tensor(destination, *map, barrier, {c, x, y, z, n}, where);
}
template <size_t kCount>
void store_matrices_transposed(uint32_t row, const uint32_t (&m)[kCount],
                               const emulator::Where& where = emulator::Where::current()) {
  emulator::store_matrices_transposed(row, m, kCount, where);
}
inline void store_shared(uint32_t address, uint4 value) {
  emulator::store_unit(address, &value, emulator::this_thread());
}
inline void store_shared(uint32_t address, uint32_t value) {
  emulator::store_word(address, value, emulator::this_thread());
}
inline uint32_t load_shared(uint32_t address) {
  uint32_t value;
  std::memcpy(&value, emulator::memory_at(address, 4, 4, "a load"), 4);
  return value;
}
inline uint32_t load_shared_half(uint32_t address) {
  uint16_t value;
  std::memcpy(&value, emulator::memory_at(address, 2, 2, "a load"), 2);
  return value;
}
inline void store_shared(uint32_t address, uint2 value) {
  emulator::memory_at(address, 8, 8, "a store");
  emulator::store_word(address, value.x, emulator::this_thread());
  emulator::store_word(address + 4, value.y, emulator::this_thread());
}
inline uint2 load_shared_pair(uint32_t address) {
  uint2 value;
  std::memcpy(&value, emulator::memory_at(address, 8, 8, "a load"), 8);
  return value;
}
inline uint4 load_shared_unit(uint32_t address) {
  uint4 value;
  std::memcpy(&value, emulator::memory_at(address, 16, 16, "a load"), 16);
  return value;
}
inline void launch_dependents() {}
inline void wait_for_previous_kernel() {}
inline void fence_for_wgmma() { emulator::fence_stores(); }

// ---- Matrix products -------------------------------------------------------------------------
inline void pin(float&) {}
inline void pin(uint32_t&) {}
inline void wgmma_fence() {}
inline void wgmma_commit() { emulator::wgmma_commit(); }
inline unsigned uniform(unsigned value, const emulator::Where& where = emulator::Where::current()) {
  return __shfl_sync(0xffffffffu, value, 0, where);
}
inline unsigned uniform_of(int source, int, unsigned value,
                           const emulator::Where& where = emulator::Where::current()) {
  return __shfl_sync(0xffffffffu, value, source, where);
}
inline uint32_t shuffle_word(uint32_t word, int lane,
                             const emulator::Where& where = emulator::Where::current()) {
  return __shfl_sync(0xffffffffu, word, lane, where);
}
inline float shuffle_sum(float sum, int lane,
                         const emulator::Where& where = emulator::Where::current()) {
  return __shfl_sync(0xffffffffu, sum, lane, where);
}
template <int kPending>
void wgmma_wait(const emulator::Where& where = emulator::Where::current()) {
  emulator::wgmma_wait(kPending, where);
}
template <typename T, int kColumns>
struct Wgmma {
  static void multiply(float (&d)[kColumns / 2], uint64_t left, uint64_t right, int accumulate,
                       const emulator::Where& where = emulator::Where::current()) {
    emulator::wgmma({emulator::kElementOf<T>, kColumns, false, false, left, right, accumulate != 0},
                    d, where);
  }
};
template <typename T, int kColumns>
struct WgmmaTransposed {
  static void multiply(float (&d)[kColumns / 2], uint64_t left, uint64_t right, int accumulate,
                       const emulator::Where& where = emulator::Where::current()) {
    emulator::wgmma({emulator::kElementOf<T>, kColumns, true, true, left, right, accumulate != 0},
                    d, where);
  }
};
template <typename T, int kColumns>
struct WgmmaRightTransposed {
  static void multiply(float (&d)[kColumns / 2], uint64_t left, uint64_t right, int accumulate,
                       const emulator::Where& where = emulator::Where::current()) {
    emulator::wgmma({emulator::kElementOf<T>, kColumns, false, true, left, right, accumulate != 0},
                    d, where);
  }
};
template <typename T, int kColumns>
struct WgmmaGathered {
  static void multiply(float (&d)[kColumns / 2], const uint32_t (&a)[4], uint64_t right,
                       const emulator::Where& where = emulator::Where::current()) {
    emulator::wgmma({emulator::kElementOf<T>, kColumns, false, false, 0, right, true, true}, d,
                    where, a);
  }
};

}  // namespace convt3d

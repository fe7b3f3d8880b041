// Stands in for csrc/cuda/kernels/mma.cuh where kernels are compiled for the emulator.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <cstring>

#include "instructions.h"
#include "shared_memory.h"

namespace convt3d {

constexpr bool kHasRegisterPools = true;
template <int kCount>
void claim_registers() {
  static_assert(kCount >= 24 && kCount <= 256 && kCount % 8 == 0);
}
template <int kCount>
void release_registers() {
  static_assert(kCount >= 24 && kCount <= 256 && kCount % 8 == 0);
}
template <int kId, int kThreads>
void meet(const emulator::Where& where = emulator::Where::current()) {
  emulator::meet_block(kId, kThreads, where);
}
template <typename T>
void forget_origin(T*&) {}

inline uint32_t shared_address(const void* pointer) { return emulator::address_of(pointer); }

template <int kBytes>
void copy_async(uint32_t destination, const void* source, bool valid) {
  static_assert(kBytes == 4 || kBytes == 8 || kBytes == 16);
  emulator::copy_async(destination, source, kBytes, valid);
}
inline void copy_async_commit() { emulator::copy_async_commit(); }
template <int kPending>
void copy_async_wait() {
  emulator::copy_async_wait(kPending);
}

inline void store_vector(void* target, const uint32_t (&words)[4]) {
  emulator::store_global(target, words, 16);
}
inline void store_vector(void* target, const uint4& words) {
  emulator::store_global(target, &words.x, 16);
}
inline void store_half_vector(void* target, const uint32_t (&words)[4]) {
  emulator::store_global(target, words, 8);
}

template <int kWords>
inline void store_words_if(bool stores, void* target, const uint32_t (&words)[kWords]) {
  if (stores) emulator::store_global(target, words, 4 * kWords);
}

inline void load_matrix_x4(uint32_t (&fragment)[4], uint32_t address,
                           const emulator::Where& where = emulator::Where::current()) {
  emulator::load_matrices(fragment, 4, false, address, where);
}
inline void load_matrix_trans_x4(uint32_t (&fragment)[4], uint32_t address,
                                 const emulator::Where& where = emulator::Where::current()) {
  emulator::load_matrices(fragment, 4, true, address, where);
}
inline void load_matrix_trans_x2(uint32_t (&fragment)[2], uint32_t address,
                                 const emulator::Where& where = emulator::Where::current()) {
  emulator::load_matrices(fragment, 2, true, address, where);
}
template <typename T>
void multiply_tile(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                   const emulator::Where& where = emulator::Where::current()) {
  emulator::multiply_tile(emulator::kElementOf<T>, d, a, {b0, b1}, where);
}

inline void multiply_tile(double (&d)[4], const double (&a)[2], double b,
                          const emulator::Where& where = emulator::Where::current()) {
  emulator::multiply_tile(d, a, b, where);
}
inline double load_double(uint32_t address) {
  double value;
  std::memcpy(&value, emulator::memory_at(address, 8, 8, "a load"), 8);
  return value;
}

inline uint32_t round_to_tf32(uint32_t bits) { return emulator::round_to_tf32(bits); }

}  // namespace convt3d

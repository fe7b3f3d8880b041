// Stands in for csrc/cuda/kernels/mma.cuh where kernels are compiled for the emulator.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "instructions.h"

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

inline uint32_t round_to_tf32(uint32_t bits) { return emulator::round_to_tf32(bits); }

}  // namespace convt3d

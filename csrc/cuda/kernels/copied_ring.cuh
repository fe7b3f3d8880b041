// What kernels share whose operands the copy engine brings as they are multiplied: three
// warpgroups, of which one starts copies into rings of slots and two multiply.
#pragma once

#include "ring_cursor.cuh"
#include "wgmma.cuh"

namespace convt3d {

constexpr int kCopiedThreads = 3 * kWarpgroupThreads;
// Together 168 of three threads, which is what a block of this size gets.
constexpr int kCopyRegisters = 56, kCopiedMultiplyRegisters = 224;

// Slots in shared memory, and barriers of each: that it is full, that it is empty.
struct CopiedRing {
  uint32_t slots, barriers;
  int slot_bytes;

  __device__ uint32_t slot(int index) const { return slots + index * slot_bytes; }
  __device__ uint32_t full(int index) const { return barriers + 16 * index; }
  __device__ uint32_t empty(int index) const { return barriers + 16 * index + 8; }
};

}  // namespace convt3d

// Slots of shared memory that are filled and emptied in turns.
#pragma once

#include <cstdint>

namespace convt3d {

// A place in a ring of slots: slot and parity of its phase.
struct RingCursor {
  int slot = 0;
  uint32_t parity = 0;

  __device__ __forceinline__ void advance(int slots) {
    if (++slot == slots) {
      slot = 0;
      parity ^= 1;
    }
  }
};

}  // namespace convt3d

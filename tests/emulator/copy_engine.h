// The copy engine: bulk copies, and boxes of tensors as tensor maps describe them.
#pragma once

#include <cuda.h>

#include <array>
#include <cstdint>

#include "block.h"

namespace convt3d::emulator {

void copy_bulk(uint32_t destination, const void* source, uint32_t bytes, uint32_t barrier,
               const Where& where);
void copy_tensor(uint32_t destination, const CUtensorMap& map, uint32_t barrier,
                 const std::array<int, 5>& coordinates, const Where& where);

// Shared memory's swizzle of `width` bytes, on the bits of an address.
constexpr uint32_t swizzled(uint32_t address, int width) {
  return address ^ (address >> 3 & static_cast<uint32_t>(width - 1) & ~15u);
}

}  // namespace convt3d::emulator

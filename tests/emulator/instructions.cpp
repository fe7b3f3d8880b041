#include "instructions.h"

#include <cstring>
#include <memory>

#include "shared_memory.h"

namespace convt3d::emulator {

namespace {

// Conversion in software is slow.
const float* float16_values() {
  static const auto values = [] {
    auto table = std::make_unique<float[]>(65536);
    for (unsigned bits = 0; bits < 65536; ++bits) {
      __half_raw raw;
      raw.x = static_cast<unsigned short>(bits);
      table[bits] = __half2float(__half(raw));
    }
    return table;
  }();
  return values.get();
}

}  // namespace

void load_values(Element element, const char* source, int bytes, float* values) {
  uint16_t halves[8];
  uint32_t words[8];
  const int count = bytes / bytes_of(element);
  if (element == Element::kTf32) {
    std::memcpy(words, source, static_cast<size_t>(bytes));
    for (int i = 0; i < count; ++i) words[i] &= 0xffffe000u;
    std::memcpy(values, words, static_cast<size_t>(count) * sizeof(float));
    return;
  }
  std::memcpy(halves, source, static_cast<size_t>(bytes));
  if (element == Element::kFloat16) {
    const float* const table = float16_values();
    for (int i = 0; i < count; ++i) values[i] = table[halves[i]];
    return;
  }
  for (int i = 0; i < count; ++i) words[i] = static_cast<uint32_t>(halves[i]) << 16;
  std::memcpy(values, words, static_cast<size_t>(count) * sizeof(float));
}

uint32_t round_to_tf32(uint32_t bits) {
  const bool finite = (bits >> 23 & 255) != 255;
  return finite ? (bits + 0x1000u) & 0xffffe000u : bits;
}

void store_global(void* target, const uint32_t* words, int bytes) {
  if (reinterpret_cast<uintptr_t>(target) % static_cast<uintptr_t>(bytes) != 0)
    fail("a store of %d bytes at %p", bytes, target);
  std::memcpy(target, words, static_cast<size_t>(bytes));
}

void store_matrices_transposed(uint32_t row, const uint32_t* words, int matrices,
                               const Where& where) {
  struct Operand {
    uint32_t row;
    const uint32_t* words;
  } operand{row, words};
  const int first = this_thread() / kWarpThreads * kWarpThreads;
  meet_lanes(
      "stmatrix.trans", kWholeWarp, &operand,
      [matrices, first](const Operands& lanes) {
        const auto of = [&](int lane) { return *static_cast<const Operand*>(lanes[lane]); };
        for (int m = 0; m < matrices; ++m)
          for (int r = 0; r < 8; ++r) {
            // Element (i, r) of the matrix that the lanes hold becomes element i of row r.
            uint16_t elements[8];
            for (int i = 0; i < 8; ++i)
              elements[i] = static_cast<uint16_t>(of(4 * i + r / 2).words[m] >> 16 * (r % 2));
            store_unit(of(8 * m + r).row, elements, first + 8 * m + r);
          }
      },
      where);
}

}  // namespace convt3d::emulator

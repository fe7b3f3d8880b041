// The warp's and warpgroup's matrix instructions.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <array>
#include <cstdint>

#include "block.h"

namespace convt3d::emulator {

enum class Element { kFloat16, kBFloat16, kTf32 };
template <typename T>
constexpr Element kElementOf = Element::kTf32;
template <>
inline constexpr Element kElementOf<__half> = Element::kFloat16;
template <>
inline constexpr Element kElementOf<__nv_bfloat16> = Element::kBFloat16;

constexpr int bytes_of(Element element) { return element == Element::kTf32 ? 4 : 2; }
// The values in up to 16 bytes as tensor cores read them: of TF32 the upper 19 bits.
void load_values(Element element, const char* source, int bytes, float* values);
// Nearest TF32 value, ties away from zero, as float bits.
uint32_t round_to_tf32(uint32_t bits);

// ---- Warpgroup products (wgmma) --------------------------------------------------------------
struct WgmmaProduct {
  Element element;
  int columns;
  bool left_transposed, right_transposed;  // rows of the operand are fastest, not the depth
  uint64_t left, right;
  bool accumulate;
  bool gathered = false;  // the left operand comes from registers, not from `left`

  bool operator==(const WgmmaProduct&) const = default;
};
// `fragment`: four registers of a gathered left operand.
void wgmma(const WgmmaProduct& product, float* sums, const Where& where,
           const uint32_t* fragment = nullptr);
void wgmma_commit();
void wgmma_wait(int pending, const Where& where);

// ---- Products of a warp (mma.sync) ------------------------------------------------------------
void multiply_tile(Element element, float (&sums)[4], const uint32_t (&left)[4],
                   std::array<uint32_t, 2> right, const Where& where);
void multiply_tile(double (&sums)[4], const double (&left)[2], double right, const Where& where);
// ldmatrix of 8 x 16-byte matrices; `address`: of a lane's row.
void load_matrices(uint32_t* fragment, int matrices, bool transposed, uint32_t address,
                   const Where& where);

// ---- Copies of a thread (cp.async) -------------------------------------------------------------
void copy_async(uint32_t destination, const void* source, int bytes, bool valid);
void copy_async_commit();
void copy_async_wait(int pending);

// ---- Memory ----------------------------------------------------------------------------------
void store_matrices_transposed(uint32_t row, const uint32_t* words, int matrices,
                               const Where& where);
void store_global(void* target, const uint32_t* words, int bytes);

}  // namespace convt3d::emulator

// Tensors as kernels see them: a dtype, a pointer, strides. No CUDA headers: plans use them, too.
#pragma once

#include <array>
#include <cstdint>

#include "../../geometry.h"

namespace convt3d {

enum class DataType {
  kFloat16,
  kBFloat16,
  kFloat32,
  kFloat64,
  kComplex32,
  kComplex64,
  kComplex128,
};

// An activation (batch, channel, depth, height, width) or a weight (in_channels,
// out_channels / groups, depth, height, width); strides in elements.
struct TensorPointer {
  void* data;
  std::array<int64_t, 5> stride;
};

struct VectorPointer {
  const void* data;  // nullptr: none
  int64_t stride;
};

constexpr bool is_real_floating(DataType type) {
  return type == DataType::kFloat16 || type == DataType::kBFloat16 || type == DataType::kFloat32 ||
         type == DataType::kFloat64;
}

constexpr int element_bytes(DataType type) {
  switch (type) {
    case DataType::kFloat16:
    case DataType::kBFloat16:
      return 2;
    case DataType::kFloat32:
    case DataType::kComplex32:
      return 4;
    case DataType::kFloat64:
    case DataType::kComplex64:
      return 8;
    case DataType::kComplex128:
      return 16;
  }
  return 0;
}

}  // namespace convt3d

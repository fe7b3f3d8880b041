// Tensors as kernels see them: memory and strides. No CUDA headers.
#pragma once

#include <array>
#include <cstdint>

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

}  // namespace convt3d

// How the kernels that pack weights read them. A block stages a piece of the weight tensor (taps x
// result channels x 16-byte units of operand channels) in shared memory and then writes it in the
// order of consumption. It reads in the order of the tensor's memory, whichever of the three goes
// fastest there: neighbouring threads read neighbouring elements of each of a unit's channels.
#pragma once

#include <algorithm>
#include <cstdint>

#include "direct.h"
#include "divisor.h"
#include "scalar.cuh"

namespace convt3d {

constexpr int kPieceThreads = 256;
constexpr int kPieceUnits = 2304;  // of 16 bytes that a piece takes in shared memory at most
// Pieces that do not make up so many blocks are cut down to fewer result channels.
constexpr int kEnoughBlocks = 128;
constexpr int kLeastPieceChannels = 8;
constexpr int kMostPieceChannels = 32;

struct PiecePlace {
  int tap, channel, unit;
};

// The extents of all pieces of a weight tensor, and the order of memory.
class PieceShape {
 public:
  int taps, channels, units;
  bool vectors;  // a unit lies in 16 neighbouring bytes, on a boundary

  PieceShape() = default;
  // `operand_stride` and `result_stride` are those of the weight's two channel dimensions.
  PieceShape(const TensorPointer& weight, int64_t operand_stride, int64_t result_stride,
             int64_t group_stride, const int (&kernel)[3], int unit_elements, int taps,
             int channels, int units)
      : taps(taps), channels(channels), units(units) {
    const int64_t bytes = 16 / unit_elements;
    vectors = operand_stride == 1 && reinterpret_cast<uintptr_t>(weight.data) % 16 == 0 &&
              result_stride * bytes % 16 == 0 && group_stride * bytes % 16 == 0;
    for (int a = 0; a < 3; ++a)
      vectors = vectors && (kernel[a] == 1 || weight.stride[2 + a] * bytes % 16 == 0);
    struct Dimension {
      int64_t stride;
      int extent;
      int* place;
    } order[3] = {{weight.stride[4], taps, &tap_at_},
                  {result_stride, channels, &channel_at_},
                  {operand_stride * unit_elements, units, &unit_at_}};
    std::stable_sort(order, order + 3,
                     [](const Dimension& a, const Dimension& b) { return a.stride < b.stride; });
    for (int i = 0; i < 3; ++i) *order[i].place = i;
    first_ = Divisor(order[0].extent);
    second_ = Divisor(order[1].extent);
  }

  __device__ __forceinline__ int size() const { return taps * channels * units; }
  __device__ __forceinline__ PiecePlace at(int index) const {
    const int first = first_.take(index), second = second_.take(index), third = index;
    const auto coordinate = [&](int at) { return at == 0 ? first : at == 1 ? second : third; };
    return {coordinate(tap_at_), coordinate(channel_at_), coordinate(unit_at_)};
  }

 private:
  int tap_at_, channel_at_, unit_at_;  // places in the order of memory
  Divisor first_, second_;
};

// The unit whose first channel is at `source`; zeros from its channel `present` on.
template <typename T>
__device__ __forceinline__ uint4 read_unit(const T* source, int64_t stride, int present,
                                           bool vectors) {
  constexpr int kElements = 16 / sizeof(T);
  if (vectors && present >= kElements) return __ldg(reinterpret_cast<const uint4*>(source));
  alignas(16) T values[kElements];
#pragma unroll
  for (int j = 0; j < kElements; ++j)
    values[j] = j < present ? __ldg(source + j * stride) : Convert<T>::from(0.f);
  return *reinterpret_cast<const uint4*>(values);
}

}  // namespace convt3d

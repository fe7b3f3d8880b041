// Tensors in guarded memory, and the definition in float64.
#pragma once

#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "cuda/kernels/tensors.h"
#include "geometry.h"

namespace convt3d::emulator {

// Of the memory of a tensor: dimensions from slowest to fastest, and what lies between elements.
enum class Layout { kContiguous, kChannelsLast };
struct Padding {
  int extra[5] = {};  // elements behind each extent, by dimension
  int offset = 0;     // of the first element
};

// (batch, channels, depth, height, width), or a weight. Everything that is no element is NaN.
class HostTensor {
 public:
  HostTensor(DataType type, const Sizes& size, Layout layout, const Padding& padding);

  TensorPointer pointer();
  double at(int64_t index) const;  // of elements in the order of a contiguous tensor
  void set(int64_t index, double value);
  void fill_random(std::mt19937_64& random);
  // All bytes 0xff.
  void poison();
  // Whether memory outside the elements is as poison() left it.
  bool is_surrounded_by_poison() const;
  const Sizes& size() const { return size_; }
  int64_t elements() const;

 private:
  int64_t place(int64_t index) const;

  DataType type_;
  Sizes size_;
  std::array<int64_t, 5> stride_;
  int64_t first_;
  std::vector<char> memory_;
  int64_t base_;  // bytes to a boundary of 128
};

// ---- The definition --------------------------------------------------------------------------
enum class Operation { kForward, kGradInput, kGradWeight };

struct Expected {
  std::vector<double> value, magnitude;  // magnitude: the sum of absolute products
  std::vector<int> terms;
};
// The operands of the operation, in float64; `bias` may be null. `to_tf32`: rounded before.
Expected definition(const Problem& problem, Operation operation, const HostTensor& first,
                    const HostTensor& second, const HostTensor* bias, bool to_tf32);

// Empty, or what is wrong with the first few elements.
std::string difference(const HostTensor& result, const Expected& expected, DataType type);

}  // namespace convt3d::emulator

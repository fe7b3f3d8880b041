// Divisions by numbers that are known when a kernel is launched.
#pragma once

#include <cstdint>

#include "../../geometry.h"

namespace convt3d {

// Divides by a number that the host knows: four instructions instead of twenty, which a kernel that
// runs once through its code has to fetch first.
class Divisor {
 public:
  Divisor() = default;
  explicit Divisor(int divisor) : divisor_(divisor), shift_(0) {
    while (int64_t{1} << shift_ < divisor) ++shift_;
    multiplier_ = static_cast<uint32_t>(((uint64_t{1} << (31 + shift_)) + divisor - 1) / divisor);
  }

  CONVT3D_HOST_DEVICE int value() const { return divisor_; }
  CONVT3D_HOST_DEVICE int quotient(int dividend) const {  // dividend >= 0
    return static_cast<int>(
        static_cast<uint32_t>(static_cast<uint64_t>(dividend) * multiplier_ >> 31) >> shift_);
  }
  // Splits the fastest coordinate, below the divisor, off a flat index.
  CONVT3D_HOST_DEVICE int take(int& flat) const {
    const int whole = quotient(flat), coordinate = flat - whole * divisor_;
    flat = whole;
    return coordinate;
  }

 private:
  uint32_t multiplier_;
  int divisor_, shift_;
};

}  // namespace convt3d

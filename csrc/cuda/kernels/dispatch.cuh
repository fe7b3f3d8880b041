// From run-time facts to template parameters.
#pragma once

#include <cstdint>
#include <limits>

#include "direct.h"
#include "scalar.cuh"

namespace convt3d {

template <typename T>
struct TypeTag {
  using type = T;
};

// Calls `launch` with the TypeTag of the storage type.
template <typename Launch>
cudaError_t dispatch_type(DataType type, Launch&& launch) {
  switch (type) {
    case DataType::kFloat16:
      return launch(TypeTag<__half>{});
    case DataType::kBFloat16:
      return launch(TypeTag<__nv_bfloat16>{});
    case DataType::kFloat32:
      return launch(TypeTag<float>{});
    case DataType::kFloat64:
      return launch(TypeTag<double>{});
    case DataType::kComplex32:
      return launch(TypeTag<Complex<__half>>{});
    case DataType::kComplex64:
      return launch(TypeTag<Complex<float>>{});
    case DataType::kComplex128:
      return launch(TypeTag<Complex<double>>{});
  }
  return cudaErrorInvalidValue;
}

// Whether positions, taps and `work_items` can be counted in 32 bits; tensor offsets are always 64.
inline bool fits_32_bits(const Problem& problem, int64_t work_items) {
  constexpr int64_t limit = std::numeric_limits<int32_t>::max() / 2;
  bool fits = work_items < limit;
  for (const Axis& axis : problem.axes) {
    fits = fits && axis.input <= limit / axis.stride && axis.output < limit &&
           axis.padding < limit && axis.kernel <= limit / axis.dilation;
  }
  return fits;
}

// Calls `launch` with the TypeTag of the index type.
template <typename Launch>
cudaError_t dispatch_index(const Problem& problem, int64_t work_items, Launch&& launch) {
  return fits_32_bits(problem, work_items) ? launch(TypeTag<int32_t>{})
                                           : launch(TypeTag<int64_t>{});
}

}  // namespace convt3d

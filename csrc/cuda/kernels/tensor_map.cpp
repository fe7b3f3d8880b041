#include "tensor_map.h"

namespace convt3d {
namespace {

constexpr int kUnitBytes = 16;

// From the driver that is loaded, so that this library links against none.
auto encoder() {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found{};
  if (cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000,
                                       cudaEnableDefault, &found) != cudaSuccess)
    function = nullptr;
  return reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(function);
}

CUtensorMapDataType element_of(DataType type, Rounding rounding) {
  switch (type) {
    case DataType::kFloat16:
      return CU_TENSOR_MAP_DATA_TYPE_FLOAT16;
    case DataType::kBFloat16:
      return CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
    default:
      return rounding == Rounding::kNone ? CU_TENSOR_MAP_DATA_TYPE_FLOAT32
                                         : CU_TENSOR_MAP_DATA_TYPE_TFLOAT32;
  }
}

CUtensorMapSwizzle swizzle_of(int bytes) {
  switch (bytes) {
    case 32:
      return CU_TENSOR_MAP_SWIZZLE_32B;
    case 64:
      return CU_TENSOR_MAP_SWIZZLE_64B;
    case 128:
      return CU_TENSOR_MAP_SWIZZLE_128B;
    default:
      return CU_TENSOR_MAP_SWIZZLE_NONE;
  }
}

// A map's five dimensions, the fastest first.
struct Dimensions {
  cuuint64_t sizes[5];
  int64_t strides[4];  // elements, of all but the first
  cuuint32_t covers[5], steps[5];
};

cudaError_t encode_map(const TensorPointer& tensor, DataType type, const Dimensions& dimensions,
                       int swizzle, Rounding rounding, CUtensorMap* map) {
  static const auto encode = encoder();
  if (encode == nullptr) return cudaErrorNotSupported;
  cuuint64_t strides[4];  // bytes
  for (int i = 0; i < 4; ++i) {
    // The stride of an extent of 1 means nothing and may be anything.
    const int64_t stride = dimensions.strides[i] * element_bytes(type);
    strides[i] = dimensions.sizes[i + 1] == 1 ? kUnitBytes : static_cast<cuuint64_t>(stride);
  }
  const CUresult result = encode(
      map, element_of(type, rounding), 5, tensor.data, dimensions.sizes, strides, dimensions.covers,
      dimensions.steps, CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle_of(swizzle),
      CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  return result == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}

}  // namespace

cudaError_t describe_tensor(const TensorPointer& tensor, DataType type, int64_t channels,
                            const std::array<int64_t, 4>& extents, const TensorBox& box,
                            CUtensorMap* map) {
  // (channels, w, h, d, batch)
  const auto extent = [&](int i) { return static_cast<cuuint64_t>(extents[i]); };
  const auto covered = [](int size, int step) {
    return static_cast<cuuint32_t>(step * (size - 1) + 1);
  };
  const auto& stride = tensor.stride;
  const int row_bytes = box.width * kUnitBytes;
  return encode_map(
      tensor, type,
      {{static_cast<cuuint64_t>(channels), extent(3), extent(2), extent(1), extent(0)},
       {stride[4], stride[3], stride[2], stride[0]},
       {static_cast<cuuint32_t>(row_bytes / element_bytes(type)), covered(box.size_w, box.step_w),
        covered(box.size_h, box.step_h), covered(box.size_d, box.step_d),
        static_cast<cuuint32_t>(box.samples)},
       {1, static_cast<cuuint32_t>(box.step_w), static_cast<cuuint32_t>(box.step_h),
        static_cast<cuuint32_t>(box.step_d), 1}},
      row_bytes, Rounding::kToTf32, map);
}

cudaError_t describe_lines(const TensorPointer& tensor, DataType type, int64_t channels,
                           int64_t batch, int64_t positions, const TensorLine& line,
                           CUtensorMap* map) {
  return encode_map(
      tensor, type,
      {{static_cast<cuuint64_t>(positions), static_cast<cuuint64_t>(channels),
        static_cast<cuuint64_t>(batch), 1, 1},
       {tensor.stride[1], tensor.stride[0], 0, 0},
       {static_cast<cuuint32_t>(line.positions), static_cast<cuuint32_t>(line.channels), 1, 1, 1},
       {1, 1, 1, 1, 1}},
      line.swizzle, Rounding::kToTf32, map);
}

cudaError_t describe_box(const TensorPointer& tensor, DataType type,
                         const std::array<int64_t, 5>& sizes, const DenseBox& box,
                         Rounding rounding, CUtensorMap* map) {
  Dimensions dimensions{};
  for (int i = 0; i < 5; ++i) {
    dimensions.sizes[i] = static_cast<cuuint64_t>(sizes[box.order[i]]);
    if (i > 0) dimensions.strides[i - 1] = tensor.stride[box.order[i]];
    dimensions.covers[i] = static_cast<cuuint32_t>(box.covers[i]);
    dimensions.steps[i] = 1;
  }
  return encode_map(tensor, type, dimensions, box.swizzle, rounding, map);
}

}  // namespace convt3d

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

CUtensorMapDataType element_of(DataType type) {
  switch (type) {
    case DataType::kFloat16:
      return CU_TENSOR_MAP_DATA_TYPE_FLOAT16;
    case DataType::kBFloat16:
      return CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
    default:
      return CU_TENSOR_MAP_DATA_TYPE_TFLOAT32;
  }
}

}  // namespace

cudaError_t describe_tensor(const TensorPointer& tensor, DataType type, int64_t channels,
                            const std::array<int64_t, 4>& extents, const TensorBox& box,
                            CUtensorMap* map) {
  static const auto encode = encoder();
  if (encode == nullptr) return cudaErrorNotSupported;
  // The map's dimensions are (channels, w, h, d, batch).
  cuuint64_t sizes[5] = {static_cast<cuuint64_t>(channels)};
  cuuint64_t strides[4];  // bytes, of all but the channels
  for (int i = 0; i < 4; ++i) {
    sizes[i + 1] = static_cast<cuuint64_t>(extents[3 - i]);
    // The stride of an extent of 1 means nothing and may be anything.
    const int64_t stride = tensor.stride[i == 3 ? 0 : 4 - i] * element_bytes(type);
    strides[i] = sizes[i + 1] == 1 ? kUnitBytes : static_cast<cuuint64_t>(stride);
  }
  const auto covered = [](int size, int step) {
    return static_cast<cuuint32_t>(step * (size - 1) + 1);
  };
  const cuuint32_t covers[5] = {
      static_cast<cuuint32_t>(box.width * kUnitBytes / element_bytes(type)),
      covered(box.size_w, box.step_w), covered(box.size_h, box.step_h), 1,
      static_cast<cuuint32_t>(box.samples)};
  const cuuint32_t steps[5] = {1, static_cast<cuuint32_t>(box.step_w),
                               static_cast<cuuint32_t>(box.step_h), 1, 1};
  const CUtensorMapSwizzle swizzle = box.width == 8   ? CU_TENSOR_MAP_SWIZZLE_128B
                                     : box.width == 4 ? CU_TENSOR_MAP_SWIZZLE_64B
                                                      : CU_TENSOR_MAP_SWIZZLE_32B;
  const CUresult result =
      encode(map, element_of(type), 5, tensor.data, sizes, strides, covers, steps,
             CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
             CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  return result == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}

}  // namespace convt3d

#include "copy_engine.h"

#include <cstring>

#include "instructions.h"
#include "shared_memory.h"

namespace convt3d::emulator {
namespace {

constexpr int kDimensions = 5;

// What a CUtensorMap holds here.
struct TensorMap {
  const char* data;
  uint64_t strides[kDimensions];  // bytes
  uint32_t sizes[kDimensions];
  uint16_t box[kDimensions];
  uint8_t steps[kDimensions];
  uint8_t swizzle;  // width in bytes
  uint8_t element_bytes;
  bool to_tf32;
};
static_assert(sizeof(TensorMap) <= sizeof(CUtensorMap));

int swizzle_width(CUtensorMapSwizzle swizzle) {
  switch (swizzle) {
    case CU_TENSOR_MAP_SWIZZLE_NONE:
      return 16;
    case CU_TENSOR_MAP_SWIZZLE_32B:
      return 32;
    case CU_TENSOR_MAP_SWIZZLE_64B:
      return 64;
    case CU_TENSOR_MAP_SWIZZLE_128B:
      return 128;
    default:
      return 0;
  }
}

// The limits that the driver documents.
CUresult encode(CUtensorMap* map, CUtensorMapDataType type, cuuint32_t rank, void* data,
                const cuuint64_t* sizes, const cuuint64_t* strides, const cuuint32_t* box,
                const cuuint32_t* steps, CUtensorMapInterleave interleave,
                CUtensorMapSwizzle swizzle, CUtensorMapL2promotion, CUtensorMapFloatOOBfill fill) {
  TensorMap result{};
  const bool is_16_bits =
      type == CU_TENSOR_MAP_DATA_TYPE_FLOAT16 || type == CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
  result.to_tf32 = type == CU_TENSOR_MAP_DATA_TYPE_TFLOAT32;
  if (!is_16_bits && !result.to_tf32 && type != CU_TENSOR_MAP_DATA_TYPE_FLOAT32)
    return CUDA_ERROR_NOT_SUPPORTED;
  if (rank < 1 || rank > kDimensions || interleave != CU_TENSOR_MAP_INTERLEAVE_NONE ||
      fill != CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE)
    return CUDA_ERROR_NOT_SUPPORTED;
  result.element_bytes = is_16_bits ? 2 : 4;
  const int width = swizzle_width(swizzle);
  const auto row_bytes = static_cast<int>(box[0]) * result.element_bytes;
  const bool is_row =
      swizzle == CU_TENSOR_MAP_SWIZZLE_NONE ? row_bytes % 16 == 0 : row_bytes == width;
  if (width == 0 || !is_row) return CUDA_ERROR_INVALID_VALUE;
  if (reinterpret_cast<uintptr_t>(data) % 16 != 0) return CUDA_ERROR_INVALID_VALUE;
  result.data = static_cast<const char*>(data);
  result.swizzle = static_cast<uint8_t>(width);
  for (int i = static_cast<int>(rank); i < kDimensions; ++i)
    result.sizes[i] = result.box[i] = result.steps[i] = 1;
  for (int i = 0; i < static_cast<int>(rank); ++i) {
    if (sizes[i] == 0 || sizes[i] > UINT32_MAX || box[i] == 0 || box[i] > 256 || steps[i] == 0 ||
        steps[i] > 8)
      return CUDA_ERROR_INVALID_VALUE;
    result.sizes[i] = static_cast<uint32_t>(sizes[i]);
    result.box[i] = static_cast<uint16_t>(box[i]);
    result.steps[i] = static_cast<uint8_t>(steps[i]);
    result.strides[i] = i == 0 ? result.element_bytes : strides[i - 1];
    if (i > 0 && (result.strides[i] % 16 != 0 || result.strides[i] >= uint64_t{1} << 40))
      return CUDA_ERROR_INVALID_VALUE;
  }
  if (steps[0] != 1) return CUDA_ERROR_NOT_SUPPORTED;
  std::memcpy(map, &result, sizeof(result));
  return CUDA_SUCCESS;
}

void copy_box(uint32_t destination, const TensorMap& map, const std::array<int, 5>& first,
              uint32_t barrier) {
  int counts[kDimensions];
  for (int i = 0; i < kDimensions; ++i)
    counts[i] = i == 0 ? map.box[0] : (map.box[i] + map.steps[i] - 1) / map.steps[i];
  const int bytes = map.element_bytes, unit_elements = 16 / bytes;
  uint32_t at = destination;
  const auto inside = [&](int dimension, int64_t coordinate) {
    return coordinate >= 0 && coordinate < map.sizes[dimension];
  };
  const int rows = counts[1] * counts[2] * counts[3] * counts[4];
  for (int row = 0; row < rows; ++row) {
    int index = row;
    const char* source = map.data;
    bool exists = true;
    for (int i = 1; i < kDimensions; ++i) {
      const int64_t coordinate = int64_t{first[i]} + index % counts[i] * map.steps[i];
      index /= counts[i];
      exists = exists && inside(i, coordinate);
      source += coordinate * static_cast<int64_t>(map.strides[i]);
    }
    for (int c = 0; c < counts[0]; c += unit_elements, at += 16) {
      char* const unit = memory_at(swizzled(at, map.swizzle), 16, 16, "a box of a tensor");
      for (int i = 0; i < unit_elements; ++i) {
        uint32_t bits = 0;
        const int64_t channel = int64_t{first[0]} + c + i;
        if (exists && inside(0, channel)) std::memcpy(&bits, source + channel * bytes, bytes);
        if (map.to_tf32) bits = round_to_tf32(bits);
        std::memcpy(unit + i * bytes, &bits, bytes);
      }
    }
  }
  complete_bytes(barrier, at - destination);
}

}  // namespace

void copy_bulk(uint32_t destination, const void* source, uint32_t bytes, uint32_t barrier,
               const Where& where) {
  if (bytes == 0 || bytes % 16 != 0 || destination % 16 != 0 ||
      reinterpret_cast<uintptr_t>(source) % 16 != 0)
    fail_at(where, "copy_bulk: %u bytes from %p to 0x%x", bytes, source, destination);
  memory_at(destination, bytes, 16, "copy_bulk");
  complete_later([=] {
    std::memcpy(memory_at(destination, bytes, 16, "copy_bulk"), source, bytes);
    complete_bytes(barrier, bytes);
  });
}

void copy_tensor(uint32_t destination, const CUtensorMap& map, uint32_t barrier,
                 const std::array<int, 5>& coordinates, const Where& where) {
  if (destination % 128 != 0) fail_at(where, "copy_tensor to 0x%x", destination);
  TensorMap decoded;
  std::memcpy(&decoded, &map, sizeof(decoded));
  if (decoded.data == nullptr) fail_at(where, "copy_tensor: not a tensor map");
  if (coordinates[0] * decoded.element_bytes % 16 != 0)
    fail_at(where, "copy_tensor from element %d of a line", coordinates[0]);
  complete_later([=] { copy_box(destination, decoded, coordinates, barrier); });
}

}  // namespace convt3d::emulator

// ---- What host code asks the runtime for -------------------------------------------------------
extern "C" {

cudaError_t cudaGetLastError() { return cudaSuccess; }

cudaError_t cudaGetDriverEntryPointByVersion(const char* symbol, void** function, unsigned,
                                             unsigned long long,
                                             cudaDriverEntryPointQueryResult* found) {
  if (std::strcmp(symbol, "cuTensorMapEncodeTiled") != 0) return cudaErrorNotSupported;
  *function = reinterpret_cast<void*>(&convt3d::emulator::encode);
  *found = cudaDriverEntryPointSuccess;
  return cudaSuccess;
}
}

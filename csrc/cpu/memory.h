// Tensors of the caller as operands: five-dimensional, dense, in the dtype and memory format that
// the computation wants.
#pragma once

#if defined(__linux__)
#include <sys/mman.h>
#include <unistd.h>
#endif

#include "aten.h"

namespace convt3d::cpu {

inline Sizes batched_size(const Problem& problem, int64_t channels, int64_t Axis::* extent) {
  const auto& axes = problem.axes;
  return {problem.batch, channels, axes[0].*extent, axes[1].*extent, axes[2].*extent};
}

inline Tensor empty(const Sizes& size, bool channels_last, ScalarType type) {
  const Sizes stride = dense_strides(size, channels_last);
  const auto dtype = torch::stable::detail::to<int32_t>(torch::stable::detail::from(type));
  AtenTensorHandle handle;
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(static_cast<int64_t>(size.size()), size.data(),
                                                  stride.data(), dtype,
                                                  aoti_torch_device_type_cpu(), 0, &handle));
  return Tensor(handle);
}

template <typename T>
Tensor zeros(const Sizes& size, bool channels_last) {
  Tensor result = empty(size, channels_last, scalar_type<T>());
  return torch::stable::zero_(result);
}

// The same memory with a batch dimension and without the caller's autograd state.
inline Tensor batched(const Tensor& activation) {
  Sizes size = sizes_of(activation), stride = strides_of(activation);
  if (size.size() == 4) {
    stride.insert(stride.begin(), size[0] * size[1] * size[2] * size[3]);
    size.insert(size.begin(), 1);
  }
  return torch::stable::from_blob(activation.mutable_data_ptr(), size, stride, cpu_device(),
                                  activation.scalar_type());
}

inline bool is_dense(const Tensor& tensor, bool channels_last) {
  return strides_of(tensor) == dense_strides(sizes_of(tensor), channels_last);
}

inline Tensor dense(const Tensor& tensor, bool channels_last, ScalarType type) {
  if (tensor.scalar_type() == type && is_dense(tensor, channels_last)) return tensor;
  Tensor result = empty(sizes_of(tensor), channels_last, type);
  return torch::stable::copy_(result, tensor);
}

// A weight for calls that take both memory formats.
inline Tensor dense_in_some_format(const Tensor& tensor) {
  return is_dense(tensor, true) ? tensor : dense(tensor, false, tensor.scalar_type());
}

// BLAS may sum in another order when memory is aligned otherwise than PyTorch's own.
inline Tensor aligned(const Tensor& tensor) {
  if (reinterpret_cast<uintptr_t>(tensor.mutable_data_ptr()) % 64 == 0) return tensor;
  return torch::stable::clone(tensor);
}

inline Tensor in_format(const Tensor& tensor, bool channels_last) {
  return dense(tensor, channels_last, tensor.scalar_type());
}

// Asks for large pages before a large result is first touched: with 4 KiB pages their faults take
// longer than the arithmetic of a k = s layer. A hint, without which all is as before.
inline void prefer_large_pages(const Tensor& tensor) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr int64_t kWorthwhile = 4 << 20;
  int64_t bytes = 0;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_storage_size(tensor.get(), &bytes));
  if (bytes < kWorthwhile) return;
  const uintptr_t page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const uintptr_t begin = reinterpret_cast<uintptr_t>(tensor.mutable_data_ptr());
  const uintptr_t first = (begin + page - 1) / page * page, last = (begin + bytes) / page * page;
  (void)madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#else
  (void)tensor;
#endif
}

}  // namespace convt3d::cpu

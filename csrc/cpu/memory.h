// Tensors of the caller as operands: dense, in the dtype and memory format that an engine wants.
#pragma once

#if defined(__linux__)
#include <sys/mman.h>
#include <unistd.h>
#endif

#include "aten.h"

namespace convt3d::cpu {

inline Tensor empty(const Sizes& size, bool channels_last, ScalarType type) {
  const Sizes stride = dense_strides(size, channels_last);
  const auto dtype = torch::stable::detail::to<int32_t>(torch::stable::detail::from(type));
  AtenTensorHandle handle;
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(static_cast<int64_t>(size.size()), size.data(),
                                                  stride.data(), dtype,
                                                  aoti_torch_device_type_cpu(), 0, &handle));
  return Tensor(handle);
}

// The same memory without the caller's autograd state.
inline Tensor alias(const Tensor& tensor) {
  return torch::stable::from_blob(tensor.mutable_data_ptr(), tensor.sizes(), tensor.strides(),
                                  cpu_device(), tensor.scalar_type());
}

// Four or five dimensions.
inline bool is_dense(const Tensor& tensor, bool channels_last) {
  return strides_of(tensor) == dense_strides(sizes_of(tensor), channels_last);
}

inline Tensor dense(const Tensor& tensor, bool channels_last, ScalarType type) {
  if (tensor.scalar_type() == type && is_dense(tensor, channels_last)) return alias(tensor);
  Tensor result = empty(sizes_of(tensor), channels_last, type);
  torch::stable::copy_(result, alias(tensor));
  return result;
}

inline void copy(const Tensor& to, const Tensor& from) {
  Tensor target = alias(to);
  torch::stable::copy_(target, from);
}

// Asks for large pages before a large result is first touched: with 4 KiB pages their faults take
// several times as long as the arithmetic of a k = s layer. A hint, without which all is as before.
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

// Whether float32 may run in TF32.
//
// PyTorch's setting (torch.backends.cudnn.conv.fp32_precision) has no accessor in the stable ABI,
// so whoever loads this library says how to read it. The Python package does; a program without
// Python may, and else gets float32's own accuracy.
#pragma once

#include "../operators.h"

// `query` returns whether TF32 is allowed; it is called once per call of an operator on float32
// tensors, from the calling thread. nullptr: never allowed.
extern "C" __attribute__((visibility("default"))) void convt3d_set_tf32_query(int (*query)());

namespace convt3d {

bool allows_tf32(const Tensor& tensor);

}  // namespace convt3d

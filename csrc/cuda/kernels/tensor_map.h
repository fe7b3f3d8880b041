// Tensors as the copy engine (TMA) sees them: boxes of channels and positions in (h, w), of one
// plane of depth and one or several samples.
#pragma once

#include <cuda.h>
#include <cuda_runtime.h>

#include "tensors.h"

namespace convt3d {

struct TensorBox {
  int width;           // 16-byte units of neighbouring channels: 2, 4 or 8, swizzled as that many
  int size_h, size_w;  // positions
  int step_h, step_w;  // between them in the tensor
  int samples;
};

// A map of `tensor`, whose channels are neighbours: `channels` of all groups, `extents` of (batch,
// d, h, w). Float32 is rounded to the nearest TF32 while it is copied; the tensor cores would cut
// off. cudaErrorNotSupported: the driver has no such maps.
cudaError_t describe_tensor(const TensorPointer& tensor, DataType type, int64_t channels,
                            const std::array<int64_t, 4>& extents, const TensorBox& box,
                            CUtensorMap* map);

}  // namespace convt3d

// Tensors as the copy engine (TMA) sees them: boxes of channels and positions, of one or several
// samples.
#pragma once

#include <cuda.h>
#include <cuda_runtime.h>

#include "staged_lines_sizes.h"
#include "tensors.h"

namespace convt3d {

struct TensorBox {
  int width;           // 16-byte units of neighbouring channels: 2, 4 or 8, swizzled as that many
  int size_h, size_w;  // positions
  int step_h, step_w;  // between them in the tensor
  int samples;
  int size_d = 1, step_d = 1;
};

// Lines along w of a contiguous tensor, of which (d, h, w) are one axis: positions, then channels.
struct TensorLine {
  int positions, channels;
  int swizzle;  // bytes; 0: none
};

// What is staged at once (staged_lines.cuh).
inline TensorLine staged_line(const LineStaging& staging) {
  return {staging.pitch / 2, staging.units * 8, staging.swizzle()};
}

// A map of `tensor`, whose channels are neighbours: `channels` of all groups, `extents` of (batch,
// d, h, w). Float32 is rounded to the nearest TF32 while it is copied; the tensor cores would cut
// off. cudaErrorNotSupported: the driver has no such maps.
cudaError_t describe_tensor(const TensorPointer& tensor, DataType type, int64_t channels,
                            const std::array<int64_t, 4>& extents, const TensorBox& box,
                            CUtensorMap* map);
// The same for lines: `positions` of one channel. The map's coordinates are (position, channel,
// sample, 0, 0).
cudaError_t describe_lines(const TensorPointer& tensor, DataType type, int64_t channels,
                           int64_t batch, int64_t positions, const TensorLine& line,
                           CUtensorMap* map);

// Of float32 while it is copied, to the nearest; the tensor cores would cut off.
enum class Rounding { kNone, kToTf32 };

// A box of any sides.
struct DenseBox {
  int order[5];   // of the map's dimensions, the fastest first: places in (batch, c, d, h, w)
  int covers[5];  // in this order
  int swizzle;    // bytes; 0: none
};
// `sizes`: (batch, channels of all groups, d, h, w). The first dimension's stride is 1.
cudaError_t describe_box(const TensorPointer& tensor, DataType type,
                         const std::array<int64_t, 5>& sizes, const DenseBox& box,
                         Rounding rounding, CUtensorMap* map);

}  // namespace convt3d

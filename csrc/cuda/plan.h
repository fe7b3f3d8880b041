// Which kernel runs a problem, and with which tiles. Deterministic: a cost model, no timing.
#pragma once

#include "kernels/gemm_data_sizes.h"
#include "planned.h"

namespace convt3d {

// The limits of a GPU that plans depend on.
struct Device {
  int multiprocessors;
  int shared_per_block;  // bytes, with opt-in
  int shared_per_multiprocessor;
  bool has_wgmma;  // compute capability 9.0, and this build has code for sm_90a
};

// Whether what the kernels of forward and grad_input count in 32 bits fits.
bool fits_data_kernels(const Problem& problem);

// Why Hopper's matrix units cannot multiply this dtype here; nullptr: they can.
const char* wgmma_refusal(DataType type, bool allow_tf32, const Device& device);

// Neighbours along w that one load can take where threads load along it, of at most so many
// elements (16 bytes): where all lines of such an extent start and end on its boundaries, or those
// of such a tensor start there.
int run_of_extent(int64_t extent, int elements);
int run_of(const TensorPointer& tensor, int elements);

// Whether the copy engine can bring lines along w of a tensor of these extents of (d, h, w): its
// channels are dense and begin on 16-byte boundaries.
bool loads_in_lines(const TensorPointer& tensor, const std::array<int64_t, 3>& extents,
                    DataType type);

// Elements of a tensor, as cost models count them.
double elements_of(const Sizes& size);

// A dense tensor of five dimensions that starts on every boundary, as those of PyTorch's allocator.
TensorPointer dense_tensor(const Sizes& size, bool channels_last);

// Blocks of gemm_data that shared memory lets run together on a multiprocessor.
int resident_blocks(const GemmDataSizes& sizes, const Device& device);

// The plan of forward or grad_input on tensor cores (gemm_data). Cached per problem; thread-safe.
// `alternatives`: also search anew and collect what else is possible.
Planned<GemmDataPlan> plan_gemm_data(const Problem& problem, Pass pass, DataType type,
                                     const TensorPointer& operand, const TensorPointer& result,
                                     const Device& device,
                                     Alternatives<GemmDataPlan>* alternatives = nullptr);

}  // namespace convt3d

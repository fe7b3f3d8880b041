// Depthwise grad_weight.
//
//   block  -> a slab of rows (one row: the taps of a pair of channels), one kh, a share (split) of
//             the tiles of positions
//   thread -> lane (row), a few positions along d and w of one line h; the sums of all (kd, kw) of
//             its row stay in registers over all tiles of the split
//     input tile and, line by line, its grad_outputs: global (L1) -> registers -> float
//   sums -> shared memory -> one per row and tap -> workspace [split][row][tap]
//   second kernel: splits are added in their order, no atomics
#include "depthwise.h"
#include "depthwise_grad_weight_thread.h"
#include "depthwise_storage.cuh"
#include "dispatch.cuh"
#include "launch.cuh"

namespace convt3d {
namespace {

template <typename T, DepthwiseShape kShape>
__global__ void __launch_bounds__(kDepthwiseThreads, 4)
    depthwise_grad_weight_kernel(const __grid_constant__ DepthwiseWeightArguments args) {
  using Tile = WeightTile<kShape>;
  constexpr int kPairs = Tile::Axis::kKernel * Tile::Axis::kKernel;
  __shared__ float shared[kPairs * kDepthwiseThreads];
  const int slab = blockIdx.x, kh = blockIdx.y, split = blockIdx.z;
  float sum[kPairs] = {};
  sum_weight_tiles<T, Tile>(args, slab, kh, split, threadIdx.x, sum);
#pragma unroll
  for (int pair = 0; pair < kPairs; ++pair)
    shared[pair * kDepthwiseThreads + threadIdx.x] = sum[pair];
  __syncthreads();
  add_threads(args, slab, kh, split, threadIdx.x, shared);
}

template <typename T>
__global__ void __launch_bounds__(kDepthwiseThreads)
    depthwise_add_splits_kernel(const __grid_constant__ DepthwiseWeightArguments args) {
  const int item = blockIdx.x * kDepthwiseThreads + threadIdx.x;
  if (item < args.rows * args.kernel * args.kernel * args.kernel) add_splits<T>(args, item);
}

template <typename T>
cudaError_t launch(const DepthwiseWeightArguments& args, DepthwiseShape shape,
                   cudaStream_t stream) {
  const dim3 grid(args.data.map.slabs, args.kernel, args.splits);
  const cudaError_t status = dispatch_shape(shape, [&](auto tag) {
    return launch_kernel(depthwise_grad_weight_kernel<T, decltype(tag)::value>, grid,
                         kDepthwiseThreads, 0, stream, args);
  });
  if (status != cudaSuccess) return status;
  const int weights = args.rows * args.kernel * args.kernel * args.kernel;
  return launch_kernel(depthwise_add_splits_kernel<T>, divide_up(weights, kDepthwiseThreads),
                       kDepthwiseThreads, 0, stream, args);
}

}  // namespace

int64_t depthwise_grad_weight_workspace(const Problem& problem, DataType type,
                                        const DepthwisePlan& plan, const TensorPointer& grad_output,
                                        const TensorPointer& input) {
  return depthwise_workspace_bytes(depthwise_weight_arguments(
      problem, element_bytes(type), plan.shape, grad_output, input, TensorPointer{}));
}

cudaError_t launch_depthwise_grad_weight(const Problem& problem, DataType type,
                                         const DepthwisePlan& plan, TensorPointer grad_output,
                                         TensorPointer input, TensorPointer grad_weight,
                                         void* workspace, cudaStream_t stream) {
  DepthwiseWeightArguments args = depthwise_weight_arguments(
      problem, element_bytes(type), plan.shape, grad_output, input, grad_weight);
  args.workspace = static_cast<float*>(workspace);
  switch (type) {
    case DataType::kFloat16:
      return launch<__half>(args, plan.shape, stream);
    case DataType::kBFloat16:
      return launch<__nv_bfloat16>(args, plan.shape, stream);
    case DataType::kFloat32:
      return launch<float>(args, plan.shape, stream);
    default:
      return cudaErrorInvalidValue;
  }
}

}  // namespace convt3d

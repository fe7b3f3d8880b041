#include <algorithm>

#include "gemm_data_sizes.h"
#include "tensor_map.h"
#include "wgmma_data_launch.cuh"

namespace convt3d {

// One file each, so that they compile in parallel.
extern template cudaError_t launch_wgmma_typed<__half, true>(const WgmmaDataArguments&, int,
                                                             cudaStream_t);
extern template cudaError_t launch_wgmma_typed<__half, false>(const WgmmaDataArguments&, int,
                                                              cudaStream_t);
extern template cudaError_t launch_wgmma_typed<float, true>(const WgmmaDataArguments&, int,
                                                            cudaStream_t);
extern template cudaError_t launch_wgmma_typed<float, false>(const WgmmaDataArguments&, int,
                                                             cudaStream_t);
extern template cudaError_t launch_wgmma_typed<__nv_bfloat16, true>(const WgmmaDataArguments&, int,
                                                                    cudaStream_t);
extern template cudaError_t launch_wgmma_typed<__nv_bfloat16, false>(const WgmmaDataArguments&, int,
                                                                     cudaStream_t);

// Contiguous results.
static bool stores_in_vectors(const WgmmaDataPlan& plan, const TensorPointer& result,
                              DataType type) {
  constexpr int64_t kVectorBytes = 16;
  bool aligned = has_vector_runs(plan) && result.stride[4] == 1 &&
                 reinterpret_cast<uintptr_t>(result.data) % kVectorBytes == 0;
  for (int dim = 0; dim < 4; ++dim)
    aligned = aligned && result.stride[dim] * element_bytes(type) % kVectorBytes == 0;
  return aligned;
}

cudaError_t launch_wgmma_data(const Problem& problem, Pass pass, DataType type,
                              const WgmmaDataPlan& plan, TensorPointer operand,
                              TensorPointer weight, VectorPointer bias, TensorPointer result,
                              void* scratch, int multiprocessors, cudaStream_t stream) {
  const bool forward = pass == Pass::kForward;
  const bool channels_last = result.stride[1] < result.stride[4];
  const int64_t in_channels = problem.in_channels_per_group();
  const int64_t out_channels = problem.out_channels_per_group();
  WgmmaDataArguments args{
      .plan = plan,
      .sizes = wgmma_data_sizes(problem, pass, channels_last, plan),
      .indices = {},
      .operand_map = {},
      .batch = static_cast<int>(problem.batch),
      .groups = static_cast<int>(problem.groups),
      .operand_channels = static_cast<int>(forward ? in_channels : out_channels),
      .result_channels = static_cast<int>(forward ? out_channels : in_channels),
      .operand = operand,
      .weight = weight,
      .result = result,
      .weight_group_stride = in_channels * weight.stride[0],
      .weight_operand_stride = forward ? weight.stride[0] : weight.stride[1],
      .weight_result_stride = forward ? weight.stride[1] : weight.stride[0],
      .bias = bias,
      .packed = static_cast<char*>(scratch),
      .result_in_vectors =
          channels_last ? loads_in_vectors(result, forward ? out_channels : in_channels, type)
                        : stores_in_vectors(plan, result, type),
  };
  args.indices = WgmmaIndices(plan, args.sizes, args.groups);
  if (plan.fill_run == 0) {
    // A box is one residue pair; several samples lie one behind the other.
    const WindowAxis &d = plan.axes[0], &h = plan.axes[1], &w = plan.axes[2];
    const BoxShape& box = args.sizes.box;
    const cudaError_t status = describe_tensor(
        operand, type, problem.groups * args.operand_channels,
        {problem.batch, d.operand_extent, h.operand_extent, w.operand_extent},
        {box.width, box.halo_h, box.halo_w, h.operand_step, w.operand_step, plan.samples},
        &args.operand_map);
    if (status != cudaSuccess) return status;
  }
  const int blocks = static_cast<int>(std::min<int64_t>(args.sizes.items, multiprocessors));
  if (type == DataType::kFloat16)
    return channels_last ? launch_wgmma_typed<__half, true>(args, blocks, stream)
                         : launch_wgmma_typed<__half, false>(args, blocks, stream);
  if (type == DataType::kBFloat16)
    return channels_last ? launch_wgmma_typed<__nv_bfloat16, true>(args, blocks, stream)
                         : launch_wgmma_typed<__nv_bfloat16, false>(args, blocks, stream);
  if (type == DataType::kFloat32)
    return channels_last ? launch_wgmma_typed<float, true>(args, blocks, stream)
                         : launch_wgmma_typed<float, false>(args, blocks, stream);
  return cudaErrorInvalidValue;
}

}  // namespace convt3d

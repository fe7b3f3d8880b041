#include <algorithm>

#include "gemm_data_sizes.h"
#include "scalar.cuh"
#include "tapwise_grad_weight.h"
#include "tapwise_grad_weight_arguments.h"
#include "tensor_map.h"

namespace convt3d {

// One file each, so that they compile in parallel.
template <typename T>
cudaError_t launch_tapwise_grad_weight_typed(const TapwiseGradWeightArguments& args, int blocks,
                                             cudaStream_t stream);
extern template cudaError_t launch_tapwise_grad_weight_typed<__half>(
    const TapwiseGradWeightArguments&, int, cudaStream_t);
extern template cudaError_t launch_tapwise_grad_weight_typed<__nv_bfloat16>(
    const TapwiseGradWeightArguments&, int, cudaStream_t);

cudaError_t launch_tapwise_grad_weight(const Problem& problem, DataType type,
                                       const TapwiseGradWeightPlan& plan, TensorPointer grad_output,
                                       TensorPointer input, TensorPointer grad_weight,
                                       void* workspace, int multiprocessors, cudaStream_t stream) {
  const TapwiseGradWeightSizes sizes = tapwise_grad_weight_sizes(problem, plan);
  const int blocks = static_cast<int>(std::min<int64_t>(sizes.items, multiprocessors));
  const WindowAxis &d = plan.axes[0], &h = plan.axes[1], &w = plan.axes[2];
  TapwiseGradWeightArguments args{
      .plan = plan,
      .sizes = sizes,
      .input_map = {},
      .grad_output_map = {},
      .in_channels = static_cast<int>(problem.in_channels_per_group()),
      .out_channels = static_cast<int>(problem.out_channels_per_group()),
      .result = grad_weight,
      .workspace = plan.splits > 1 ? static_cast<float*>(workspace) : nullptr,
      .result_in_vectors = loads_in_vectors(grad_weight, problem.out_channels_per_group(), type),
      .taps = {tap_order(d), tap_order(h), tap_order(w)},
      .splits = Divisor(plan.splits),
      .row_tiles = Divisor(sizes.row_tiles),
      .groups = Divisor(static_cast<int>(problem.groups)),
      .channel_chunks = Divisor(sizes.channel_chunks),
      .tap_counts = {Divisor(d.taps()), Divisor(h.taps()), Divisor(w.taps())},
      .tile = {Divisor(plan.tile[1]), Divisor(plan.tile[2]), Divisor(plan.tile[3])},
      .blocks = Divisor(blocks),
      .turns = static_cast<int>((sizes.items + blocks - 1) / blocks * blocks),
  };
  const auto box = [&](int step_d, int step_h, int step_w) {
    return TensorBox{kTapwiseUnits, plan.tile[2], plan.tile[3], step_h,
                     step_w,        plan.tile[0], plan.tile[1], step_d};
  };
  cudaError_t status =
      describe_tensor(input, type, problem.in_channels,
                      {problem.batch, d.result_extent, h.result_extent, w.result_extent},
                      box(1, 1, 1), &args.input_map);
  if (status != cudaSuccess) return status;
  status =
      describe_tensor(grad_output, type, problem.out_channels,
                      {problem.batch, d.operand_extent, h.operand_extent, w.operand_extent},
                      box(d.operand_step, h.operand_step, w.operand_step), &args.grad_output_map);
  if (status != cudaSuccess) return status;
  return type == DataType::kFloat16
             ? launch_tapwise_grad_weight_typed<__half>(args, blocks, stream)
             : launch_tapwise_grad_weight_typed<__nv_bfloat16>(args, blocks, stream);
}

}  // namespace convt3d

#include "tensor_map.h"
#include "wgmma_grad_weight.cuh"

namespace convt3d {

// One file each, so that they compile in parallel.
extern template cudaError_t launch_wgmma_grad_weight_typed<__half>(const WgmmaGradWeightArguments&,
                                                                   cudaStream_t);
extern template cudaError_t launch_wgmma_grad_weight_typed<__nv_bfloat16>(
    const WgmmaGradWeightArguments&, cudaStream_t);

cudaError_t launch_wgmma_grad_weight(const Problem& problem, DataType type,
                                     const WgmmaGradWeightPlan& plan, TensorPointer grad_output,
                                     TensorPointer input, TensorPointer grad_weight,
                                     void* workspace, cudaStream_t stream) {
  WgmmaGradWeightArguments args{};
  args.plan = plan;
  args.sizes = wgmma_grad_weight_sizes(problem, plan);
  args.groups = static_cast<int>(problem.groups);
  args.batch = static_cast<int>(problem.batch);
  args.result_group_stride = problem.in_channels_per_group() * grad_weight.stride[0];
  args.result_row_stride = grad_weight.stride[0];
  args.result_column_stride = grad_weight.stride[1];
  for (int a = 0; a < 3; ++a) args.result_tap_stride[a] = grad_weight.stride[2 + a];
  args.result = grad_weight.data;
  args.workspace = static_cast<float*>(args.sizes.slots > 1 ? workspace : nullptr);
  const TensorPointer& still = plan.input_moves ? grad_output : input;
  const TensorPointer& moving = plan.input_moves ? input : grad_output;
  const auto launch = [&] {
    return type == DataType::kFloat16 ? launch_wgmma_grad_weight_typed<__half>(args, stream)
                                      : launch_wgmma_grad_weight_typed<__nv_bfloat16>(args, stream);
  };
  const WindowAxis &d = plan.axes[0], &h = plan.axes[1], &w = plan.axes[2];
  const ContractionBox &still_box = args.sizes.still, &moving_box = args.sizes.moving;
  cudaError_t status = cudaSuccess;
  if (plan.fill != OperandFill::kCopyEngine) {
    const auto set = [&](int index, const TensorPointer& tensor, const ContractionBox& box,
                         const std::array<int, 3>& extents) {
      ContractionFill& fill = args.fills[index];
      fill.tensor = tensor;
      fill.lines = box.lines_of_memory;
      fill.line_staging = box.line_staging;
      fill.units = box.units;
      fill.channels = box.channels;
      fill.slice = box.slice;
      fill.width = box.width;
      fill.block_bytes = box.block_bytes();
      fill.extent_h = extents[1];
      fill.extent_w = extents[2];
      if (plan.fill != OperandFill::kLines || status != cudaSuccess) return;
      const int64_t positions = int64_t{extents[0]} * extents[1] * extents[2];
      status = describe_lines(tensor, type, problem.groups * box.channels, problem.batch, positions,
                              staged_line(box.line_staging), &args.maps[index]);
    };
    set(0, still, still_box, {d.result_extent, h.result_extent, w.result_extent});
    set(1, moving, moving_box, {d.operand_extent, h.operand_extent, w.operand_extent});
    args.fills[0].step_d = d.result_step;
    args.fills[1].step_d = d.operand_step;
    args.fills[1].origin_h = h.origin;
    args.fills[1].origin_w = w.origin;
    args.fills[1].boxes_at = args.sizes.moving_at;
    return status != cudaSuccess ? status : launch();
  }
  // A box of the still operand is one of its residue pairs.
  status = describe_tensor(still, type, problem.groups * still_box.channels,
                           {problem.batch, d.result_extent, h.result_extent, w.result_extent},
                           {still_box.width, still_box.lines, still_box.pitch, h.result_step,
                            w.result_step, plan.samples},
                           &args.maps[0]);
  if (status != cudaSuccess) return status;
  status = describe_tensor(
      moving, type, problem.groups * moving_box.channels,
      {problem.batch, d.operand_extent, h.operand_extent, w.operand_extent},
      {moving_box.width, moving_box.lines, moving_box.pitch, 1, 1, plan.samples}, &args.maps[1]);
  if (status != cudaSuccess) return status;
  return launch();
}

}  // namespace convt3d

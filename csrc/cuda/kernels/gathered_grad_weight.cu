#include <utility>

#include "gathered_grad_weight.cuh"
#include "tensor_map.h"

namespace convt3d {

// One file each, so that they compile in parallel.
extern template cudaError_t launch_gathered_grad_weight_of<float, true>(
    const GatheredGradWeightArguments&, cudaStream_t);
extern template cudaError_t launch_gathered_grad_weight_of<float, false>(
    const GatheredGradWeightArguments&, cudaStream_t);
extern template cudaError_t launch_gathered_grad_weight_of<__half, false>(
    const GatheredGradWeightArguments&, cudaStream_t);
extern template cudaError_t launch_gathered_grad_weight_of<__nv_bfloat16, false>(
    const GatheredGradWeightArguments&, cudaStream_t);

cudaError_t launch_gathered_grad_weight(const Problem& problem, DataType type,
                                        const GatheredGradWeightPlan& plan,
                                        TensorPointer grad_output, TensorPointer input,
                                        TensorPointer grad_weight, void* workspace,
                                        cudaStream_t stream) {
  GatheredGradWeightArguments args{};
  args.plan = plan;
  args.sizes = gathered_grad_weight_sizes(problem, plan);
  args.result_group_stride = problem.in_channels_per_group() * grad_weight.stride[0];
  args.result_row_stride = grad_weight.stride[1];
  args.result_column_stride = grad_weight.stride[0];
  for (int a = 0; a < 3; ++a) args.result_tap_stride[a] = grad_weight.stride[2 + a];
  args.result = grad_weight.data;
  if (plan.mirrored) {
    std::swap(grad_output, input);
    std::swap(args.result_row_stride, args.result_column_stride);
    // Taps count from the last.
    int64_t last = 0;
    for (int a = 0; a < 3; ++a) {
      last += (problem.axes[a].kernel - 1) * args.result_tap_stride[a];
      args.result_tap_stride[a] = -args.result_tap_stride[a];
    }
    args.result = static_cast<char*>(args.result) + last * element_bytes(type);
  }
  args.grad_output = grad_output;
  args.input = input;
  args.workspace = static_cast<float*>(plan.splits > 1 ? workspace : nullptr);
  const GatherAxis(&axes)[3] = args.sizes.axes;
  const auto groups = problem.groups;
  const RowRange rows = rows_of_block(args.sizes, 0);
  const GatherBox box =
      gather_box(axes, plan, taps_of_rows(axes, plan.slice, rows.first, rows.last));
  cudaError_t status = cudaSuccess;
  if (plan.output_fill != GatherFill::kElements) {
    const std::array<int64_t, 5> sizes{problem.batch, groups * args.sizes.out_channels,
                                       axes[0].output, axes[1].output, axes[2].output};
    // Lines as wide as their pitch, or those that copies of pairs are made of.
    const int line = box.channel_pitch * (plan.word_positions == 2 ? 2 * axes[2].stride : 1);
    const DenseBox copied =
        plan.output_channels_last
            ? DenseBox{{1, 4, 3, 2, 0},
                       {box.column_pitch, box.span[2], box.span[1], 1, plan.samples},
                       0}
            : DenseBox{{4, 1, 3, 2, 0}, {line, plan.slice, box.span[1], 1, plan.samples}, 0};
    status = describe_box(grad_output, type, sizes, copied, Rounding::kToTf32, &args.maps[0]);
  }
  if (plan.input_fill != GatherFill::kElements && status == cudaSuccess) {
    std::array<int64_t, 5> sizes{problem.batch, groups * args.sizes.in_channels, axes[0].input,
                                 axes[1].input, axes[2].input};
    DenseBox copied{{4, 1, 3, 2, 0},
                    {plan.row_positions(), plan.columns, plan.tile[1], plan.tile[0], plan.samples},
                    4 * plan.row_words};
    if (plan.input_fill == GatherFill::kTransposed) {
      copied = {{1, 4, 3, 2, 0},
                {staged_pitch(plan), plan.tile[2], plan.tile[1], plan.tile[0], plan.samples},
                0};
    } else if (plan.whole_lines) {
      // All lines of a plane are one.
      sizes[4] *= sizes[3];
      sizes[3] = 1;
      copied = {{4, 1, 2, 0, 3}, {plan.row_positions(), plan.columns, 1, 1, 1}, 4 * plan.row_words};
    }
    status = describe_box(input, type, sizes, copied, Rounding::kToTf32, &args.maps[1]);
  }
  if (status != cudaSuccess) return status;
  if (type == DataType::kFloat16)
    return launch_gathered_grad_weight_of<__half, false>(args, stream);
  if (type == DataType::kBFloat16)
    return launch_gathered_grad_weight_of<__nv_bfloat16, false>(args, stream);
  return plan.output_channels_last ? launch_gathered_grad_weight_of<float, true>(args, stream)
                                   : launch_gathered_grad_weight_of<float, false>(args, stream);
}

}  // namespace convt3d

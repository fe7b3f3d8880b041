#include "tensor_map.h"
#include "tf32_grad_weight.cuh"

namespace convt3d {

// One file each, so that they compile in parallel.
extern template cudaError_t launch_tf32_grad_weight_of<true>(const Tf32GradWeightArguments&,
                                                             cudaStream_t);
extern template cudaError_t launch_tf32_grad_weight_of<false>(const Tf32GradWeightArguments&,
                                                              cudaStream_t);

cudaError_t launch_tf32_grad_weight(const Problem& problem, const Tf32GradWeightPlan& plan,
                                    TensorPointer grad_output, TensorPointer input,
                                    TensorPointer grad_weight, void* workspace,
                                    cudaStream_t stream) {
  Tf32GradWeightArguments args{};
  args.plan = plan;
  args.sizes = tf32_grad_weight_sizes(problem, plan);
  args.grad_output = grad_output;
  args.input = input;
  args.result_group_stride = problem.in_channels_per_group() * grad_weight.stride[0];
  args.result_row_stride = grad_weight.stride[0];
  args.result_column_stride = grad_weight.stride[1];
  for (int a = 0; a < 3; ++a) args.result_tap_stride[a] = grad_weight.stride[2 + a];
  args.result = static_cast<float*>(grad_weight.data);
  args.workspace = static_cast<float*>(plan.splits > 1 ? workspace : nullptr);
  const GatherAxis(&axes)[3] = args.sizes.axes;
  const auto groups = problem.groups;
  const RowRange rows = rows_of_block(args.sizes, 0);
  const GatherBox box =
      gather_box(axes, plan, taps_of_rows(axes, plan.slice, rows.first, rows.last));
  cudaError_t status = cudaSuccess;
  if (plan.output_fill == GatherFill::kCopyEngine) {
    const std::array<int64_t, 5> sizes{problem.batch, groups * args.sizes.out_channels,
                                       axes[0].output, axes[1].output, axes[2].output};
    // Lines as wide as their pitch.
    const DenseBox copied =
        plan.output_channels_last
            ? DenseBox{{1, 4, 3, 2, 0},
                       {box.column_pitch, box.span[2], box.span[1], 1, plan.samples},
                       0}
            : DenseBox{{4, 1, 3, 2, 0},
                       {box.channel_pitch, plan.slice, box.span[1], 1, plan.samples},
                       0};
    status = describe_box(grad_output, DataType::kFloat32, sizes, copied, &args.maps[0]);
  }
  if (plan.input_fill != GatherFill::kElements && status == cudaSuccess) {
    const std::array<int64_t, 5> sizes{problem.batch, groups * args.sizes.in_channels,
                                       axes[0].input, axes[1].input, axes[2].input};
    const DenseBox copied =
        plan.input_fill == GatherFill::kCopyEngine
            ? DenseBox{{4, 1, 3, 2, 0},
                       {plan.row_positions, plan.columns, plan.tile[1], plan.tile[0], plan.samples},
                       4 * plan.row_positions}
            : DenseBox{{1, 4, 3, 2, 0},
                       {staged_pitch(plan), plan.tile[2], plan.tile[1], plan.tile[0], plan.samples},
                       0};
    status = describe_box(input, DataType::kFloat32, sizes, copied, &args.maps[1]);
  }
  if (status != cudaSuccess) return status;
  return plan.output_channels_last ? launch_tf32_grad_weight_of<true>(args, stream)
                                   : launch_tf32_grad_weight_of<false>(args, stream);
}

}  // namespace convt3d

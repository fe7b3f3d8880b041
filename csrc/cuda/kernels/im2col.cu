#include "im2col.h"
#include "im2col_arguments.h"
#include "scalar.cuh"

namespace convt3d {

// One file each, so that they compile in parallel.
template <typename T, bool kAccurate>
cudaError_t launch_im2col_typed(const Im2colArguments& args, Im2colPass pass, bool channels_last,
                                int groups, int multiprocessors, cudaStream_t stream);
extern template cudaError_t launch_im2col_typed<__half, false>(const Im2colArguments&, Im2colPass,
                                                               bool, int, int, cudaStream_t);
extern template cudaError_t launch_im2col_typed<__nv_bfloat16, false>(const Im2colArguments&,
                                                                      Im2colPass, bool, int, int,
                                                                      cudaStream_t);
extern template cudaError_t launch_im2col_typed<float, true>(const Im2colArguments&, Im2colPass,
                                                             bool, int, int, cudaStream_t);
extern template cudaError_t launch_im2col_typed<float, false>(const Im2colArguments&, Im2colPass,
                                                              bool, int, int, cudaStream_t);

namespace {

Im2colArguments arguments_of(const Problem& problem, Im2colPass pass, DataType type,
                             const Im2colPlan& plan, bool allow_tf32, const TensorPointer& input,
                             const TensorPointer& weight, const TensorPointer& output) {
  const int out_channels = static_cast<int>(problem.out_channels_per_group());
  const Im2colSizes sizes = im2col_sizes(problem, pass, type, allow_tf32, plan);
  const bool output_channels_last = output.stride[1] < output.stride[4];
  const GatheredTile tile = gathered_tile(plan);
  const bool forward = pass == Im2colPass::kForward;
  const int line_channels = output_channels_last ? out_channels : 1;
  const int line = forward ? plan.tile_w : tile.pitch;
  return {
      .plan = plan,
      .sizes = sizes,
      .out_channels = out_channels,
      .input = input,
      .weight = weight,
      .output = output,
      .bias = {},
      .workspace = nullptr,
      .tiles_w = Divisor(sizes.tiles_w),
      .tiles_h = Divisor(sizes.tiles_h),
      .segments = Divisor(sizes.segments),
      .quads_w = Divisor((forward ? widest_input(plan.axes[2], plan.tile_w, 4) : plan.tile_w) / 4),
      .out_channel = Divisor(out_channels),
      .line = Divisor(line * line_channels),
      .lines = Divisor(forward ? plan.stride[1] * plan.tile_h : tile.lines),
      .kernel_d = Divisor(plan.kernel[0]),
      .kernel_h = Divisor(plan.kernel[1]),
      .kernel_w = Divisor(plan.kernel[2]),
      .stride_h = Divisor(plan.stride[1]),
      .output_channels_last = output_channels_last};
}

cudaError_t launch(const Problem& problem, DataType type, Im2colPass pass,
                   const Im2colArguments& args, bool allow_tf32, int multiprocessors,
                   cudaStream_t stream) {
  const bool channels_last = args.input.stride[1] < args.input.stride[4];
  const int groups = static_cast<int>(problem.groups);
  const auto with = [&](auto launcher) {
    return launcher(args, pass, channels_last, groups, multiprocessors, stream);
  };
  switch (type) {
    case DataType::kFloat16:
      return with(launch_im2col_typed<__half, false>);
    case DataType::kBFloat16:
      return with(launch_im2col_typed<__nv_bfloat16, false>);
    case DataType::kFloat32:
      return allow_tf32 ? with(launch_im2col_typed<float, false>)
                        : with(launch_im2col_typed<float, true>);
    default:
      return cudaErrorInvalidValue;
  }
}

}  // namespace

cudaError_t launch_im2col_data(const Problem& problem, Pass pass, DataType type,
                               const Im2colPlan& plan, TensorPointer operand, TensorPointer weight,
                               VectorPointer bias, TensorPointer result, bool allow_tf32,
                               int multiprocessors, cudaStream_t stream) {
  const bool forward = pass == Pass::kForward;
  const Im2colPass im2col_pass = forward ? Im2colPass::kForward : Im2colPass::kGradInput;
  Im2colArguments args =
      arguments_of(problem, im2col_pass, type, plan, allow_tf32, forward ? operand : result, weight,
                   forward ? result : operand);
  args.bias = bias;
  return launch(problem, type, im2col_pass, args, allow_tf32, multiprocessors, stream);
}

cudaError_t launch_im2col_grad_weight(const Problem& problem, DataType type, const Im2colPlan& plan,
                                      TensorPointer grad_output, TensorPointer input,
                                      TensorPointer grad_weight, bool allow_tf32, void* workspace,
                                      cudaStream_t stream) {
  Im2colArguments args = arguments_of(problem, Im2colPass::kGradWeight, type, plan, allow_tf32,
                                      input, grad_weight, grad_output);
  args.workspace = static_cast<float*>(workspace);
  return launch(problem, type, Im2colPass::kGradWeight, args, allow_tf32, 0, stream);
}

}  // namespace convt3d

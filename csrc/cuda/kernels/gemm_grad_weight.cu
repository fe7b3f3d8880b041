#include "gemm_grad_weight.cuh"

namespace convt3d {

// One file each, so that they compile in parallel.
extern template cudaError_t launch_gemm_grad_weight_typed<__half, false>(const GradWeightArguments&,
                                                                         int, int, bool,
                                                                         cudaStream_t);
extern template cudaError_t launch_gemm_grad_weight_typed<__nv_bfloat16, false>(
    const GradWeightArguments&, int, int, bool, cudaStream_t);
extern template cudaError_t launch_gemm_grad_weight_typed<float, false>(const GradWeightArguments&,
                                                                        int, int, bool,
                                                                        cudaStream_t);
extern template cudaError_t launch_gemm_grad_weight_typed<float, true>(const GradWeightArguments&,
                                                                       int, int, bool,
                                                                       cudaStream_t);
extern template cudaError_t launch_gemm_grad_weight_typed<double, true>(const GradWeightArguments&,
                                                                        int, int, bool,
                                                                        cudaStream_t);

namespace {

// Tells by its largest block which of the library's binaries the device runs.
constexpr int kProbeThreads = 64;
__global__ void __launch_bounds__(kHasRegisterPools ? kProbeThreads : 2 * kProbeThreads)
    register_pools_probe() {}

}  // namespace

bool has_warp_roles() {
  cudaFuncAttributes attributes;
  return cudaFuncGetAttributes(&attributes, register_pools_probe) == cudaSuccess &&
         attributes.maxThreadsPerBlock == kProbeThreads;
}

cudaError_t launch_gemm_grad_weight(const Problem& problem, DataType type,
                                    const GemmGradWeightPlan& plan, TensorPointer grad_output,
                                    TensorPointer input, TensorPointer grad_weight, bool allow_tf32,
                                    void* workspace, cudaStream_t stream) {
  GradWeightArguments args{};
  args.sizes = gemm_grad_weight_sizes(problem, type, plan);
  args.tap_warps = plan.tap_warps;
  args.position_warps = plan.position_warps;
  args.stages = plan.stages;
  args.splits = plan.splits;
  args.tiles_per_split = (args.sizes.tiles + plan.splits - 1) / plan.splits;
  args.workspace = args.sizes.slots > 1 ? workspace : nullptr;

  const auto operand = [&](const TensorPointer& tensor, TileFill fill, int channels, int items,
                           int pitch) {
    FillOperand result{};
    result.tensor = tensor;
    result.fill = fill;
    result.element_bytes = element_bytes(type);
    result.vector = vector_of(fill);
    result.channels = channels;
    result.items = items;
    result.pitch = pitch;
    return result;
  };
  FillOperand &still = args.operands[0], &moving = args.operands[1];
  still = operand(plan.mirrored ? grad_output : input, plan.still_fill, args.sizes.still_channels,
                  args.sizes.still_items, args.sizes.still_pitch);
  moving = operand(plan.mirrored ? input : grad_output, plan.moving_fill,
                   args.sizes.moving_channels, args.sizes.moving_items, args.sizes.moving_pitch);
  still.items_per_line = args.sizes.still_items_per_line;
  moving.items_per_line = args.sizes.moving_items_per_line;
  args.clear_tiles = args.sizes.still_channels % (16 * plan.still_fragments) != 0 ||
                     args.sizes.moving_channels % (8 * plan.moving_fragments) != 0 ||
                     plan.axes[0].tile * plan.axes[1].tile * plan.axes[2].tile % 16 != 0;
  args.result_group_stride = problem.in_channels_per_group() * grad_weight.stride[0];
  args.result_still_stride = grad_weight.stride[plan.mirrored ? 1 : 0];
  args.result_moving_stride = grad_weight.stride[plan.mirrored ? 0 : 1];
  int64_t mirror_offset = 0;
  for (int a = 0; a < 3; ++a) {
    const ContractionAxis& axis = plan.axes[a];
    args.axes[a] = axis;
    args.taps_per_block[a] = axis.groups();
    const int slack = a == 2 ? moving.vector - 1 : 0;
    still.extent[a] = axis.still_extent;
    still.advance[a] = axis.tile;
    still.reach[a] = axis.tile;
    moving.extent[a] = axis.moving_extent;
    moving.advance[a] = axis.stride * axis.tile;
    moving.reach[a] = axis.extent_of_tile() + slack;
    const int64_t stride = grad_weight.stride[2 + a];
    args.result_tap_stride[a] = plan.mirrored ? -stride : stride;
    if (plan.mirrored) mirror_offset += (axis.kernel - 1) * stride;
  }
  args.result = static_cast<char*>(grad_weight.data) + mirror_offset * element_bytes(type);
  const auto launch = [&](auto launcher) {
    return launcher(args, plan.still_fragments, plan.moving_fragments, plan.warp_roles, stream);
  };
  switch (type) {
    case DataType::kFloat16:
      return launch(launch_gemm_grad_weight_typed<__half, false>);
    case DataType::kBFloat16:
      return launch(launch_gemm_grad_weight_typed<__nv_bfloat16, false>);
    case DataType::kFloat32:
      return allow_tf32 ? launch(launch_gemm_grad_weight_typed<float, true>)
                        : launch(launch_gemm_grad_weight_typed<float, false>);
    case DataType::kFloat64:
      return launch(launch_gemm_grad_weight_typed<double, true>);
    default:
      return cudaErrorInvalidValue;
  }
}

}  // namespace convt3d

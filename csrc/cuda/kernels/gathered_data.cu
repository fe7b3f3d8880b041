#include <algorithm>

#include "gathered_data.h"
#include "gathered_data_arguments.h"
#include "scalar.cuh"
#include "tensor_map.h"

namespace convt3d {

// One file each, so that they compile in parallel.
template <typename T, bool kExact>
cudaError_t launch_gathered_data_typed(const GatheredDataArguments& args, int blocks,
                                       cudaStream_t stream);
extern template cudaError_t launch_gathered_data_typed<__half, false>(const GatheredDataArguments&,
                                                                      int, cudaStream_t);
extern template cudaError_t launch_gathered_data_typed<__nv_bfloat16, false>(
    const GatheredDataArguments&, int, cudaStream_t);
extern template cudaError_t launch_gathered_data_typed<float, false>(const GatheredDataArguments&,
                                                                     int, cudaStream_t);
extern template cudaError_t launch_gathered_data_typed<float, true>(const GatheredDataArguments&,
                                                                    int, cudaStream_t);

cudaError_t launch_gathered_data(const Problem& problem, Pass pass, DataType type,
                                 const GatheredDataPlan& plan, TensorPointer operand,
                                 TensorPointer weight, VectorPointer bias, TensorPointer result,
                                 void* scratch, int multiprocessors, cudaStream_t stream) {
  const bool forward = pass == Pass::kForward;
  const GatheredDataSizes sizes = gathered_data_sizes(problem, pass, plan);
  const auto in_channels = static_cast<int>(problem.in_channels_per_group());
  const auto out_channels = static_cast<int>(problem.out_channels_per_group());
  const WindowAxis &d = plan.axes[0], &h = plan.axes[1], &w = plan.axes[2];
  GatheredDataArguments args{
      .plan = plan,
      .sizes = sizes,
      .operand_map = {},
      .groups = static_cast<int>(problem.groups),
      .operand_channels = forward ? in_channels : out_channels,
      .result_channels = forward ? out_channels : in_channels,
      .weight = weight,
      .result = result,
      .weight_group_stride = in_channels * weight.stride[0],
      .weight_operand_stride = forward ? weight.stride[0] : weight.stride[1],
      .weight_result_stride = forward ? weight.stride[1] : weight.stride[0],
      .bias = bias,
      .packed = static_cast<char*>(scratch),
      .line_bytes = {sizes.lines_h * sizes.pitch * plan.element_bytes,
                     sizes.pitch * plan.element_bytes, plan.element_bytes},
      .channel_tiles = Divisor(sizes.channel_tiles),
      .tiles = {Divisor(sizes.tiles[0]), Divisor(sizes.tiles[1]), Divisor(sizes.tiles[2])},
      .batch = Divisor(static_cast<int>(problem.batch)),
      .planes = {Divisor(d.planes), Divisor(h.planes), Divisor(w.planes)},
      .planes_by_taps = {},
      .tile_h = Divisor(plan.tile[1]),
      .tile_w = Divisor(plan.tile[2]),
      .taps_h = Divisor(h.taps()),
      .taps_w = Divisor(w.taps()),
  };
  for (int a = 0; a < 3; ++a) {
    const WindowAxis& axis = plan.axes[a];
    int8_t* const planes = args.planes_by_taps[a];
    for (int plane = 0; plane < axis.planes; ++plane) planes[plane] = static_cast<int8_t>(plane);
    std::stable_sort(planes, planes + axis.planes,
                     [&](int one, int other) { return axis.taps_of(one) > axis.taps_of(other); });
  }
  const int64_t operand_channels = problem.groups * args.operand_channels;
  const int step_channels = kGatheredStepBytes / plan.element_bytes;
  const cudaError_t status = describe_box(
      operand, type,
      {problem.batch, operand_channels, d.operand_extent, h.operand_extent, w.operand_extent},
      {{4, 3, 2, 1, 0}, {sizes.pitch, sizes.lines_h, sizes.lines_d, step_channels, 1}, 0},
      plan.exact ? Rounding::kNone : Rounding::kToTf32, &args.operand_map);
  if (status != cudaSuccess) return status;
  const int blocks = static_cast<int>(std::min<int64_t>(sizes.items, multiprocessors));
  switch (type) {
    case DataType::kFloat16:
      return launch_gathered_data_typed<__half, false>(args, blocks, stream);
    case DataType::kBFloat16:
      return launch_gathered_data_typed<__nv_bfloat16, false>(args, blocks, stream);
    case DataType::kFloat32:
      return plan.exact ? launch_gathered_data_typed<float, true>(args, blocks, stream)
                        : launch_gathered_data_typed<float, false>(args, blocks, stream);
    default:
      return cudaErrorInvalidValue;
  }
}

}  // namespace convt3d

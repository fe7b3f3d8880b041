#include <algorithm>

#include "gemm_data_sizes.h"
#include "scalar.cuh"
#include "tapwise_data.h"
#include "tapwise_data_arguments.h"
#include "tensor_map.h"

namespace convt3d {

// One file each, so that they compile in parallel.
template <typename T, bool kForward>
cudaError_t launch_tapwise_typed(const TapwiseArguments& args, int blocks, cudaStream_t stream);
extern template cudaError_t launch_tapwise_typed<__half, true>(const TapwiseArguments&, int,
                                                               cudaStream_t);
extern template cudaError_t launch_tapwise_typed<__half, false>(const TapwiseArguments&, int,
                                                                cudaStream_t);
extern template cudaError_t launch_tapwise_typed<__nv_bfloat16, true>(const TapwiseArguments&, int,
                                                                      cudaStream_t);
extern template cudaError_t launch_tapwise_typed<__nv_bfloat16, false>(const TapwiseArguments&, int,
                                                                       cudaStream_t);
extern template cudaError_t launch_tapwise_typed<float, false>(const TapwiseArguments&, int,
                                                               cudaStream_t);

cudaError_t launch_tapwise_data(const Problem& problem, Pass pass, DataType type,
                                const TapwisePlan& plan, TensorPointer operand,
                                TensorPointer weight, VectorPointer bias, TensorPointer result,
                                void* workspace, int multiprocessors, cudaStream_t stream) {
  const bool forward = pass == Pass::kForward;
  const TapwiseSizes sizes = tapwise_sizes(problem, pass, plan);
  const auto in_channels = static_cast<int>(problem.in_channels_per_group());
  const auto out_channels = static_cast<int>(problem.out_channels_per_group());
  const WindowAxis &d = plan.axes[0], &h = plan.axes[1], &w = plan.axes[2];
  int* const counters = static_cast<int*>(workspace);
  TapwiseArguments args{
      .plan = plan,
      .sizes = sizes,
      .operand_map = {},
      .weight_map = {},
      .batch = static_cast<int>(problem.batch),
      .groups = static_cast<int>(problem.groups),
      .operand_channels = forward ? in_channels : out_channels,
      .result_channels = forward ? out_channels : in_channels,
      .result = result,
      .bias = bias,
      .counters = counters,
      .segment_sums = reinterpret_cast<float*>(counters + sizes.counters),
      .result_in_vectors = loads_in_vectors(result, forward ? out_channels : in_channels, type),
      .tiles = {},
      .segments = Divisor(plan.split ? plan.segments : 1),
      .planes = {},
      .channel_tiles = Divisor(sizes.channel_tiles),
      .planes_by_taps = {},
      .tile_d = Divisor(plan.tile[1]),
      .tile_h = Divisor(plan.tile[2]),
      .tile_w = Divisor(plan.tile[3]),
  };
  for (int a = 0; a < 4; ++a) args.tiles[a] = Divisor(sizes.tiles[a]);
  for (int a = 0; a < 3; ++a) {
    const WindowAxis& axis = plan.axes[a];
    args.planes[a] = Divisor(axis.planes);
    int8_t* const planes = args.planes_by_taps[a];
    for (int plane = 0; plane < axis.planes; ++plane) planes[plane] = static_cast<int8_t>(plane);
    std::stable_sort(planes, planes + axis.planes,
                     [&](int one, int other) { return axis.taps_of(one) > axis.taps_of(other); });
  }
  cudaError_t status =
      describe_tensor(operand, type, problem.groups * args.operand_channels,
                      {problem.batch, d.operand_extent, h.operand_extent, w.operand_extent},
                      {kTapwiseUnits, plan.tile[2], plan.tile[3], h.operand_step, w.operand_step,
                       plan.tile[0], plan.tile[1], d.operand_step},
                      &args.operand_map);
  if (status != cudaSuccess) return status;
  // One tap: 128 bytes of output channels, of as many input channels as a step is deep, or has
  // columns.
  const int chunk = kTapwiseUnits * plan.unit_elements;
  status = describe_box(
      weight, type, {problem.in_channels, out_channels, d.taps(), h.taps(), w.taps()},
      {{1, 4, 3, 2, 0}, {chunk, 1, 1, 1, forward ? chunk : plan.columns}, kTapwiseRowBytes},
      Rounding::kToTf32, &args.weight_map);
  if (status != cudaSuccess) return status;
  if (sizes.counters > 0) {
    status = cudaMemsetAsync(counters, 0, sizes.counters * sizeof(int), stream);
    if (status != cudaSuccess) return status;
  }
  const int blocks = static_cast<int>(std::min<int64_t>(sizes.items, multiprocessors));
  if (type == DataType::kFloat16)
    return forward ? launch_tapwise_typed<__half, true>(args, blocks, stream)
                   : launch_tapwise_typed<__half, false>(args, blocks, stream);
  if (type == DataType::kBFloat16)
    return forward ? launch_tapwise_typed<__nv_bfloat16, true>(args, blocks, stream)
                   : launch_tapwise_typed<__nv_bfloat16, false>(args, blocks, stream);
  if (type == DataType::kFloat32 && !forward)
    return launch_tapwise_typed<float, false>(args, blocks, stream);
  return cudaErrorInvalidValue;
}

}  // namespace convt3d

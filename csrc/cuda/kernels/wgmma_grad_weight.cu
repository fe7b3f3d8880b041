#include <cuda.h>

#include "wgmma_grad_weight.cuh"

namespace convt3d {

// One file each, so that they compile in parallel.
extern template cudaError_t launch_wgmma_grad_weight_typed<__half>(const WgmmaGradWeightArguments&,
                                                                   cudaStream_t);
extern template cudaError_t launch_wgmma_grad_weight_typed<__nv_bfloat16>(
    const WgmmaGradWeightArguments&, cudaStream_t);

// An operand (channels, w, h, d, batch) as the copy engine sees it: a box of every step-th
// position.
static cudaError_t describe(const TensorPointer& operand, DataType type, int64_t channels,
                            int64_t batch, const int64_t (&extent)[3], const int (&step)[2],
                            const ContractionBox& box, int samples, CUtensorMap* map) {
  static const auto encode = [] {
    void* function = nullptr;
    cudaDriverEntryPointQueryResult found{};
    if (cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000,
                                         cudaEnableDefault, &found) != cudaSuccess)
      function = nullptr;
    return reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(function);
  }();
  if (encode == nullptr) return cudaErrorNotSupported;
  const auto unsigned64 = [](int64_t value) { return static_cast<cuuint64_t>(value); };
  const auto unsigned32 = [](int value) { return static_cast<cuuint32_t>(value); };
  const cuuint64_t sizes[5] = {unsigned64(channels), unsigned64(extent[2]), unsigned64(extent[1]),
                               unsigned64(extent[0]), unsigned64(batch)};
  // The stride of an extent of 1 means nothing and may be anything.
  cuuint64_t strides[4];
  for (int i = 0; i < 4; ++i)
    strides[i] = sizes[i + 1] == 1 ? 16 : unsigned64(operand.stride[i == 3 ? 0 : 4 - i] * 2);
  const cuuint32_t extents[5] = {unsigned32(box.width * 8),
                                 unsigned32(step[1] * (box.pitch - 1) + 1),
                                 unsigned32(step[0] * (box.lines - 1) + 1), 1, unsigned32(samples)};
  const cuuint32_t steps[5] = {1, unsigned32(step[1]), unsigned32(step[0]), 1, 1};
  const CUtensorMapSwizzle swizzle = box.width == 8   ? CU_TENSOR_MAP_SWIZZLE_128B
                                     : box.width == 4 ? CU_TENSOR_MAP_SWIZZLE_64B
                                                      : CU_TENSOR_MAP_SWIZZLE_32B;
  const CUresult result =
      encode(map,
             type == DataType::kFloat16 ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16
                                        : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
             5, operand.data, sizes, strides, extents, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
             swizzle, CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  return result == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}

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
  if (plan.still_run != 0) {
    const WindowAxis &d = plan.axes[0], &h = plan.axes[1], &w = plan.axes[2];
    const auto set = [](ContractionFill& fill, const TensorPointer& tensor,
                        const ContractionBox& box, int run) {
      fill.tensor = tensor;
      fill.lines = box.lines_of_memory;
      fill.run = run;
      fill.unit_bits = box.unit_bits;
      fill.units = box.units;
      fill.channels = box.channels;
      fill.slice = box.slice;
      fill.width = box.width;
      fill.block_bytes = box.block_bytes();
    };
    set(args.fills[0], still, args.sizes.still, plan.still_run);
    args.fills[0].extent_h = h.result_extent;
    args.fills[0].extent_w = w.result_extent;
    args.fills[0].step_d = d.result_step;
    set(args.fills[1], moving, args.sizes.moving, plan.moving_run);
    args.fills[1].extent_h = h.operand_extent;
    args.fills[1].extent_w = w.operand_extent;
    args.fills[1].step_d = d.operand_step;
    args.fills[1].origin_h = h.origin;
    args.fills[1].origin_w = w.origin;
    args.fills[1].boxes_at = args.sizes.moving_at;
    return launch();
  }
  int64_t still_extent[3], moving_extent[3];
  for (int a = 0; a < 3; ++a) {
    still_extent[a] = plan.axes[a].result_extent;
    moving_extent[a] = plan.axes[a].operand_extent;
  }
  const int still_step[2] = {plan.axes[1].result_step, plan.axes[2].result_step};
  const int moving_step[2] = {1, 1};
  cudaError_t status =
      describe(still, type, problem.groups * args.sizes.still.channels, problem.batch, still_extent,
               still_step, args.sizes.still, plan.samples, &args.still_map);
  if (status != cudaSuccess) return status;
  status = describe(moving, type, problem.groups * args.sizes.moving.channels, problem.batch,
                    moving_extent, moving_step, args.sizes.moving, plan.samples, &args.moving_map);
  if (status != cudaSuccess) return status;
  return launch();
}

}  // namespace convt3d

#include <cuda.h>

#include <algorithm>
#include <limits>

#include "gemm_data_sizes.h"
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

// The operand (channels, w, h, d, batch) as the copy engine sees it: a box of one residue pair,
// one sample behind the other.
static cudaError_t describe_operand(const WgmmaDataArguments& args, DataType type, int64_t channels,
                                    CUtensorMap* map) {
  static const auto encode = [] {
    void* function = nullptr;
    cudaDriverEntryPointQueryResult found{};
    if (cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000,
                                         cudaEnableDefault, &found) != cudaSuccess)
      function = nullptr;
    return reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(function);
  }();
  if (encode == nullptr) return cudaErrorNotSupported;
  const WindowAxis &d = args.plan.axes[0], &h = args.plan.axes[1], &w = args.plan.axes[2];
  const BoxShape& box = args.sizes.box;
  const auto unsigned64 = [](int64_t value) { return static_cast<cuuint64_t>(value); };
  const auto unsigned32 = [](int value) { return static_cast<cuuint32_t>(value); };
  const cuuint64_t sizes[5] = {unsigned64(channels), unsigned64(w.operand_extent),
                               unsigned64(h.operand_extent), unsigned64(d.operand_extent),
                               unsigned64(args.batch)};
  // The stride of an extent of 1 means nothing and may be anything.
  cuuint64_t strides[4];
  for (int i = 0; i < 4; ++i)
    strides[i] = sizes[i + 1] == 1 ? kWgmmaUnitBytes
                                   : unsigned64(args.operand.stride[i == 3 ? 0 : 4 - i] *
                                                (kWgmmaUnitBytes / args.plan.unit_elements));
  const cuuint32_t extents[5] = {unsigned32(box.width * args.plan.unit_elements),
                                 unsigned32(w.operand_step * (box.halo_w - 1) + 1),
                                 unsigned32(h.operand_step * (box.halo_h - 1) + 1), 1,
                                 unsigned32(args.plan.samples)};
  const cuuint32_t steps[5] = {1, unsigned32(w.operand_step), unsigned32(h.operand_step), 1, 1};
  const CUtensorMapSwizzle swizzle = box.width == 8   ? CU_TENSOR_MAP_SWIZZLE_128B
                                     : box.width == 4 ? CU_TENSOR_MAP_SWIZZLE_64B
                                                      : CU_TENSOR_MAP_SWIZZLE_32B;
  // TFLOAT32 rounds to nearest; the tensor cores would cut off.
  const CUtensorMapDataType element = type == DataType::kFloat16 ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16
                                      : type == DataType::kBFloat16
                                          ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16
                                          : CU_TENSOR_MAP_DATA_TYPE_TFLOAT32;
  const CUresult result =
      encode(map, element, 5, args.operand.data, sizes, strides, extents, steps,
             CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
             CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  return result == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
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
          channels_last && loads_in_vectors(result, forward ? out_channels : in_channels, type),
  };
  if (plan.fill_run == 0) {
    const cudaError_t status =
        describe_operand(args, type, problem.groups * args.operand_channels, &args.operand_map);
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

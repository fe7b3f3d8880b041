#include "depthwise_data.cuh"

namespace convt3d {

// One file each, so that they compile in parallel.
extern template cudaError_t launch_depthwise_data_typed<__half>(const DepthwiseArguments&,
                                                                DepthwiseShape, Pass, bool,
                                                                cudaStream_t);
extern template cudaError_t launch_depthwise_data_typed<__nv_bfloat16>(const DepthwiseArguments&,
                                                                       DepthwiseShape, Pass, bool,
                                                                       cudaStream_t);
extern template cudaError_t launch_depthwise_data_typed<float>(const DepthwiseArguments&,
                                                               DepthwiseShape, Pass, bool,
                                                               cudaStream_t);

cudaError_t launch_depthwise_data(const Problem& problem, Pass pass, DataType type,
                                  const DepthwisePlan& plan, TensorPointer operand,
                                  TensorPointer weight, VectorPointer bias, TensorPointer result,
                                  cudaStream_t stream) {
  bool vectors = false;
  const DepthwiseArguments args =
      depthwise_arguments(problem, pass, type == DataType::kFloat32 ? 4 : 2, plan, operand, weight,
                          bias, result, &vectors);
  if (args.batch == 0) return cudaSuccess;
  switch (type) {
    case DataType::kFloat16:
      return launch_depthwise_data_typed<__half>(args, plan.shape, pass, vectors, stream);
    case DataType::kBFloat16:
      return launch_depthwise_data_typed<__nv_bfloat16>(args, plan.shape, pass, vectors, stream);
    case DataType::kFloat32:
      return launch_depthwise_data_typed<float>(args, plan.shape, pass, vectors, stream);
    default:
      return cudaErrorInvalidValue;
  }
}

}  // namespace convt3d

#include "gemm_data.cuh"

namespace convt3d {

// One file each, so that they compile in parallel.
extern template cudaError_t launch_gemm_data_typed<__half>(const GemmDataArguments&, cudaStream_t);
extern template cudaError_t launch_gemm_data_typed<__nv_bfloat16>(const GemmDataArguments&,
                                                                  cudaStream_t);
extern template cudaError_t launch_gemm_data_typed<float>(const GemmDataArguments&, cudaStream_t);
extern template cudaError_t launch_gemm_data_typed<double>(const GemmDataArguments&, cudaStream_t);

cudaError_t launch_gemm_data(const Problem& problem, Pass pass, DataType type,
                             const GemmDataPlan& plan, TensorPointer operand, TensorPointer weight,
                             VectorPointer bias, TensorPointer result, bool allow_tf32,
                             void* scratch, cudaStream_t stream) {
  const bool forward = pass == Pass::kForward;
  const int64_t in_channels = problem.in_channels_per_group();
  const int64_t out_channels = problem.out_channels_per_group();
  const GemmDataSizes sizes = gemm_data_sizes(problem, pass, type, plan);
  const int parts = type == DataType::kFloat32 ? 2 : 1;
  const bool channels_last = result.stride[1] < result.stride[4];
  const int group_tiles = static_cast<int>(problem.groups) * sizes.column_tiles;
  char* const packed = static_cast<char*>(scratch);
  ColumnTile* const columns = reinterpret_cast<ColumnTile*>(packed + sizes.packed_bytes);
  Chunk* const chunks = reinterpret_cast<Chunk*>(columns + sizes.column_tiles);
  RowPlace* const rows = reinterpret_cast<RowPlace*>(chunks + sizes.chunks);
  ResultPlace* const results = reinterpret_cast<ResultPlace*>(rows + sizes.operand_rows);
  int* const stages = reinterpret_cast<int*>(results + sizes.places);
  int* const positions = stages + sizes.column_tiles * sizes.chunks;
  const GemmDataArguments args{
      .plan = plan,
      .sizes = sizes,
      .batch = static_cast<int>(problem.batch),
      .groups = static_cast<int>(problem.groups),
      .tiles = {plan.axes[0].tiles(), plan.axes[1].tiles(), plan.axes[2].tiles()},
      .operand_channels = static_cast<int>(forward ? in_channels : out_channels),
      .result_channels = static_cast<int>(forward ? out_channels : in_channels),
      .step_bytes = kHeaderBytes + parts * 2 * sizes.column_width * kUnitBytes,
      .pack_headers = group_tiles * sizes.chunks * sizes.steps,
      .pack_tails = group_tiles * sizes.chunks * sizes.column_width,
      .staging_pitch = staging_pitch(channels_last, sizes, type),
      .operand = operand,
      .weight = weight,
      .result = result,
      .weight_group_stride = in_channels * weight.stride[0],
      .weight_operand_stride = forward ? weight.stride[0] : weight.stride[1],
      .weight_result_stride = forward ? weight.stride[1] : weight.stride[0],
      .bias = bias,
      .packed = packed,
      .tables = {columns, chunks, rows, results, stages, positions},
      .allow_tf32 = allow_tf32,
      .result_channels_last = channels_last,
      .result_in_vectors = loads_in_vectors(result, forward ? out_channels : in_channels, type),
  };
  switch (type) {
    case DataType::kFloat16:
      return launch_gemm_data_typed<__half>(args, stream);
    case DataType::kBFloat16:
      return launch_gemm_data_typed<__nv_bfloat16>(args, stream);
    case DataType::kFloat32:
      return launch_gemm_data_typed<float>(args, stream);
    case DataType::kFloat64:
      return launch_gemm_data_typed<double>(args, stream);
    default:
      return cudaErrorInvalidValue;
  }
}

}  // namespace convt3d

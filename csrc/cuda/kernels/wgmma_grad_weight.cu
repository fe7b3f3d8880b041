#include <cuda.h>

#include <algorithm>
#include <limits>

#include "wgmma_grad_weight.cuh"

namespace convt3d {

// One file each, so that they compile in parallel.
extern template cudaError_t launch_wgmma_grad_weight_typed<__half>(const WgmmaGradWeightArguments&,
                                                                   cudaStream_t);
extern template cudaError_t launch_wgmma_grad_weight_typed<__nv_bfloat16>(
    const WgmmaGradWeightArguments&, cudaStream_t);

namespace {

int64_t ceil_of(int64_t a, int64_t b) { return (a + b - 1) / b; }
int64_t round_up(int64_t value, int64_t multiple) { return ceil_of(value, multiple) * multiple; }

// Channels of a slice: all, but at most `most`; a power of two where they are few.
int slice_of(int channels, int most) {
  if (channels <= 16) return std::min(16, most);
  if (channels <= 32) return std::min(32, most);
  return std::min(static_cast<int>(round_up(channels, 16)), most);
}

void set_slice(ContractionBox& box, int slice) {
  box.slice = slice;
  box.slices = static_cast<int>(ceil_of(box.channels, slice));
  box.width = slice <= 16 ? 2 : slice <= 32 ? 4 : 8;
  box.blocks = static_cast<int>(ceil_of(slice, 8 * box.width));
}

}  // namespace

WgmmaGradWeightSizes wgmma_grad_weight_sizes(const Problem& problem,
                                             const WgmmaGradWeightPlan& plan) {
  const WindowAxis &d = plan.axes[0], &h = plan.axes[1], &w = plan.axes[2];
  const int in = static_cast<int>(problem.in_channels_per_group());
  const int out = static_cast<int>(problem.out_channels_per_group());
  WgmmaGradWeightSizes sizes{};
  ContractionBox &still = sizes.still, &moving = sizes.moving;
  still.channels = plan.input_moves ? out : in;
  moving.channels = plan.input_moves ? in : out;
  constexpr int kRows = 64;
  const int moving_most = (plan.moving_rows ? kRows : plan.columns) / plan.merged;
  const int still_most = plan.moving_rows ? plan.columns : kRows;
  set_slice(moving, plan.merged > 1 ? moving_most : slice_of(moving.channels, moving_most));
  set_slice(still, slice_of(still.channels, still_most));

  moving.pitch = plan.tile_w + w.window - 1;
  moving.lines = plan.tile_h + h.window - 1;
  still.pitch = plan.flattened ? moving.pitch : plan.tile_w;
  still.lines = plan.samples > 1 ? moving.lines : plan.tile_h;
  const int64_t positions =
      plan.flattened
          ? (static_cast<int64_t>(plan.samples - 1) * moving.lines + plan.tile_h) * moving.pitch
          : static_cast<int64_t>(plan.tile_h) * plan.tile_w;
  sizes.steps = static_cast<int>(ceil_of(positions, 16));
  const auto padded_rows = [&](const ContractionBox& box, int64_t least) {
    const int64_t rows = std::max<int64_t>(plan.samples * box.lines * box.pitch, least);
    return static_cast<int>(round_up(rows, kBoxAlignment / (16 * box.width)));
  };
  still.rows = padded_rows(still, 16 * sizes.steps);
  moving.rows = padded_rows(moving, 0);
  moving.boxes = 1;

  sizes.tap_tiles = tap_tiles(h, w, plan.merged);
  sizes.tiles_per_group = static_cast<int>(ceil_of(sizes.tap_tiles, plan.tap_groups));
  for (int first = 0; first < sizes.tap_tiles; first += sizes.tiles_per_group) {
    const int last = std::min(first + sizes.tiles_per_group, sizes.tap_tiles) - 1;
    const TapTile from = tap_tile_at(h, w, plan.merged, first);
    const TapTile to = tap_tile_at(h, w, plan.merged, last);
    still.boxes = std::max(still.boxes,
                           (to.plane_h - from.plane_h) * w.planes + to.plane_w - from.plane_w + 1);
  }
  sizes.tiles_h = static_cast<int>(ceil_of(h.positions, plan.tile_h));
  sizes.tiles_w = static_cast<int>(ceil_of(w.positions, plan.tile_w));
  sizes.sample_tiles = static_cast<int>(ceil_of(problem.batch, plan.samples));

  sizes.moving_at = still.bytes();
  sizes.stage_bytes = sizes.moving_at + moving.bytes();
  int64_t at = static_cast<int64_t>(plan.stages) * sizes.stage_bytes;
  // Rows past the last box are read where taps side by side or padded k-steps reach beyond it.
  const int64_t last_row =
      plan.flattened ? 16 * sizes.steps - 1 : (plan.tile_h - 1) * moving.pitch + plan.tile_w - 1;
  const int64_t reach = last_row + (h.window - 1) * moving.pitch + w.window - 1 +
                        (plan.merged - 1) * tap_distance(w) + 1 - moving.rows;
  at += std::max<int64_t>(reach, 0) * 16 * moving.width;
  at = round_up(at, 128);
  sizes.tables_at = static_cast<int>(std::min<int64_t>(at, std::numeric_limits<int>::max()));
  at = round_up(at + 4 * (sizes.steps + 2 * plan.tiles), 16);
  sizes.barriers_at = static_cast<int>(std::min<int64_t>(at, std::numeric_limits<int>::max()));
  at += 16 * plan.stages;
  sizes.shared_bytes = static_cast<int>(std::min<int64_t>(at, std::numeric_limits<int>::max()));

  sizes.jobs = problem.groups * d.taps() * still.slices * moving.slices *
               static_cast<int64_t>(plan.tap_groups);
  sizes.slots = plan.splits * (plan.split_positions ? 2 : 1);
  sizes.partials = sizes.jobs * plan.tiles * (plan.split_positions ? 1 : 2) * 64 * plan.columns;
  if (sizes.slots > 1) sizes.workspace_bytes = sizes.slots * sizes.partials * 4;
  return sizes;
}

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
  int64_t still_extent[3], moving_extent[3];
  for (int a = 0; a < 3; ++a) {
    still_extent[a] = plan.axes[a].result_extent;
    moving_extent[a] = plan.axes[a].operand_extent;
  }
  const int still_step[2] = {plan.axes[1].result_step, plan.axes[2].result_step};
  const int moving_step[2] = {1, 1};
  const TensorPointer& still = plan.input_moves ? grad_output : input;
  const TensorPointer& moving = plan.input_moves ? input : grad_output;
  cudaError_t status =
      describe(still, type, problem.groups * args.sizes.still.channels, problem.batch, still_extent,
               still_step, args.sizes.still, plan.samples, &args.still_map);
  if (status != cudaSuccess) return status;
  status = describe(moving, type, problem.groups * args.sizes.moving.channels, problem.batch,
                    moving_extent, moving_step, args.sizes.moving, plan.samples, &args.moving_map);
  if (status != cudaSuccess) return status;
  return type == DataType::kFloat16 ? launch_wgmma_grad_weight_typed<__half>(args, stream)
                                    : launch_wgmma_grad_weight_typed<__nv_bfloat16>(args, stream);
}

}  // namespace convt3d

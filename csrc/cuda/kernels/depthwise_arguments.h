// From a problem and its tensors to the arguments of the depthwise data kernels. No CUDA headers.
#pragma once

#include <algorithm>

#include "depthwise_shapes.h"

namespace convt3d {

// Of `most` neighbours (a power of two) along dimension `fast`, how many always start on a multiple
// of their size and lie inside or outside the tensor as a whole.
inline int aligned_run(const TensorPointer& tensor, int fast, int64_t extent, int element_bytes,
                       int most) {
  if (tensor.stride[fast] != 1) return 1;
  int run = most;
  const auto fits = [&] {
    bool result =
        reinterpret_cast<uintptr_t>(tensor.data) % (run * element_bytes) == 0 && extent % run == 0;
    for (int dim = 0; dim < 5; ++dim)
      result = result && (dim == fast || tensor.stride[dim] % run == 0);
    return result;
  };
  while (run > 1 && !fits()) run /= 2;
  return run;
}

// Results and operands along w of a thread's tile.
struct TileWidth {
  int results_d, results_w;
  int operands_w;  // without the halo
};

template <class Tile>
constexpr TileWidth tile_width() {
  using Axis = typename Tile::Axis;
  return {Axis::results(Tile::kTileD), Axis::results(Tile::kTileW),
          Axis::kOperandStep * Tile::kTileW};
}

inline TileWidth tile_width(DepthwiseShape shape, Pass pass, bool vectors) {
  if (shape == DepthwiseShape::kAny) return {1, 1, 1};
  return dispatch_shape(shape, [&](auto tag) {
    constexpr DepthwiseShape kShape = decltype(tag)::value;
    if (pass == Pass::kForward)
      return vectors ? tile_width<DataTile<kShape, Pass::kForward, true>>()
                     : tile_width<DataTile<kShape, Pass::kForward, false>>();
    return vectors ? tile_width<DataTile<kShape, Pass::kGradInput, true>>()
                   : tile_width<DataTile<kShape, Pass::kGradInput, false>>();
  });
}

// `vectors`: whether threads own kDepthwiseVector channels, else one.
inline DepthwiseArguments depthwise_arguments(const Problem& problem, Pass pass, int element_bytes,
                                              const DepthwisePlan& plan,
                                              const TensorPointer& operand,
                                              const TensorPointer& weight,
                                              const VectorPointer& bias,
                                              const TensorPointer& result, bool* vectors) {
  const bool forward = pass == Pass::kForward;
  std::array<Axis, 3> axes = problem.axes;
  // The kernels of stride 1 are those of grad_input: forward with the taps in reverse order.
  const bool reversed = forward && plan.shape == DepthwiseShape::kKernel3;
  if (reversed) {
    for (Axis& axis : axes) {
      std::swap(axis.input, axis.output);
      axis.padding = axis.kernel - 1 - axis.padding;
    }
  }
  DepthwiseArguments args(axes);
  args.batch = static_cast<int>(problem.batch);
  const int in_channels = static_cast<int>(problem.in_channels_per_group());
  const int out_channels = static_cast<int>(problem.out_channels_per_group());
  args.operand_channels = forward ? in_channels : out_channels;
  args.result_channels = forward ? out_channels : in_channels;
  args.channels = static_cast<int>(forward ? problem.out_channels : problem.in_channels);
  args.operand = operand.data;
  args.result = result.data;
  args.weight = weight.data;
  args.bias = bias.data;
  args.bias_stride = bias.stride;
  std::copy(operand.stride.begin(), operand.stride.end(), args.operand_stride);
  std::copy(result.stride.begin(), result.stride.end(), args.result_stride);
  args.weight_group_stride = in_channels * weight.stride[0];
  args.weight_operand_stride = weight.stride[forward ? 0 : 1];
  args.weight_result_stride = weight.stride[forward ? 1 : 0];
  int64_t last_tap = 0;
  for (int a = 0; a < 3; ++a) {
    const Axis& axis = problem.axes[a];
    args.operand_extent[a] = static_cast<int>(forward ? axis.input : axis.output);
    args.result_extent[a] = static_cast<int>(forward ? axis.output : axis.input);
    args.weight_tap_stride[a] = reversed ? -weight.stride[2 + a] : weight.stride[2 + a];
    last_tap += (axis.kernel - 1) * weight.stride[2 + a];
  }
  if (reversed) args.weight = static_cast<const char*>(weight.data) + last_tap * element_bytes;

  const bool channels_last = result.stride[1] < result.stride[4];
  constexpr int kVector = kDepthwiseVector;
  *vectors = channels_last && args.operand_channels == 1 && args.result_channels == 1 &&
             aligned_run(operand, 1, args.channels, element_bytes, kVector) == kVector &&
             aligned_run(result, 1, args.channels, element_bytes, kVector) == kVector;
  const TileWidth tile = tile_width(plan.shape, pass, *vectors);
  const int run = 16 / element_bytes;
  const int load_run = std::min(tile.operands_w, run), store_run = std::min(tile.results_w, run);
  args.load_runs =
      plan.shape != DepthwiseShape::kAny &&
      aligned_run(operand, 4, args.operand_extent[2], element_bytes, load_run) == load_run;
  args.store_run = aligned_run(result, 4, args.result_extent[2], element_bytes, store_run);
  args.tiles_d = divide_up(args.result_extent[0], tile.results_d);
  args.map = thread_map(*vectors ? args.channels / kVector : args.channels,
                        channels_last ? plan.most_lanes : 1,
                        divide_up(args.result_extent[2], tile.results_w), args.result_extent[1]);
  const int64_t lines =
      static_cast<int64_t>(args.map.slabs) * args.map.groups_w * args.map.groups_h * args.batch;
  // A block of many tiles spends less on its weights, as long as there are blocks enough.
  constexpr int64_t kEnoughBlocks = 4096, kMostTiles = 8;
  const int64_t tiles = std::clamp(lines * args.tiles_d / kEnoughBlocks, int64_t{1}, kMostTiles);
  args.tiles_d_per_block = even_piece(
      args.tiles_d, std::max(static_cast<int>(tiles), divide_up(args.tiles_d, kMostGridDepth)));
  return args;
}

}  // namespace convt3d

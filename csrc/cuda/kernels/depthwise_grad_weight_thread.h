// What one thread of the depthwise grad_weight kernel does (depthwise_grad_weight.cuh).
// Host-device, no CUDA headers: the CPU tests run the threads one after the other.
#pragma once

#include "depthwise_arguments.h"

namespace convt3d {

// A row of weights is one (input channel, output channel of its group): all taps of a pair.
struct DepthwiseWeightArguments {
  // As for grad_input: the operand is grad_output, and where results would go lies the input.
  DepthwiseArguments data;
  int in_channels, out_channels;  // per group
  int rows, kernel;
  int splits;
  int64_t tiles, tiles_per_split;  // of one split: neighbours along w, then h, d, the batch
  float* workspace;                // [split][row][tap]
  void* grad_weight;
  int64_t weight_stride[5];
};

// What a thread multiplies at once: positions of the input, with the taps kh alone.
template <DepthwiseShape kShape>
using WeightTile = ThreadTile<FixedAxis<Pass::kGradInput, FixedShape<kShape>::kKernel,
                                        FixedShape<kShape>::kStride, FixedShape<kShape>::kPadding>,
                              FixedShape<kShape>::kStride == 1 ? 4 : 1, 4, 1>;

// Adds the products of one tile to the sums of taps (kd, kw).
template <typename T, class Tile>
CONVT3D_HOST_DEVICE void multiply_weight_tile(const DepthwiseArguments& args, const T* input,
                                              const T* grad_output, int tile_d, int tile_w, int h,
                                              int kh, float* sum) {
  using Axis = typename Tile::Axis;
  constexpr int kTileD = Tile::kTileD, kTileW = Tile::kTileW, kKernel = Axis::kKernel;
  constexpr int kSpan = Axis::span(kTileW), kStep = Axis::kOperandStep;
  const int y = args.height.stride * h - args.height.padding + kh;
  if (static_cast<unsigned>(y) >= static_cast<unsigned>(args.operand_extent[1])) return;
  const int d = kTileD * tile_d, w = kTileW * tile_w;

  float values[kTileD][kTileW];
  input += d * args.result_stride[2] + h * args.result_stride[3] + w * args.result_stride[4];
  CONVT3D_UNROLL
  for (int td = 0; td < kTileD; ++td) {
    CONVT3D_UNROLL
    for (int tw = 0; tw < kTileW; ++tw) {
      const bool inside = d + td < args.result_extent[0] && w + tw < args.result_extent[2];
      values[td][tw] = Storage<T>::load(
          inside ? input[td * args.result_stride[2] + tw * args.result_stride[4]] : T{});
    }
  }
  const int first_d = kStep * d + Axis::kOrigin, first_w = kStep * w + Axis::kOrigin;
  const T* line = grad_output + y * args.operand_stride[3] + first_d * args.operand_stride[2];
  CONVT3D_UNROLL
  for (int z = 0; z < Axis::span(kTileD); ++z) {
    OperandLine<T, Tile> grads;
    grads.load(args, line, first_w,
               static_cast<unsigned>(first_d + z) < static_cast<unsigned>(args.operand_extent[0]));
    line += args.operand_stride[2];
    float grad[kSpan][1];
    CONVT3D_UNROLL
    for (int j = 0; j < kSpan; ++j) grads.convert(j, grad[j]);
    CONVT3D_UNROLL
    for (int kd = 0; kd < kKernel; ++kd) {
      const int steps = z - kd, td = steps / kStep;
      if (steps < 0 || steps % kStep != 0 || td >= kTileD) continue;
      CONVT3D_UNROLL
      for (int kw = 0; kw < kKernel; ++kw) {
        CONVT3D_UNROLL
        for (int tw = 0; tw < kTileW; ++tw)
          sum[kd * kKernel + kw] += values[td][tw] * grad[kStep * tw + kw][0];
      }
    }
  }
}

// A thread's share of split `split`, for the taps `kh`; `sum` has the pairs (kd, kw).
template <typename T, class Tile>
CONVT3D_HOST_DEVICE void sum_weight_tiles(const DepthwiseWeightArguments& weight, int slab, int kh,
                                          int split, unsigned thread, float* sum) {
  const DepthwiseArguments& args = weight.data;
  const ThreadMap& map = args.map;
  const ThreadPlace place = thread_place(map, slab, thread);
  if (!place.used || place.vector >= weight.rows) return;
  const int group_channel = place.vector / weight.out_channels;  // the input's
  const int64_t out_channel =
      static_cast<int64_t>(group_channel / weight.in_channels) * weight.out_channels +
      place.vector - group_channel * weight.out_channels;
  const T* input = static_cast<const T*>(args.result) + group_channel * args.result_stride[1];
  const T* grad_output = static_cast<const T*>(args.operand) + out_channel * args.operand_stride[1];

  const int64_t first = split * weight.tiles_per_split;
  const int64_t end =
      first + weight.tiles_per_split < weight.tiles ? first + weight.tiles_per_split : weight.tiles;
  int64_t rest = first;
  int group_w = static_cast<int>(rest % map.groups_w);
  rest /= map.groups_w;
  int group_h = static_cast<int>(rest % map.groups_h);
  rest /= map.groups_h;
  int d = static_cast<int>(rest % args.tiles_d);
  int64_t n = rest / args.tiles_d;
  for (int64_t tile = first; tile < end; ++tile) {
    const int tile_w = group_w * map.slots_w + place.tile_w;
    const int h = group_h * map.slots_h + place.row_h;
    if (h < args.result_extent[1] && tile_w * Tile::kTileW < args.result_extent[2])
      multiply_weight_tile<T, Tile>(args, input + n * args.result_stride[0],
                                    grad_output + n * args.operand_stride[0], d, tile_w, h, kh,
                                    sum);
    if (++group_w < map.groups_w) continue;
    group_w = 0;
    if (++group_h < map.groups_h) continue;
    group_h = 0;
    if (++d < args.tiles_d) continue;
    d = 0;
    ++n;
  }
}

// Adds the threads' sums (`shared`: [pair][thread]) of one lane and pair, in a fixed order, into
// the workspace.
CONVT3D_HOST_DEVICE inline void add_threads(const DepthwiseWeightArguments& weight, int slab,
                                            int kh, int split, unsigned thread,
                                            const float* shared) {
  const int lanes = weight.data.map.lanes, kernel = weight.kernel;
  const int slots = kDepthwiseThreads / lanes;
  for (int item = thread; item < kernel * kernel * lanes; item += kDepthwiseThreads) {
    const int pair = item / lanes, lane = item - pair * lanes, row = slab * lanes + lane;
    if (row >= weight.rows) continue;
    float sum = 0.f;
    for (int slot = 0; slot < slots; ++slot)
      sum += shared[pair * kDepthwiseThreads + slot * lanes + lane];
    const int kd = pair / kernel, kw = pair - kd * kernel;
    const int64_t at = static_cast<int64_t>(split) * weight.rows + row;
    weight.workspace[(at * kernel * kernel + kd * kernel + kh) * kernel + kw] = sum;
  }
}

// Adds the splits of weight `item` ([row][tap]) in a fixed order.
template <typename T>
CONVT3D_HOST_DEVICE void add_splits(const DepthwiseWeightArguments& weight, int item) {
  const int kernel = weight.kernel, taps = kernel * kernel * kernel;
  const int row = item / taps, tap = item - row * taps;
  float sum = 0.f;
  for (int split = 0; split < weight.splits; ++split)
    sum += weight.workspace[static_cast<int64_t>(split) * weight.rows * taps + item];
  const int in = row / weight.out_channels, line = tap / kernel, kd = line / kernel;
  static_cast<T*>(weight.grad_weight)[in * weight.weight_stride[0] +
                                      (row - in * weight.out_channels) * weight.weight_stride[1] +
                                      kd * weight.weight_stride[2] +
                                      (line - kd * kernel) * weight.weight_stride[3] +
                                      (tap - line * kernel) * weight.weight_stride[4]] =
      Storage<T>::store(sum);
}

inline DepthwiseWeightArguments depthwise_weight_arguments(const Problem& problem,
                                                           int element_bytes, DepthwiseShape shape,
                                                           const TensorPointer& grad_output,
                                                           const TensorPointer& input,
                                                           const TensorPointer& grad_weight) {
  DepthwiseWeightArguments weight{
      .data = DepthwiseArguments(problem.axes),
      .in_channels = static_cast<int>(problem.in_channels_per_group()),
      .out_channels = static_cast<int>(problem.out_channels_per_group()),
      .rows = static_cast<int>(problem.in_channels * problem.out_channels_per_group()),
      .kernel = static_cast<int>(problem.axes[0].kernel),
      .splits = 1,
      .tiles = 0,
      .tiles_per_split = 0,
      .workspace = nullptr,
      .grad_weight = grad_weight.data,
      .weight_stride = {}};
  std::copy(grad_weight.stride.begin(), grad_weight.stride.end(), weight.weight_stride);
  DepthwiseArguments& data = weight.data;
  data.batch = static_cast<int>(problem.batch);
  data.operand = grad_output.data;
  data.result = input.data;
  std::copy(grad_output.stride.begin(), grad_output.stride.end(), data.operand_stride);
  std::copy(input.stride.begin(), input.stride.end(), data.result_stride);
  for (int a = 0; a < 3; ++a) {
    data.operand_extent[a] = static_cast<int>(problem.axes[a].output);
    data.result_extent[a] = static_cast<int>(problem.axes[a].input);
  }
  int tile_d = 0, tile_w = 0, operands_w = 0;
  dispatch_shape(shape, [&](auto tag) {
    using Tile = WeightTile<decltype(tag)::value>;
    tile_d = Tile::kTileD;
    tile_w = Tile::kTileW;
    operands_w = Tile::kTileW * Tile::Axis::kOperandStep;
  });
  const int load_run = std::min(operands_w, 16 / element_bytes);
  data.load_runs =
      aligned_run(grad_output, 4, data.operand_extent[2], element_bytes, load_run) == load_run;
  // Lanes lie along channels where these are neighbours in memory.
  const bool channels_last = grad_output.stride[1] < grad_output.stride[4];
  data.map = thread_map(weight.rows, channels_last ? 32 : 1,
                        divide_up(data.result_extent[2], tile_w), data.result_extent[1]);
  data.tiles_d = divide_up(data.result_extent[0], tile_d);
  weight.tiles =
      static_cast<int64_t>(data.map.groups_w) * data.map.groups_h * data.tiles_d * problem.batch;
  // A few blocks for every multiprocessor of a large GPU, and at most 64 MiB of partial sums.
  constexpr int64_t kBlocks = 3072, kMostSplits = 4096, kMostBytes = 64 << 20;
  const int64_t row_bytes =
      static_cast<int64_t>(weight.rows) * weight.kernel * weight.kernel * weight.kernel * 4;
  const int64_t splits =
      std::clamp(std::min(kBlocks / (data.map.slabs * weight.kernel), kMostBytes / row_bytes),
                 int64_t{1}, std::min(kMostSplits, weight.tiles));
  weight.tiles_per_split = (weight.tiles + splits - 1) / splits;
  weight.splits =
      static_cast<int>((weight.tiles + weight.tiles_per_split - 1) / weight.tiles_per_split);
  return weight;
}

inline int64_t depthwise_workspace_bytes(const DepthwiseWeightArguments& weight) {
  const int64_t taps = static_cast<int64_t>(weight.kernel) * weight.kernel * weight.kernel;
  return weight.splits * weight.rows * taps * static_cast<int64_t>(sizeof(float));
}

}  // namespace convt3d

// Direct forward and grad_input: one thread computes kChannels channels of one result position.
//
//   thread -> (batch, group, channels, position), in the result's own memory order, so that
//             neighbouring threads store neighbouring elements
//   for every tap that meets the position (tap table, three nested loops)
//     for every channel of the operand in this group
//       operand element (one load)  x  kChannels weights  ->  kChannels accumulators
//
// The passes differ in which tensor is the operand and in how a position finds its taps:
//   forward     operand input,       taps of one residue: partners_of_output
//   grad_input  operand grad_output, all taps:            partners_of_input
#include "dispatch.cuh"
#include "launch.cuh"
#include "tile_geometry.h"

namespace convt3d {
namespace {

constexpr int kThreads = 256;
constexpr int kChannels = 4;

template <typename Index>
struct DataArguments {
  TapTable<Index> depth, height, width;
  Index batch, groups;
  Index operand_channels, result_channels;  // per group
  Index tiles;                              // result channels per group / kChannels, rounded up
  Index result_depth, result_height, result_width;
  Index work_items;
  bool channels_last;
  TensorPointer operand, weight, result;
  int64_t weight_group_stride, weight_operand_stride, weight_result_stride;
  VectorPointer bias;
};

template <Pass kPass, typename Index>
__device__ Partners<Index> partners(const TapTable<Index>& table, Index position) {
  if constexpr (kPass == Pass::kForward) {
    return partners_of_output(table, position);
  } else {
    return partners_of_input(table, position);
  }
}
template <Pass kPass, typename Index>
__device__ Index tap_step(const TapTable<Index>& table) {
  return kPass == Pass::kForward ? table.period : 1;
}
template <Pass kPass, typename Index>
__device__ Index position_step(const TapTable<Index>& table) {
  return kPass == Pass::kForward ? -table.shift_step : table.dilation;
}

// Splits off the fastest coordinate of a flat index.
template <typename Index>
__device__ Index take(Index& flat, Index extent) {
  const Index coordinate = flat % extent;
  flat /= extent;
  return coordinate;
}

// Blocks that registers let run together: four of float32 sums and 32-bit indices, else two.
template <typename T, typename Index>
constexpr int kResident = sizeof(Accumulator<T>) == 4 && sizeof(Index) == 4 ? 4 : 2;

template <typename T, typename Index, Pass kPass>
__global__ void __launch_bounds__(kThreads, kResident<T, Index>)
    direct_data_kernel(const DataArguments<Index> args) {
  using A = Accumulator<T>;
  const int64_t item = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (item >= args.work_items) return;
  Index flat = static_cast<Index>(item);
  Index tile = 0, group = 0;
  if (args.channels_last) {
    tile = take(flat, args.tiles);
    group = take(flat, args.groups);
  }
  const Index w = take(flat, args.result_width);
  const Index h = take(flat, args.result_height);
  const Index d = take(flat, args.result_depth);
  if (!args.channels_last) {
    tile = take(flat, args.tiles);
    group = take(flat, args.groups);
  }
  const Index n = flat;

  const Index first_channel = tile * kChannels;
  const Index left = args.result_channels - first_channel;
  const Index channels = left < kChannels ? left : kChannels;

  const T* operand = static_cast<const T*>(args.operand.data) + n * args.operand.stride[0] +
                     group * args.operand_channels * args.operand.stride[1];
  const T* weight = static_cast<const T*>(args.weight.data) + group * args.weight_group_stride +
                    first_channel * args.weight_result_stride;

  const Partners<Index> pd = partners<kPass>(args.depth, d);
  const Partners<Index> ph = partners<kPass>(args.height, h);
  const Partners<Index> pw = partners<kPass>(args.width, w);

  A sum[kChannels] = {};
  for (Index a = 0; a < pd.count; ++a) {
    const Index kd = pd.tap + a * tap_step<kPass>(args.depth);
    const Index od = pd.position + a * position_step<kPass>(args.depth);
    for (Index b = 0; b < ph.count; ++b) {
      const Index kh = ph.tap + b * tap_step<kPass>(args.height);
      const Index oh = ph.position + b * position_step<kPass>(args.height);
      for (Index c = 0; c < pw.count; ++c) {
        const Index kw = pw.tap + c * tap_step<kPass>(args.width);
        const Index ow = pw.position + c * position_step<kPass>(args.width);
        const T* x = operand + od * args.operand.stride[2] + oh * args.operand.stride[3] +
                     ow * args.operand.stride[4];
        const T* k = weight + kd * args.weight.stride[2] + kh * args.weight.stride[3] +
                     kw * args.weight.stride[4];
        // A partial sum per tap keeps the float error near that of pairwise summation.
        A partial[kChannels] = {};
        for (Index channel = 0; channel < args.operand_channels; ++channel) {
          const A value = Convert<A>::from(*x);
#pragma unroll
          for (int j = 0; j < kChannels; ++j) {
            if (j < channels)
              multiply_add(partial[j], value, Convert<A>::from(k[j * args.weight_result_stride]));
          }
          x += args.operand.stride[1];
          k += args.weight_operand_stride;
        }
#pragma unroll
        for (int j = 0; j < kChannels; ++j) add(sum[j], partial[j]);
      }
    }
  }

  const Index channel = group * args.result_channels + first_channel;
  T* result = static_cast<T*>(args.result.data) + n * args.result.stride[0] +
              channel * args.result.stride[1] + d * args.result.stride[2] +
              h * args.result.stride[3] + w * args.result.stride[4];
#pragma unroll
  for (int j = 0; j < kChannels; ++j) {
    if (j < channels) {
      if (args.bias.data != nullptr)
        add(sum[j], Convert<A>::from(
                        static_cast<const T*>(args.bias.data)[(channel + j) * args.bias.stride]));
      result[j * args.result.stride[1]] = Convert<T>::from(sum[j]);
    }
  }
}

template <Pass kPass>
cudaError_t launch(const Problem& problem, DataType type, const TensorPointer& operand,
                   const TensorPointer& weight, const VectorPointer& bias,
                   const TensorPointer& result, cudaStream_t stream) {
  const bool forward = kPass == Pass::kForward;
  const auto extent = [&](int axis) {
    return forward ? problem.axes[axis].output : problem.axes[axis].input;
  };
  const int64_t in_channels = problem.in_channels_per_group();
  const int64_t out_channels = problem.out_channels_per_group();
  const int64_t result_channels = forward ? out_channels : in_channels;
  const int64_t tiles = (result_channels + kChannels - 1) / kChannels;
  const int64_t work_items =
      problem.batch * problem.groups * tiles * extent(0) * extent(1) * extent(2);
  if (work_items == 0) return cudaSuccess;
  return dispatch_index(problem, work_items, [&](auto index) {
    using Index = typename decltype(index)::type;
    const auto narrow = [](int64_t value) { return static_cast<Index>(value); };
    const DataArguments<Index> args{
        .depth = TapTable<Index>(problem.axes[0]),
        .height = TapTable<Index>(problem.axes[1]),
        .width = TapTable<Index>(problem.axes[2]),
        .batch = narrow(problem.batch),
        .groups = narrow(problem.groups),
        .operand_channels = narrow(forward ? in_channels : out_channels),
        .result_channels = narrow(result_channels),
        .tiles = narrow(tiles),
        .result_depth = narrow(extent(0)),
        .result_height = narrow(extent(1)),
        .result_width = narrow(extent(2)),
        .work_items = narrow(work_items),
        // Thread order follows the result's memory: channels fastest, or width fastest.
        .channels_last = result.stride[1] < result.stride[4],
        .operand = operand,
        .weight = weight,
        .result = result,
        .weight_group_stride = in_channels * weight.stride[0],
        .weight_operand_stride = forward ? weight.stride[0] : weight.stride[1],
        .weight_result_stride = forward ? weight.stride[1] : weight.stride[0],
        .bias = bias,
    };
    return dispatch_type(type, [&](auto tag) {
      using T = typename decltype(tag)::type;
      const int64_t blocks = (work_items + kThreads - 1) / kThreads;
      return launch_kernel(direct_data_kernel<T, Index, kPass>, static_cast<unsigned>(blocks),
                           kThreads, 0, stream, args);
    });
  });
}

}  // namespace

cudaError_t launch_direct_forward(const Problem& problem, DataType type, TensorPointer input,
                                  TensorPointer weight, VectorPointer bias, TensorPointer output,
                                  cudaStream_t stream) {
  return launch<Pass::kForward>(problem, type, input, weight, bias, output, stream);
}

cudaError_t launch_direct_grad_input(const Problem& problem, DataType type,
                                     TensorPointer grad_output, TensorPointer weight,
                                     TensorPointer grad_input, cudaStream_t stream) {
  return launch<Pass::kGradInput>(problem, type, grad_output, weight, {nullptr, 0}, grad_input,
                                  stream);
}

}  // namespace convt3d

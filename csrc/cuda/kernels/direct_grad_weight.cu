// Direct grad_weight: one block computes kTile x kTile weights of one group at one tap.
//
//   block  -> (group, tile of input channels, tile of output channels, kd, kh, kw)
//   warp   -> every kWarps-th row (batch, depth, height) of the input positions the tap reaches
//   lane   -> every 32nd position of the row: kTile inputs (outer) kTile grad_outputs
//   then shuffles within a warp and shared memory between warps, in a fixed order: no atomics,
//   the same bits every time.
#include <algorithm>

#include "dispatch.cuh"
#include "launch.cuh"

namespace convt3d {
namespace {

constexpr int kWarps = 8;
constexpr int kThreads = 32 * kWarps;
constexpr int kTile = 4;

template <typename Index>
struct WeightArguments {
  TapTable<Index> depth, height, width;
  Index batch;
  Index in_channels, out_channels;  // per group
  Index in_tiles, out_tiles;
  int64_t first_item;  // of this launch
  TensorPointer grad_output, input, grad_weight;
};

template <typename T, typename Index>
__global__ void __launch_bounds__(kThreads)
    direct_grad_weight_kernel(const WeightArguments<Index> args) {
  using A = Accumulator<T>;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;

  int64_t flat = args.first_item + blockIdx.x;
  const auto take = [&flat](Index extent) {
    const Index coordinate = static_cast<Index>(flat % extent);
    flat /= extent;
    return coordinate;
  };
  const Index kw = take(args.width.kernel);
  const Index kh = take(args.height.kernel);
  const Index kd = take(args.depth.kernel);
  const Index out_first = take(args.out_tiles) * kTile;
  const Index in_first = take(args.in_tiles) * kTile;
  const int64_t group = flat;

  const Partners<Index> pd = partners_of_tap(args.depth, kd);
  const Partners<Index> ph = partners_of_tap(args.height, kh);
  const Partners<Index> pw = partners_of_tap(args.width, kw);

  const T* input = static_cast<const T*>(args.input.data) +
                   (group * args.in_channels + in_first) * args.input.stride[1];
  const T* grad = static_cast<const T*>(args.grad_output.data) +
                  (group * args.out_channels + out_first) * args.grad_output.stride[1];

  Wide<A> sum[kTile][kTile] = {};
  const int64_t rows = static_cast<int64_t>(args.batch) * pd.count * ph.count;
  for (int64_t row = warp; row < rows; row += kWarps) {
    const Index h = static_cast<Index>(row % ph.count);
    const int64_t outer = row / ph.count;
    const Index d = static_cast<Index>(outer % pd.count);
    const int64_t n = outer / pd.count;
    const T* input_row = input + n * args.input.stride[0] + (pd.tap + d) * args.input.stride[2] +
                         (ph.tap + h) * args.input.stride[3];
    const T* grad_row = grad + n * args.grad_output.stride[0] +
                        (pd.position + d * args.depth.stride) * args.grad_output.stride[2] +
                        (ph.position + h * args.height.stride) * args.grad_output.stride[3];
    A partial[kTile][kTile] = {};
    for (Index w = lane; w < pw.count; w += 32) {
      const T* x = input_row + (pw.tap + w) * args.input.stride[4];
      const T* g = grad_row + (pw.position + w * args.width.stride) * args.grad_output.stride[4];
      A values[kTile], grads[kTile];
#pragma unroll
      for (int i = 0; i < kTile; ++i) {
        values[i] = A{};
        grads[i] = A{};
        if (in_first + i < args.in_channels)
          values[i] = Convert<A>::from(x[i * args.input.stride[1]]);
        if (out_first + i < args.out_channels)
          grads[i] = Convert<A>::from(g[i * args.grad_output.stride[1]]);
      }
#pragma unroll
      for (int i = 0; i < kTile; ++i) {
#pragma unroll
        for (int j = 0; j < kTile; ++j) multiply_add(partial[i][j], values[i], grads[j]);
      }
    }
#pragma unroll
    for (int i = 0; i < kTile; ++i) {
#pragma unroll
      for (int j = 0; j < kTile; ++j) add(sum[i][j], Convert<Wide<A>>::from(partial[i][j]));
    }
  }

  __shared__ Wide<A> warp_sums[kWarps][kTile][kTile];
#pragma unroll
  for (int i = 0; i < kTile; ++i) {
#pragma unroll
    for (int j = 0; j < kTile; ++j) {
      for (int distance = 16; distance > 0; distance /= 2)
        add(sum[i][j], shuffle_down(sum[i][j], distance));
      if (lane == 0) warp_sums[warp][i][j] = sum[i][j];
    }
  }
  __syncthreads();
  const int i = threadIdx.x / kTile, j = threadIdx.x % kTile;
  if (i < kTile && in_first + i < args.in_channels && out_first + j < args.out_channels) {
    Wide<A> total = {};
    for (int source = 0; source < kWarps; ++source) add(total, warp_sums[source][i][j]);
    T* result = static_cast<T*>(args.grad_weight.data) +
                (group * args.in_channels + in_first + i) * args.grad_weight.stride[0] +
                (out_first + j) * args.grad_weight.stride[1] + kd * args.grad_weight.stride[2] +
                kh * args.grad_weight.stride[3] + kw * args.grad_weight.stride[4];
    *result = Convert<T>::from(total);
  }
}

}  // namespace

cudaError_t launch_direct_grad_weight(const Problem& problem, DataType type,
                                      TensorPointer grad_output, TensorPointer input,
                                      TensorPointer grad_weight, cudaStream_t stream) {
  const int64_t in_tiles = (problem.in_channels_per_group() + kTile - 1) / kTile;
  const int64_t out_tiles = (problem.out_channels_per_group() + kTile - 1) / kTile;
  int64_t blocks = problem.groups * in_tiles * out_tiles;
  for (const Axis& axis : problem.axes) blocks *= axis.kernel;
  // Indices count along one axis, the batch or the channels; rows and blocks take 64 bits anyway.
  const int64_t longest = std::max({problem.batch, problem.in_channels, problem.out_channels});
  return dispatch_index(problem, longest, [&](auto index) {
    using Index = typename decltype(index)::type;
    const auto narrow = [](int64_t value) { return static_cast<Index>(value); };
    WeightArguments<Index> args{
        .depth = TapTable<Index>(problem.axes[0]),
        .height = TapTable<Index>(problem.axes[1]),
        .width = TapTable<Index>(problem.axes[2]),
        .batch = narrow(problem.batch),
        .in_channels = narrow(problem.in_channels_per_group()),
        .out_channels = narrow(problem.out_channels_per_group()),
        .in_tiles = narrow(in_tiles),
        .out_tiles = narrow(out_tiles),
        .first_item = 0,
        .grad_output = grad_output,
        .input = input,
        .grad_weight = grad_weight,
    };
    return dispatch_type(type, [&](auto tag) {
      using T = typename decltype(tag)::type;
      constexpr int64_t kMostBlocks = std::numeric_limits<int32_t>::max();  // of one launch
      for (; args.first_item < blocks; args.first_item += kMostBlocks) {
        const int64_t left = blocks - args.first_item;
        const cudaError_t status =
            launch_kernel(direct_grad_weight_kernel<T, Index>,
                          static_cast<unsigned>(left < kMostBlocks ? left : kMostBlocks), kThreads,
                          0, stream, args);
        if (status != cudaSuccess) return status;
      }
      return cudaSuccess;
    });
  });
}

}  // namespace convt3d

// Depthwise forward and grad_input: no matrix product to speak of, the memory is the limit.
//
//   block   -> a slab of channels, a patch of (w, h), one tile along d (and more of them, and more
//              samples, where the grid would be too large)
//   weights of the slab -> shared memory as float [tap][channel], once per block
//   thread  -> channels_last: 4 channels of a few positions; contiguous: a run along w of 1 channel
//   for every line h of the operand that meets the thread's line (tap table)
//     for every line along d: global (L1) -> registers, two lines ahead -> float
//       every tap along d and w that it meets (compile-time) -> sums in registers
//   sums -> global in 16-byte pieces where memory allows
//
// Operands are not staged in shared memory: a thread keeps what it reuses in registers, neighbours
// meet in the L1 cache.
#pragma once

#include <algorithm>

#include "depthwise.h"
#include "depthwise_arguments.h"
#include "scalar.cuh"

namespace convt3d {

template <>
struct Storage<__half> {
  using Quad = uint2;
  static __device__ float load(__half value) { return __half2float(value); }
  static __device__ void load(const Quad& quad, float (&values)[4]) {
    const float2 low = __half22float2(reinterpret_cast<const __half2&>(quad.x));
    const float2 high = __half22float2(reinterpret_cast<const __half2&>(quad.y));
    values[0] = low.x;
    values[1] = low.y;
    values[2] = high.x;
    values[3] = high.y;
  }
  static __device__ __half store(float value) { return __float2half_rn(value); }
  static __device__ Quad store(const float (&values)[4]) {
    const __half2 low = __floats2half2_rn(values[0], values[1]);
    const __half2 high = __floats2half2_rn(values[2], values[3]);
    return {reinterpret_cast<const uint32_t&>(low), reinterpret_cast<const uint32_t&>(high)};
  }
};
template <>
struct Storage<__nv_bfloat16> {
  using Quad = uint2;
  static __device__ float load(__nv_bfloat16 value) { return __bfloat162float(value); }
  static __device__ void load(const Quad& quad, float (&values)[4]) {
    values[0] = __uint_as_float(quad.x << 16);
    values[1] = __uint_as_float(quad.x & 0xffff0000u);
    values[2] = __uint_as_float(quad.y << 16);
    values[3] = __uint_as_float(quad.y & 0xffff0000u);
  }
  static __device__ __nv_bfloat16 store(float value) { return __float2bfloat16_rn(value); }
  static __device__ Quad store(const float (&values)[4]) {
    const __nv_bfloat162 low = __floats2bfloat162_rn(values[0], values[1]);
    const __nv_bfloat162 high = __floats2bfloat162_rn(values[2], values[3]);
    return {reinterpret_cast<const uint32_t&>(low), reinterpret_cast<const uint32_t&>(high)};
  }
};

template <typename T, class Tile>
__global__ void __launch_bounds__(kDepthwiseThreads, 3)
    depthwise_fixed_kernel(const __grid_constant__ DepthwiseArguments args) {
  extern __shared__ __align__(16) float weights[];
  constexpr int kKernel = Tile::Axis::kKernel;
  const ThreadPlace place = thread_place(args.map, blockIdx.x, threadIdx.x);
  fill_weights<T, Tile::kVector>(args, place.slab, kKernel, kKernel, kKernel, threadIdx.x, weights);
  __syncthreads();
  if (!has_work<Tile::kVector>(args, place, Tile::Axis::results(Tile::kTileW))) return;
  const Partners<int32_t> lines = partners_of<Tile::Axis::kPass>(args.height, place.row_h);
  for_each_tile(args, blockIdx.y, blockIdx.z, gridDim.z,
                [&](int d, int n) { fixed_thread<T, Tile>(args, place, lines, d, n, weights); });
}

template <typename T, Pass kPass, int kVector>
__global__ void __launch_bounds__(kDepthwiseThreads, 8)
    depthwise_any_kernel(const __grid_constant__ DepthwiseArguments args) {
  extern __shared__ __align__(16) float weights[];
  const ThreadPlace place = thread_place(args.map, blockIdx.x, threadIdx.x);
  fill_weights<T, kVector>(args, place.slab, args.depth.kernel, args.height.kernel,
                           args.width.kernel, threadIdx.x, weights);
  __syncthreads();
  if (!has_work<kVector>(args, place, 1)) return;
  const Partners<int32_t> ph = partners_of<kPass>(args.height, place.row_h);
  const Partners<int32_t> pw = partners_of<kPass>(args.width, place.tile_w);
  for_each_tile(args, blockIdx.y, blockIdx.z, gridDim.z, [&](int d, int n) {
    any_thread<T, kPass, kVector>(args, place, ph, pw, d, n, weights);
  });
}

template <typename T>
cudaError_t launch_depthwise_data_typed(const DepthwiseArguments& args, DepthwiseShape shape,
                                        Pass pass, bool vectors, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(args.map.slabs) * args.map.groups_w * args.map.groups_h,
                  divide_up(args.tiles_d, args.tiles_d_per_block),
                  std::min(args.batch, kMostGridDepth));
  const int shared_bytes = weight_bytes(args, vectors ? kDepthwiseVector : 1);
  const auto launch = [&](auto kernel) {
    kernel<<<grid, kDepthwiseThreads, shared_bytes, stream>>>(args);
    return cudaGetLastError();
  };
  if (shape != DepthwiseShape::kAny)
    return dispatch_shape(shape, [&](auto tag) {
      constexpr DepthwiseShape kShape = decltype(tag)::value;
      if (pass == Pass::kForward)
        return vectors ? launch(depthwise_fixed_kernel<T, DataTile<kShape, Pass::kForward, true>>)
                       : launch(depthwise_fixed_kernel<T, DataTile<kShape, Pass::kForward, false>>);
      return vectors ? launch(depthwise_fixed_kernel<T, DataTile<kShape, Pass::kGradInput, true>>)
                     : launch(depthwise_fixed_kernel<T, DataTile<kShape, Pass::kGradInput, false>>);
    });
  constexpr int kVector = kDepthwiseVector;
  if (pass == Pass::kForward)
    return vectors ? launch(depthwise_any_kernel<T, Pass::kForward, kVector>)
                   : launch(depthwise_any_kernel<T, Pass::kForward, 1>);
  return vectors ? launch(depthwise_any_kernel<T, Pass::kGradInput, kVector>)
                 : launch(depthwise_any_kernel<T, Pass::kGradInput, 1>);
}

}  // namespace convt3d

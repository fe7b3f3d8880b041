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
#include "depthwise_storage.cuh"
#include "launch.cuh"

namespace convt3d {

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
    return launch_kernel(kernel, grid, kDepthwiseThreads, shared_bytes, stream, args);
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

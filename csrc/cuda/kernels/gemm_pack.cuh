// Prepares what the implicit matrix product (gemm_data.cuh) consumes: one small kernel per call.
#pragma once

#include "gemm_pack_tables.cuh"
#include "gemm_pack_units.cuh"
#include "launch.cuh"

namespace convt3d {

// Each kind of work has blocks of its own: side by side they take the time of the longest.
CONVT3D_HOST_DEVICE constexpr int pack_blocks(int threads) {
  return (threads + kPieceThreads - 1) / kPieceThreads;
}

template <typename T>
__global__ void __launch_bounds__(kPieceThreads)
    pack_weights(const __grid_constant__ GemmDataArguments args,
                 const __grid_constant__ GemmLines lines,
                 const __grid_constant__ GemmPieces pieces) {
  __shared__ uint4 staged[kPieceUnits];
  __shared__ PieceTables tables;
  static_assert(sizeof(HeaderLine) * kMostAxisTaps <= sizeof(staged));
  int block = blockIdx.x, index = 0;
  // Whether this block works on the next kind, of so many threads; `index` is this thread's.
  const auto works_on = [&](int threads) {
    index = block * kPieceThreads + static_cast<int>(threadIdx.x);
    block -= pack_blocks(threads);
    return block < 0;
  };
  const GemmDataSizes& sizes = args.sizes;
  if (works_on(args.pack_headers)) {
    HeaderLine* const found = reinterpret_cast<HeaderLine*>(staged);
    find_header_lines(args, lines, found);
    if (index < args.pack_headers) write_header(args, lines, found, index);
  } else if (works_on(args.pack_tails)) {
    if (index < args.pack_tails) write_tail<T>(args, lines, index);
  } else if (works_on(sizes.column_tiles * sizes.chunks)) {
    if (index < sizes.column_tiles * sizes.chunks) write_stages(args, lines, index);
  } else if (works_on(sizes.operand_rows)) {
    if (index < sizes.operand_rows) write_row(args, index);
  } else if (works_on(sizes.places)) {
    if (index < sizes.places) write_place(args, index);
  } else if (works_on(sizes.block_rows)) {
    if (index < sizes.block_rows) write_position(args, index);
  } else {
    write_units<T>(args, lines, pieces, block, staged, tables);
  }
}

static_assert(sizeof(GemmDataArguments) + sizeof(GemmLines) + sizeof(GemmPieces) <= 4096,
              "kernel parameters");

template <typename T>
cudaError_t launch_pack_weights(const GemmDataArguments& args, cudaStream_t stream) {
  const GemmLines lines = gemm_lines(args.plan);
  const GemmPieces pieces = gemm_pieces<T>(args, lines);
  int blocks = pieces.blocks;
  for (int threads :
       {args.pack_headers, args.pack_tails, args.sizes.column_tiles * args.sizes.chunks,
        args.sizes.operand_rows, args.sizes.places, args.sizes.block_rows})
    blocks += pack_blocks(threads);
  return launch_kernel(pack_weights<T>, static_cast<unsigned>(blocks), kPieceThreads, 0, stream,
                       args, lines, pieces);
}

}  // namespace convt3d

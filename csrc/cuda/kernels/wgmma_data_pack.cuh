// Weights as the WGMMA data kernel (wgmma_data.cuh) consumes them: one small kernel per call.
//
//   weight -> shared   in the order of the tensor's memory (weight_piece.cuh)
//   shared -> packed   tap by tap, neighbouring threads to neighbouring columns
#pragma once

#include "weight_piece.cuh"
#include "wgmma_data_tables.cuh"

namespace convt3d {

constexpr int kMostPieceTaps = 256;

// A piece: taps in the tables' order x 8, 16 or 32 channels x units of one chunk.
struct WgmmaPieces {
  PieceShape shape;
  int tap_parts, channel_parts, unit_parts;  // of one group
};

// Units of shared memory from one tap to the next: odd, so that neighbouring taps fall into
// different banks.
CONVT3D_HOST_DEVICE constexpr int piece_pitch(int channels, int units) {
  return channels * units | 1;
}

inline WgmmaPieces wgmma_pieces(const WgmmaDataArguments& args) {
  const WgmmaDataPlan& plan = args.plan;
  const int taps = args.sizes.taps;
  // Where operand channels are neighbours, two units fill a sector of memory.
  const int units = args.weight_operand_stride < args.weight.stride[4] ? 2 : 1;
  WgmmaPieces pieces{};
  pieces.unit_parts = args.sizes.chunks * plan.chunk_units / units;
  const auto tap_parts = [&](int channels) {
    const int most = std::min(kMostPieceTaps, kPieceUnits / piece_pitch(channels, units));
    return (taps + most - 1) / most;
  };
  // Channels-last columns mix the channels of 32, of 16 in a last half.
  int channels = plan.columns % 32 == 0 ? 32 : 16;
  for (; channels > kLeastPieceChannels; channels /= 2) {
    const int64_t blocks = static_cast<int64_t>(args.groups) * args.sizes.channel_tiles *
                           (plan.columns / channels) * pieces.unit_parts;
    if (blocks >= kEnoughBlocks && tap_parts(channels) == 1) break;
  }
  pieces.channel_parts = args.sizes.channel_tiles * (plan.columns / channels);
  pieces.tap_parts = tap_parts(channels);
  const WindowAxis(&axes)[3] = plan.axes;
  pieces.shape = PieceShape(args.weight, args.weight_operand_stride, args.weight_result_stride,
                            args.weight_group_stride,
                            {axes[0].taps(), axes[1].taps(), axes[2].taps()}, kWgmmaUnitElements,
                            (taps + pieces.tap_parts - 1) / pieces.tap_parts, channels, units);
  return pieces;
}

// The channel and the column that thread `index` of a piece writes, in the piece and in the column
// tile. Channels-last: the columns that a thread's sums belong to (8 j + 2 (lane % 4) + e) become
// neighbours, eight at a time, four in a last half.
struct PieceColumn {
  int channel, column;

  __device__ PieceColumn(int index, int first_channel, int channels, int columns,
                         bool channels_last)
      : channel(index), column(first_channel + index) {
    if (!channels_last) return;
    const int base = first_channel / 32 * 32, owned = columns - base >= 32 ? 8 : 4;
    const int lanes = channels / owned;  // whose columns are here: 1, 2 or 4
    const int e = index % 2, lane = index / 2 % lanes, j = index / 2 / lanes;
    channel = owned * lane + 2 * j + e;
    column = base + 8 * j + 2 * ((first_channel - base) / owned + lane) + e;
  }
};

// Channels are exchanged in shared memory so that those of neighbouring columns fall into different
// banks.
__device__ __forceinline__ int place_of_channel(int channel) {
  return channel ^ channel / 8 % 4 * 2;
}

template <typename T>
__global__ void __launch_bounds__(kPieceThreads)
    pack_wgmma_weights(const __grid_constant__ WgmmaDataArguments args,
                       const __grid_constant__ WgmmaPieces pieces, bool channels_last) {
  struct Tap {
    int64_t source;  // elements
    int packed;      // units from the group's first
  };
  __shared__ uint4 staged[kPieceUnits];
  __shared__ Tap taps[kMostPieceTaps];
  const WgmmaDataPlan& plan = args.plan;
  const PieceShape& shape = pieces.shape;
  const WindowAxis &d = plan.axes[0], &h = plan.axes[1], &w = plan.axes[2];
  int rest = blockIdx.x;
  const int first_piece_tap = rest % pieces.tap_parts * shape.taps;
  rest /= pieces.tap_parts;
  const int first_channel = rest % pieces.channel_parts * shape.channels;  // in the group
  rest /= pieces.channel_parts;
  const int first_unit = rest % pieces.unit_parts * shape.units;
  const int group = rest / pieces.unit_parts;
  const int slice = first_channel / plan.columns;
  const int chunk = first_unit / plan.chunk_units;
  const int piece_taps = min(shape.taps, args.sizes.taps - first_piece_tap);
  const int pitch = piece_pitch(shape.channels, shape.units);

  for (int i = threadIdx.x; i < piece_taps; i += kPieceThreads) {
    const TapPlanes tap(plan, first_piece_tap + i);
    taps[i].source = d.tap[tap.tap_d] * args.weight.stride[2] +
                     h.tap[tap.tap_h] * args.weight.stride[3] +
                     w.tap[tap.tap_w] * args.weight.stride[4];
    taps[i].packed =
        (first_tap(plan, slice, tap.plane_d, tap.plane_h, tap.plane_w, args.sizes.chunks, chunk) +
         tap.rank) *
        plan.chunk_units * plan.columns;
  }
  __syncthreads();

  const int64_t unit_stride = kWgmmaUnitElements * args.weight_operand_stride;
  const T* weight = static_cast<const T*>(args.weight.data) + group * args.weight_group_stride +
                    first_channel * args.weight_result_stride + first_unit * unit_stride;
  const int channels = args.result_channels - first_channel;
  const int operand_channels = args.operand_channels - first_unit * kWgmmaUnitElements;
#pragma unroll 2
  for (int i = threadIdx.x; i < shape.size(); i += kPieceThreads) {
    const PiecePlace at = shape.at(i);
    if (at.tap >= piece_taps) continue;
    const T* source = weight + taps[at.tap].source + at.channel * args.weight_result_stride +
                      at.unit * unit_stride;
    const int present = at.channel < channels ? operand_channels - at.unit * kWgmmaUnitElements : 0;
    staged[at.tap * pitch + at.unit * shape.channels + place_of_channel(at.channel)] =
        read_unit(source, args.weight_operand_stride, present, shape.vectors);
  }
  __syncthreads();

  // A power of two of threads takes the columns of a tap: each thread stays in its column.
  const int rows = kPieceThreads / shape.channels;
  const int row = threadIdx.x / shape.channels;
  const PieceColumn mine(threadIdx.x % shape.channels, first_channel % plan.columns, shape.channels,
                         plan.columns, channels_last);
  uint4* packed =
      reinterpret_cast<uint4*>(args.packed + group * args.sizes.stages * args.sizes.stage_bytes) +
      first_unit % plan.chunk_units * plan.columns + mine.column;
  const uint4* source = staged + place_of_channel(mine.channel);
  for (int unit = 0; unit < shape.units; ++unit) {
#pragma unroll 4
    for (int tap = row; tap < piece_taps; tap += rows)
      packed[taps[tap].packed] = source[tap * pitch];
    packed += plan.columns;
    source += shape.channels;
  }
}

template <typename T>
cudaError_t launch_pack_wgmma_weights(const WgmmaDataArguments& args, bool channels_last,
                                      cudaStream_t stream) {
  const WgmmaPieces pieces = wgmma_pieces(args);
  const int blocks = args.groups * pieces.unit_parts * pieces.channel_parts * pieces.tap_parts;
  pack_wgmma_weights<T><<<blocks, kPieceThreads, 0, stream>>>(args, pieces, channels_last);
  return cudaGetLastError();
}

}  // namespace convt3d

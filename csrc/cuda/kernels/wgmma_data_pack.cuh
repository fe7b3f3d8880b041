// Weights as the WGMMA data kernel (wgmma_data.cuh) consumes them: one small kernel per call.
//
//   weight -> shared   in the order of the tensor's memory (weight_piece.cuh), while some threads
//                      find out where the taps go
//   shared -> packed   tap by tap, neighbouring threads to neighbouring columns
#pragma once

#include "launch.cuh"
#include "weight_piece.cuh"
#include "wgmma_data_tables.cuh"

namespace convt3d {

constexpr int kMostPieceTaps = 256;
constexpr int kTapThreads = 64;

// A piece: taps in the order (kd, kh, kw) x 8, 16 or 32 channels x units of one chunk.
struct WgmmaPieces {
  PieceShape shape;
  int channel_bits;                    // 1 << channel_bits channels
  int tap_parts, channel_parts;        // of one group
  Divisor unit_parts;                  // of one group
  Divisor tile_channels, chunk_units;  // of a column tile; of a chunk
  Divisor taps_h, taps_w;
};

// Units of shared memory from one tap to the next: odd, so that neighbouring taps fall into
// different banks.
CONVT3D_HOST_DEVICE constexpr int piece_pitch(int channels, int units) {
  return channels * units | 1;
}

inline WgmmaPieces wgmma_pieces(const WgmmaDataArguments& args) {
  const WgmmaDataPlan& plan = args.plan;
  const int kernel[3] = {plan.axes[0].taps(), plan.axes[1].taps() * wgmma_h_planes(plan),
                         plan.axes[2].taps()};
  const int taps = kernel[0] * kernel[1] * kernel[2];
  // Where operand channels are neighbours, two units fill a sector of memory.
  const int units = args.weight_operand_stride < args.weight.stride[4] ? 2 : 1;
  WgmmaPieces pieces{};
  const int unit_parts = args.sizes.chunks * plan.chunk_units / units;
  const auto tap_parts = [&](int channels) {
    const int most = std::min(kMostPieceTaps, kPieceUnits / piece_pitch(channels, units));
    return (taps + most - 1) / most;
  };
  // Channels-last columns mix the channels of up to 32, of 16 in a last half, of 8 in a last
  // quarter.
  int channels = plan.columns % 32 == 0 ? 32 : plan.columns % 16 == 0 ? 16 : 8;
  const auto blocks = [&] {
    return int64_t{args.groups} * args.sizes.channel_tiles * (plan.columns / channels) * unit_parts;
  };
  for (; channels > kLeastPieceChannels; channels /= 2)
    if (blocks() >= kEnoughBlocks && tap_parts(channels) == 1) break;
  pieces.channel_parts = args.sizes.channel_tiles * (plan.columns / channels);
  pieces.tap_parts = tap_parts(channels);
  // Taps that lie apart in memory are as well read by different blocks.
  if (args.weight.stride[4] > std::min(args.weight_operand_stride, args.weight_result_stride)) {
    const auto wanted = static_cast<int>((kEnoughBlocks + blocks() - 1) / blocks());
    pieces.tap_parts = std::max(pieces.tap_parts, std::min(taps, wanted));
  }
  while (1 << pieces.channel_bits < channels) ++pieces.channel_bits;
  pieces.unit_parts = Divisor(unit_parts);
  pieces.tile_channels = Divisor(plan.columns);
  pieces.chunk_units = Divisor(plan.chunk_units);
  pieces.taps_h = Divisor(kernel[1]);
  pieces.taps_w = Divisor(kernel[2]);
  pieces.shape = PieceShape(args.weight, args.weight_operand_stride, args.weight_result_stride,
                            args.weight_group_stride, kernel, plan.unit_elements,
                            (taps + pieces.tap_parts - 1) / pieces.tap_parts, channels, units);
  pieces.tap_parts = (taps + pieces.shape.taps - 1) / pieces.shape.taps;
  return pieces;
}

// The channel and the column that thread `index` of a piece writes, in the piece and in the column
// tile. Channels-last: the columns that a thread's sums belong to (8 j + 2 (lane % 4) + e) become
// neighbours, 16 bytes of them at a time, and fewer where the tile ends.
struct PieceColumn {
  int channel, column;

  __device__ PieceColumn(int index, int first_channel, int channel_bits, int columns, int most_bits,
                         bool channels_last)
      : channel(index), column(first_channel + index) {
    if (!channels_last) return;
    int owned_bits = most_bits;
    while (columns - (first_channel & -(4 << owned_bits)) < 4 << owned_bits) --owned_bits;
    // Within the channels that four threads own.
    const int group_bits = min(channel_bits, owned_bits + 2);
    const int in_group = index & ((1 << group_bits) - 1), before = index - in_group;
    const int first = first_channel + before, base = first & -(4 << owned_bits);
    const int lane_bits = group_bits - owned_bits;  // of the lanes whose columns are here
    const int e = in_group & 1, lane = in_group >> 1 & ((1 << lane_bits) - 1);
    const int j = in_group >> 1 >> lane_bits;
    channel = before + (lane << owned_bits) + 2 * j + e;
    column = base + 8 * j + 2 * ((first - base >> owned_bits) + lane) + e;
  }
};

// Where an axis' taps of one plane begin in its table, and how many they are.
struct PlaneTaps {
  int begin, count;

  __device__ __forceinline__ PlaneTaps(const WindowAxis& axis, int tap) {
    int end = 0;
    const int16_t* next = axis.plane_begin;
    do {
      begin = end;
      end = *++next;
    } while (end <= tap);
    count = end - begin;
  }
};

// Channels are exchanged in shared memory so that those of neighbouring columns fall into different
// banks.
__device__ __forceinline__ int place_of_channel(int channel) {
  return channel ^ channel / 8 % 4 * 2;
}

// Where a tap of the tables (PlaneTaps) goes: units from the group's first packed one. The order is
// that of first_tap() and TapPlanes (wgmma_data_tables.cuh), with fewer instructions.
struct PackedTap {
  int tap;  // in the order (kd, kh, kw)
  int64_t packed;

  __device__ __forceinline__ PackedTap(const WgmmaDataArguments& args, const WgmmaPieces& pieces,
                                       int slice, int chunk, int listed) {
    const WgmmaDataPlan& plan = args.plan;
    const WindowAxis &d = plan.axes[0], &h = plan.axes[1], &w = plan.axes[2];
    int tap_d = listed;
    const int tap_w = pieces.taps_w.take(tap_d);
    int tap_h = pieces.taps_h.take(tap_d);
    tap = (d.tap[tap_d] * pieces.taps_h.value() + h.tap[tap_h]) * pieces.taps_w.value() +
          w.tap[tap_w];
    int merged = plan.merged_taps > 0 ? tap_w : 0;  // place among those side by side
    if (plan.merges_h) {
      merged += tap_h * pieces.taps_w.value();
      tap_h = 0;
    }
    const int all_h = h.taps(), all_w = listed_taps(plan);
    const PlaneTaps of_d(d, tap_d), of_h(h, tap_h);
    PlaneTaps of_w(w, tap_w);
    if (plan.merged_taps > 0 || plan.w_planes > 1) of_w.begin = 0, of_w.count = all_w;
    const int place_w = plan.merged_taps > 0 ? 0 : tap_w - of_w.begin;
    const int lines = of_d.count * of_h.count;
    const int before = (of_d.begin * all_h + of_d.count * of_h.begin) * all_w + lines * of_w.begin;
    const int rank =
        ((tap_d - of_d.begin) * of_h.count + tap_h - of_h.begin) * of_w.count + place_w;
    const int at =
        (slice * args.sizes.taps + before) * args.sizes.chunks + chunk * lines * of_w.count + rank;
    packed = static_cast<int64_t>(at) * (plan.chunk_units * product_columns(plan)) +
             merged * plan.columns;
  }
};

template <typename T>
__global__ void __launch_bounds__(kPieceThreads + kTapThreads, 4)
    pack_wgmma_weights(const __grid_constant__ WgmmaDataArguments args,
                       const __grid_constant__ WgmmaPieces pieces, bool channels_last) {
  __shared__ uint4 staged[kPieceUnits];
  __shared__ int64_t packed_taps[kMostPieceTaps];  // PackedTap::packed
#ifdef CONVT3D_HAS_WGMMA
  launch_dependents();
#endif
  const WgmmaDataPlan& plan = args.plan;
  const PieceShape& shape = pieces.shape;
  int tap_part = blockIdx.x;
  const int first_unit = pieces.unit_parts.take(tap_part) * shape.units;  // in the group
  const int first_channel = blockIdx.y << pieces.channel_bits;            // in the group
  const int group = blockIdx.z;
  const int first_piece_tap = tap_part * shape.taps;
  const int all_taps = plan.axes[0].taps() * pieces.taps_h.value() * pieces.taps_w.value();
  const int piece_taps = min(shape.taps, all_taps - first_piece_tap);
  const int columns = product_columns(plan);
  int slice = first_channel, chunk = first_unit;
  const int tile_channel = pieces.tile_channels.take(slice);
  const int chunk_unit = pieces.chunk_units.take(chunk);
  const int pitch = piece_pitch(shape.channels, shape.units);

  if (threadIdx.x >= kPieceThreads) {
    for (int i = threadIdx.x - kPieceThreads; i < all_taps; i += kTapThreads) {
      const PackedTap at(args, pieces, slice, chunk, i);
      if (static_cast<unsigned>(at.tap - first_piece_tap) < static_cast<unsigned>(piece_taps))
        packed_taps[at.tap - first_piece_tap] = at.packed;
    }
  } else {
    constexpr int kElements = kWgmmaUnitElements<T>;
    const int64_t unit_stride = kElements * args.weight_operand_stride;
    const T* weight = static_cast<const T*>(args.weight.data) + group * args.weight_group_stride +
                      first_channel * args.weight_result_stride + first_unit * unit_stride;
    const int channels = args.result_channels - first_channel;
    const int operand_channels = args.operand_channels - first_unit * kElements;
#pragma unroll 4
    for (int i = threadIdx.x; i < shape.size(); i += kPieceThreads) {
      const PiecePlace at = shape.at(i);
      if (at.tap >= piece_taps) continue;
      int tap_d = first_piece_tap + at.tap;
      const int tap_w = pieces.taps_w.take(tap_d), tap_h = pieces.taps_h.take(tap_d);
      const T* source = weight + tap_d * args.weight.stride[2] + tap_h * args.weight.stride[3] +
                        tap_w * args.weight.stride[4] + at.channel * args.weight_result_stride +
                        at.unit * unit_stride;
      const int present = at.channel < channels ? operand_channels - at.unit * kElements : 0;
      uint4 unit = read_unit(source, args.weight_operand_stride, present, shape.vectors);
      if constexpr (sizeof(T) == 4)
        unit = {round_to_tf32(unit.x), round_to_tf32(unit.y), round_to_tf32(unit.z),
                round_to_tf32(unit.w)};
      staged[at.tap * pitch + at.unit * shape.channels + place_of_channel(at.channel)] = unit;
    }
  }
  __syncthreads();
  if (threadIdx.x >= kPieceThreads) return;

  // A power of two of threads takes the columns of a tap: each thread stays in its column.
  const int rows = kPieceThreads >> pieces.channel_bits;
  const int row = threadIdx.x >> pieces.channel_bits;
  const PieceColumn mine(threadIdx.x & (shape.channels - 1), tile_channel, pieces.channel_bits,
                         plan.columns, kOwnedBits<T>, channels_last);
  uint4* packed =
      reinterpret_cast<uint4*>(args.packed + group * args.sizes.parts * args.sizes.part_bytes) +
      chunk_unit * columns + mine.column;
  const uint4* source = staged + place_of_channel(mine.channel);
  for (int unit = 0; unit < shape.units; ++unit) {
#pragma unroll 4
    for (int tap = row; tap < piece_taps; tap += rows)
      packed[packed_taps[tap]] = source[tap * pitch];
    packed += columns;
    source += shape.channels;
  }
}

template <typename T>
cudaError_t launch_pack_wgmma_weights(const WgmmaDataArguments& args, bool channels_last,
                                      cudaStream_t stream) {
  const WgmmaPieces pieces = wgmma_pieces(args);
  const dim3 blocks(static_cast<unsigned>(pieces.unit_parts.value() * pieces.tap_parts),
                    static_cast<unsigned>(pieces.channel_parts),
                    static_cast<unsigned>(args.groups));
  return launch_kernel(pack_wgmma_weights<T>, blocks, kPieceThreads + kTapThreads, 0, stream, args,
                       pieces, channels_last);
}

}  // namespace convt3d

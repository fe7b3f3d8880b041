// Tiles of the gathering grad_weight kernel (gathered_grad_weight.cuh) where the copy engine cannot
// bring them: warps copy elements (cp.async), and round what has come to TF32.
#pragma once

#include "gathered_grad_weight_tables.cuh"

namespace convt3d {

// Of a pass over elements: copies are started, or what has come is rounded. A thread rounds what
// it has copied itself.
enum class GatherPass { kCopy, kRound };

constexpr int kGatherAtOnce = 8;  // elements of a thread

// So many channels of a lane's `kRun` neighbouring columns of the box.
template <GatherPass kPass, int kRun, int kCount>
__device__ __forceinline__ void gather_channels(uint32_t to, int pitch, const float* source,
                                                int64_t stride, bool inside) {
  if constexpr (kPass == GatherPass::kCopy) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      copy_async<4 * kRun>(to, source, inside);
      to += pitch;
      source += stride;
    }
  } else if constexpr (kRun == 2) {
    uint2 values[kCount];
#pragma unroll
    for (int i = 0; i < kCount; ++i) values[i] = load_shared_pair(to + i * pitch);
#pragma unroll
    for (int i = 0; i < kCount; ++i)
      store_shared(to + i * pitch, uint2{round_to_tf32(values[i].x), round_to_tf32(values[i].y)});
  } else {
    uint32_t values[kCount];
#pragma unroll
    for (int i = 0; i < kCount; ++i) values[i] = load_shared(to + i * pitch);
#pragma unroll
    for (int i = 0; i < kCount; ++i) store_shared(to + i * pitch, round_to_tf32(values[i]));
  }
}

// The box, w fastest: a lane per column or two, some channels at a time. Two begin on boundaries of
// theirs in memory, and are both inside or outside.
template <GatherPass kPass, int kRun>
__device__ __forceinline__ void gather_box_elements(const GatheredGradWeightArguments& args,
                                                    const GatherJob& job, const TapRange& taps,
                                                    const GatherBox& box,
                                                    const GatherShared& shared, uint32_t target,
                                                    const GatherPosition& tile, int warp,
                                                    int lane) {
  const GatherAxis(&axes)[3] = args.sizes.axes;
  const auto& stride = args.grad_output.stride;
  const GatherPosition from = first_of_box(axes, taps, tile);
  const int channels = job.output_channels(args), pitch = 4 * box.channel_pitch;
  const int lines = box.span[0] * args.plan.samples * box.span[1];
  const int x = from.w - box.lead, columns = box.lead + box.span[2];
  const float* const first =
      static_cast<const float*>(args.grad_output.data) + job.first_output(args) * stride[1];
#pragma unroll 1
  for (int line = warp; line < lines; line += kGatherFillWarps) {
    const GatherLine at = shared.lines[line];
    const int d = from.d + at.d(), h = from.h + at.h(), n = from.sample + at.sample();
    const bool line_inside =
        kPass == GatherPass::kRound || (n < args.sizes.batch && inside_extent(d, axes[0].output) &&
                                        inside_extent(h, axes[1].output));
    const float* const begin =
        line_inside && kPass == GatherPass::kCopy
            ? first + n * stride[0] + d * stride[2] + h * stride[3] + x * stride[4]
            : first;
#pragma unroll 1
    for (int column = lane * kRun; column < columns; column += 32 * kRun) {
      const bool inside = line_inside && inside_extent(x + column, axes[2].output);
      const float* source = inside ? begin + column * stride[4] : first;
      uint32_t to = target + at.box_at + 4 * column;
      int left = channels;
#pragma unroll 1
      for (; left >= kGatherAtOnce; left -= kGatherAtOnce) {
        gather_channels<kPass, kRun, kGatherAtOnce>(to, pitch, source, stride[1], inside);
        to += kGatherAtOnce * pitch;
        source += kGatherAtOnce * stride[1];
      }
#pragma unroll 1
      for (; left > 0; --left) {
        gather_channels<kPass, kRun, 1>(to, pitch, source, stride[1], inside);
        to += pitch;
        source += stride[1];
      }
    }
  }
}
template <GatherPass kPass>
__device__ __forceinline__ void gather_box_elements(const GatheredGradWeightArguments& args,
                                                    const GatherJob& job, const TapRange& taps,
                                                    const GatherBox& box,
                                                    const GatherShared& shared, uint32_t target,
                                                    const GatherPosition& tile, int warp,
                                                    int lane) {
  if (args.plan.output_run == 2)
    gather_box_elements<kPass, 2>(args, job, taps, box, shared, target, tile, warp, lane);
  else
    gather_box_elements<kPass, 1>(args, job, taps, box, shared, target, tile, warp, lane);
}

// The input, in rows of 32 positions: a lane per position, eight channels at a time.
template <GatherPass kPass>
__device__ __forceinline__ void gather_column_elements(const GatheredGradWeightArguments& args,
                                                       const GatherJob& job,
                                                       const GatherShared& shared, uint32_t target,
                                                       const GatherPosition& tile, int warp,
                                                       int lane) {
  const GatherAxis(&axes)[3] = args.sizes.axes;
  const auto& stride = args.input.stride;
  const int channels = job.input_channels(args);
  const float* const first =
      static_cast<const float*>(args.input.data) + job.first_input(args) * stride[1];
  const int channel_blocks = (channels + kGatherAtOnce - 1) / kGatherAtOnce;
  const int position_blocks = (args.sizes.positions + 31) / 32;
#pragma unroll 1
  for (int batch = warp; batch < channel_blocks * position_blocks; batch += kGatherFillWarps) {
    const int block = batch / channel_blocks, position = block * 32 + lane;
    const int channel = batch % channel_blocks * kGatherAtOnce;
    if (position >= args.sizes.positions) continue;
    const uint32_t packed = shared.positions[position];
    const int n = tile.sample + static_cast<int>(packed & 255);
    const int d = tile.d + static_cast<int>(packed >> 8 & 255);
    const int h = tile.h + static_cast<int>(packed >> 16 & 255);
    const int w = tile.w + static_cast<int>(packed >> 24);
    const bool inside =
        n < args.sizes.batch && d < axes[0].input && h < axes[1].input && w < axes[2].input;
    const float* source = first;
    if (inside)
      source += channel * stride[1] + n * stride[0] + d * stride[2] + h * stride[3] + w * stride[4];
    const uint32_t row = target + (block * args.plan.columns + channel) * 128;
    const int present = channels - channel;
#pragma unroll
    for (int i = 0; i < kGatherAtOnce; ++i) {
      // As column_offset has it: the channel's remainder of 8 is i.
      const uint32_t to = row + i * 128 + (lane / 4 * 16 ^ i * 16) + lane % 4 * 4;
      if (i < present) {
        if constexpr (kPass == GatherPass::kCopy)
          copy_async<4>(to, source, inside);
        else
          store_shared(to, round_to_tf32(load_shared(to)));
      }
      source += stride[1];
    }
  }
}

}  // namespace convt3d

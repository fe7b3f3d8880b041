// The producing warps of the gathering grad_weight kernel (gathered_grad_weight.cuh): tiles of both
// operands, float32 rounded to TF32. One thread has the copy engine bring what it can; seven warps
// transpose what it has staged, or make copies of it, or copy elements (cp.async) and round what
// has come.
#pragma once

#include "gathered_grad_weight.h"
#include "mma.cuh"
#include "wgmma.cuh"

namespace convt3d {

constexpr int kGatherFillWarps = 7;
constexpr int kGatherThreads = 2 * kWarpgroupThreads + 32 * (1 + kGatherFillWarps);

struct GatheredGradWeightArguments {
  GatheredGradWeightPlan plan;
  GatheredGradWeightSizes sizes;
  CUtensorMap maps[2];  // of grad_output and the input, where the copy engine brings them
  TensorPointer grad_output, input;
  // From a row's channel to the next, and from a column's.
  int64_t result_group_stride, result_row_stride, result_column_stride, result_tap_stride[3];
  void* result;
  float* workspace;  // null: one partial result
};

// What a block computes.
struct GatherJob {
  int row_block, output_slice, input_slice, group;

  __device__ GatherJob(const GatheredGradWeightArguments& args, unsigned index) {
    const auto next = [&index](int count) {
      const int value = static_cast<int>(index % count);
      index /= count;
      return value;
    };
    row_block = next(args.plan.row_blocks);
    output_slice = next(args.sizes.output_slices);
    input_slice = next(args.sizes.input_slices);
    group = static_cast<int>(index);
  }
  // Channels of the slices, and the first among those of all groups.
  __device__ int output_channels(const GatheredGradWeightArguments& args) const {
    return min(args.sizes.out_channels - output_slice * args.plan.slice, args.plan.slice);
  }
  __device__ int input_channels(const GatheredGradWeightArguments& args) const {
    return min(args.sizes.in_channels - input_slice * args.plan.columns, args.plan.columns);
  }
  __device__ int first_output(const GatheredGradWeightArguments& args) const {
    return group * args.sizes.out_channels + output_slice * args.plan.slice;
  }
  __device__ int first_input(const GatheredGradWeightArguments& args) const {
    return group * args.sizes.in_channels + input_slice * args.plan.columns;
  }
};

// A line of the box, among its coordinates' firsts.
struct GatherLine {
  uint32_t packed;
  uint32_t box_at;  // bytes

  __device__ GatherLine(const GatherBox& box, const GatheredGradWeightPlan& plan, int index) {
    const int h = index % box.span[1], sample = index / box.span[1] % plan.samples;
    const int d = index / box.span[1] / plan.samples;
    packed = static_cast<uint32_t>(sample | h << 10 | d << 20);
    box_at = 4 * (d * box.plane_pitch + (sample * box.span[1] + h) * box.line_pitch);
  }
  __device__ int sample() const { return static_cast<int>(packed & 1023); }
  __device__ int h() const { return static_cast<int>(packed >> 10 & 1023); }
  __device__ int d() const { return static_cast<int>(packed >> 20); }
};

// Shared memory.
struct GatherShared {
  char* stages;         // of each: the right operand, then the box
  int* steps;           // by k-step: positions' offsets in the box, bytes
  uint32_t* positions;  // packed: sample, d, h, w from the lowest byte on
  GatherLine* lines;    // of the box, where warps copy it
  uint32_t barriers;

  __device__ GatherShared(char* base, const GatheredGradWeightArguments& args)
      : stages(base),
        steps(reinterpret_cast<int*>(base + args.sizes.steps_at)),
        positions(reinterpret_cast<uint32_t*>(base + args.sizes.positions_at)),
        lines(reinterpret_cast<GatherLine*>(base + args.sizes.lines_at)),
        barriers(shared_address(base + args.sizes.barriers_at)) {}
  __device__ uint32_t full(int stage) const { return barriers + kGatherBarrierBytes * stage; }
  __device__ uint32_t empty(int stage) const { return full(stage) + 8; }
  // One operand's tile stands in the order of memory; it has been read.
  __device__ uint32_t staged(int stage) const { return full(stage) + 16; }
  __device__ uint32_t unstaged(int stage) const { return full(stage) + 24; }
};

// Who fills.
__device__ __forceinline__ bool fills_by_copies(const GatheredGradWeightPlan& plan) {
  return plan.output_fill != GatherFill::kElements || plan.input_fill != GatherFill::kElements;
}
__device__ __forceinline__ bool fills_by_warps(const GatheredGradWeightPlan& plan) {
  return plan.output_fill != GatherFill::kCopyEngine || plan.input_fill != GatherFill::kCopyEngine;
}
// Whether a copy counts for the stage as a whole.
__device__ __forceinline__ bool fills_stage_by_copies(const GatheredGradWeightPlan& plan) {
  return plan.output_fill == GatherFill::kCopyEngine || plan.input_fill == GatherFill::kCopyEngine;
}

// The first position of a block's index-th tile.
__device__ __forceinline__ GatherPosition first_of_tile(const GatheredGradWeightArguments& args,
                                                        int index) {
  const GatheredGradWeightPlan& plan = args.plan;
  const auto next = [&index](int count, int size) {
    const int value = index % count * size;
    index /= count;
    return value;
  };
  const int (&counts)[4] = args.sizes.counts;
  GatherPosition first;
  first.w = next(counts[3], plan.tile[2]);
  first.h = next(counts[2], plan.tile[1]);
  first.d = next(counts[1], plan.tile[0]);
  first.sample = index * plan.samples;
  return first;
}

// Where a tile's box begins in grad_output, without what leads its lines.
__device__ __forceinline__ GatherPosition first_of_box(const GatherAxis (&axes)[3],
                                                       const TapRange& taps,
                                                       const GatherPosition& tile) {
  return {tile.sample, axes[0].stride * tile.d - axes[0].padding + axes[0].dilation * taps.first,
          axes[1].stride * tile.h - axes[1].padding, axes[2].stride * tile.w - axes[2].padding};
}

__device__ __forceinline__ bool is_inside(int coordinate, int extent) {
  return static_cast<unsigned>(coordinate) < static_cast<unsigned>(extent);
}

// ---- The copy engine: one thread ---------------------------------------------------------------
template <typename T>
__device__ inline void gather_by_copies(const GatheredGradWeightArguments& args,
                                        const GatherJob& job, const TapRange& taps,
                                        const GatherBox& box, const GatherShared& shared, int first,
                                        int last) {
  constexpr bool shifted = sizeof(T) == 2;  // copies of pairs are made of what comes
  const GatheredGradWeightPlan& plan = args.plan;
  const GatheredGradWeightSizes& sizes = args.sizes;
  const GatherAxis& w = sizes.axes[2];
  const bool output = !shifted && plan.output_fill == GatherFill::kCopyEngine;
  const bool input = shifted || plan.input_fill == GatherFill::kCopyEngine;
  // Words that stand in memory order have residues of the stride side by side.
  const int line_words = shifted ? w.stride : 1;
  const int plane_bytes = plan.samples * box.span[1] * box.line_pitch * line_words * 4;
  const int box_at = shifted && w.stride > 1 ? sizes.staged_at : sizes.columns_bytes;
  const int copied = (output ? box.span[0] * plane_bytes : 0) +
                     (input ? sizes.positions / plan.word_positions * plan.columns * 4 : 0);
  const int first_output = job.first_output(args), first_input = job.first_input(args);
  // What is staged in the order of memory comes a tile ahead: it is read before the products begin.
  const bool stages_output = shifted && w.stride > 1;
  const auto copy_output = [&](int index, int stage, uint32_t barrier) {
    const GatherPosition from = first_of_box(sizes.axes, taps, first_of_tile(args, index));
    const uint32_t target = shared_address(shared.stages) + stage * sizes.stage_bytes + box_at;
    const int x = from.w - box.lead;
    const bool channels_first = !shifted && plan.output_channels_last;
    if (shifted) barrier_expect(barrier, box.span[0] * plane_bytes);
#pragma unroll 1
    for (int d = 0; d < box.span[0]; ++d)
      copy_tensor(target + d * box.plane_pitch * line_words * 4, &args.maps[0], barrier,
                  channels_first ? first_output : x, channels_first ? x : first_output, from.h,
                  from.d + d, from.sample);
  };
  int stage = 0;
  uint32_t parity = 1;  // a new barrier counts as having completed the phase before its first
  if (stages_output && first < last) copy_output(first, 0, shared.staged(0));
#pragma unroll 1
  for (int index = first; index < last; ++index) {
    const GatherPosition tile = first_of_tile(args, index);
    const uint32_t full = shared.full(stage), staged = shared.staged(stage);
    const uint32_t target = shared_address(shared.stages) + stage * sizes.stage_bytes;
    if (stages_output && index + 1 < last) {
      const bool wraps = stage + 1 == plan.stages;
      const int next = wraps ? 0 : stage + 1;
      barrier_wait(shared.unstaged(next), wraps ? parity ^ 1 : parity);
      copy_output(index + 1, next, shared.staged(next));
    }
    barrier_wait(shared.empty(stage), parity);
    if (!shifted && plan.input_fill == GatherFill::kTransposed) {
      barrier_expect(staged, sizes.positions * staged_pitch(plan) * 4);
      copy_tensor(target + sizes.staged_at, &args.maps[1], staged, first_input, tile.w, tile.h,
                  tile.d, tile.sample);
    }
    if (copied > 0) barrier_expect(full, copied);
    if (output || (shifted && !stages_output)) copy_output(index, stage, shifted ? staged : full);
    if (input) {
      const int side = plan.row_positions();
      const int row_bytes = plan.row_words * plan.columns * 4;
      if (plan.whole_lines) {
        const int plane = plan.tile[1] * plan.tile[2];
        uint32_t to = target;
#pragma unroll 1
        for (int index = 0; index < sizes.positions; index += side, to += row_bytes) {
          const int d = index / plane % plan.tile[0], sample = index / plane / plan.tile[0];
          copy_tensor(to, &args.maps[1], full, tile.h * plan.tile[2] + index % plane, first_input,
                      tile.d + d, tile.sample + sample, 0);
        }
      } else {
        const int lines = sizes.positions / plan.tile[2];
#pragma unroll 1
        for (int first_w = 0; first_w < plan.tile[2]; first_w += side)
          copy_tensor(target + first_w / side * lines * row_bytes, &args.maps[1], full,
                      tile.w + first_w, first_input, tile.h, tile.d, tile.sample);
      }
    }
    if (++stage == plan.stages) {
      stage = 0;
      parity ^= 1;
    }
  }
}

// ---- Warps -------------------------------------------------------------------------------------
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
        kPass == GatherPass::kRound ||
        (n < args.sizes.batch && is_inside(d, axes[0].output) && is_inside(h, axes[1].output));
    const float* const begin =
        line_inside && kPass == GatherPass::kCopy
            ? first + n * stride[0] + d * stride[2] + h * stride[3] + x * stride[4]
            : first;
#pragma unroll 1
    for (int column = lane * kRun; column < columns; column += 32 * kRun) {
      const bool inside = line_inside && is_inside(x + column, axes[2].output);
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

// What the copy engine has staged, channels fastest, to rows of positions: four channels of four
// positions a lane. The pitch lets four lanes, four positions apart, meet two banks each.
__device__ __forceinline__ void transpose_staged(const GatheredGradWeightArguments& args,
                                                 const GatherJob& job, uint32_t staged,
                                                 uint32_t target, int warp, int lane) {
  constexpr int kUnitLanes = 4, kChannels = 4 * (32 / kUnitLanes);
  const GatheredGradWeightPlan& plan = args.plan;
  const int channels = job.input_channels(args), pitch = 4 * staged_pitch(plan);
  const int channel_blocks = (channels + kChannels - 1) / kChannels;
  const int unit_blocks = (args.sizes.steps * 2 + kUnitLanes - 1) / kUnitLanes;
  // The last ones beyond the tile's positions are zeros already.
  const int last = args.sizes.positions - 1;
#pragma unroll 1
  for (int batch = warp; batch < channel_blocks * unit_blocks; batch += kGatherFillWarps) {
    const int position = (batch / channel_blocks * kUnitLanes + lane % kUnitLanes) * 4;
    const int channel = batch % channel_blocks * kChannels + lane / kUnitLanes * 4;
    if (position > last || channel >= channels) continue;
    uint4 rows[4];
#pragma unroll
    for (int j = 0; j < 4; ++j)
      rows[j] = position + j <= last
                    ? load_shared_unit(staged + (position + j) * pitch + channel * 4)
                    : uint4{0, 0, 0, 0};
    const auto store = [&](int i, const uint4& unit) {
      store_shared(target + column_offset(plan, channel + i, position), unit);
    };
    store(0, {rows[0].x, rows[1].x, rows[2].x, rows[3].x});
    store(1, {rows[0].y, rows[1].y, rows[2].y, rows[3].y});
    store(2, {rows[0].z, rows[1].z, rows[2].z, rows[3].z});
    store(3, {rows[0].w, rows[1].w, rows[2].w, rows[3].w});
  }
}

// Copies of pairs of positions, from the box in the order of memory at `staged`: as if it were one
// long line, since a line of a copy is as many words as its share of the staged one.
__device__ __forceinline__ void shift_staged(const GatherBox& box, int stride, uint32_t staged,
                                             uint32_t target, int warp, int lane) {
  constexpr int kWords = 4;
  const int words = box.copy_pitch(), pitch = 4 * words;
#pragma unroll 1
  for (int first = (warp * 32 + lane) * kWords; first < words;
       first += kGatherFillWarps * 32 * kWords) {
    const uint32_t from = staged + first * stride * 4, to = target + first * 4;
    if (stride == 1) {
      // The first copy is there.
      if ((box.copy_mask & 2) == 0) continue;
      const uint4 v = load_shared_unit(from);
      const uint32_t next = load_shared(from + 16);
      store_shared(to + pitch, {__byte_perm(v.x, v.y, 0x5432), __byte_perm(v.y, v.z, 0x5432),
                                __byte_perm(v.z, v.w, 0x5432), __byte_perm(v.w, next, 0x5432)});
    } else if (stride == 2) {
      const uint4 v = load_shared_unit(from), u = load_shared_unit(from + 16);
      const uint32_t next = load_shared(from + 32);
      uint32_t at = to;
#pragma unroll
      for (int residue = 0; residue < 2; ++residue) {
        const unsigned halves = residue == 0 ? 0x5410 : 0x7632;
        if (box.copy_mask >> 2 * residue & 1) {
          store_shared(at, {__byte_perm(v.x, v.y, halves), __byte_perm(v.z, v.w, halves),
                            __byte_perm(u.x, u.y, halves), __byte_perm(u.z, u.w, halves)});
          at += pitch;
        }
        if (box.copy_mask >> (2 * residue + 1) & 1) {
          store_shared(at, {__byte_perm(v.y, v.z, halves), __byte_perm(v.w, u.x, halves),
                            __byte_perm(u.y, u.z, halves), __byte_perm(u.w, next, halves)});
          at += pitch;
        }
      }
    } else if (stride == 4) {
      uint32_t v[18];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const uint4 unit = load_shared_unit(from + 16 * i);
        v[4 * i] = unit.x;
        v[4 * i + 1] = unit.y;
        v[4 * i + 2] = unit.z;
        v[4 * i + 3] = unit.w;
      }
      const uint2 last = load_shared_pair(from + 64);
      v[16] = last.x;
      v[17] = last.y;
      uint32_t at = to;
#pragma unroll
      for (int copy = 0; copy < 8; ++copy) {
        const int residue = copy / 2, first_word = copy % 2 * 2 + residue / 2;
        const unsigned halves = residue % 2 == 0 ? 0x5410 : 0x7632;
        if (box.copy_mask >> copy & 1) {
          const auto word = [&](int i) {
            return __byte_perm(v[4 * i + first_word], v[4 * i + first_word + 2], halves);
          };
          store_shared(at, {word(0), word(1), word(2), word(3)});
          at += pitch;
        }
      }
    } else {
      uint32_t at = to;
#pragma unroll 1
      for (int copy = 0; copy < 2 * stride; ++copy) {
        if ((box.copy_mask >> copy & 1) == 0) continue;
        uint32_t words_of_lane[kWords];
#pragma unroll
        for (int i = 0; i < kWords; ++i) {
          const uint32_t element = from + (stride * (2 * i + copy % 2) + copy / 2) * 2;
          words_of_lane[i] = load_shared_half(element) | load_shared_half(element + stride * 2)
                                                             << 16;
        }
        store_shared(at, {words_of_lane[0], words_of_lane[1], words_of_lane[2], words_of_lane[3]});
        at += pitch;
      }
    }
  }
}

template <typename T>
__device__ inline void gather_by_warps(const GatheredGradWeightArguments& args,
                                       const GatherJob& job, const TapRange& taps,
                                       const GatherBox& box, const GatherShared& shared, int first,
                                       int last, int warp) {
  constexpr bool kPairs = sizeof(T) == 2;
  const GatheredGradWeightPlan& plan = args.plan;
  const GatheredGradWeightSizes& sizes = args.sizes;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const bool output = !kPairs && plan.output_fill == GatherFill::kElements;
  const bool input = !kPairs && plan.input_fill == GatherFill::kElements;
  const auto target_of = [&](int stage) {
    return shared_address(shared.stages) + stage * sizes.stage_bytes;
  };
  int pending = -1;  // stage that has been copied to
  uint32_t pending_parity = 0;
  const auto finish = [&] {
    const uint32_t target = target_of(pending), box_at = target + sizes.columns_bytes;
    if constexpr (kPairs) {
      const int stride = sizes.axes[2].stride;
      barrier_wait(shared.staged(pending), pending_parity);
      shift_staged(box, stride, stride > 1 ? target + sizes.staged_at : box_at, box_at, warp, lane);
      barrier_arrive(shared.unstaged(pending));
    } else {
      if (output)
        gather_box_elements<GatherPass::kRound>(args, job, taps, box, shared, box_at, {}, warp,
                                                lane);
      if (input)
        gather_column_elements<GatherPass::kRound>(args, job, shared, target, {}, warp, lane);
      if (plan.input_fill == GatherFill::kTransposed) {
        barrier_wait(shared.staged(pending), pending_parity);
        transpose_staged(args, job, target + sizes.staged_at, target, warp, lane);
      }
    }
    fence_for_wgmma();
    barrier_arrive(shared.full(pending));
  };
  int stage = 0;
  uint32_t parity = 1;
#pragma unroll 1
  for (int index = first; index < last; ++index) {
    const uint32_t empty = shared.empty(stage);
    // What has been copied is finished while there is nothing to copy to.
    if (pending >= 0 && __any_sync(0xffffffffu, !barrier_test(empty, parity))) {
      copy_async_wait<0>();
      finish();
      pending = -1;
    }
    barrier_wait(empty, parity);
    const GatherPosition tile = first_of_tile(args, index);
    if constexpr (!kPairs) {
      if (output)
        gather_box_elements<GatherPass::kCopy>(
            args, job, taps, box, shared, target_of(stage) + sizes.columns_bytes, tile, warp, lane);
      if (input)
        gather_column_elements<GatherPass::kCopy>(args, job, shared, target_of(stage), tile, warp,
                                                  lane);
    }
    copy_async_commit();
    if (pending >= 0) {
      copy_async_wait<1>();
      finish();
    }
    pending = stage;
    pending_parity = parity ^ 1;
    if (++stage == plan.stages) {
      stage = 0;
      parity ^= 1;
    }
  }
  if (pending >= 0) {
    copy_async_wait<0>();
    finish();
  }
}

}  // namespace convt3d

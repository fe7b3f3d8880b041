// What warps make of tiles that the copy engine has staged for the gathering grad_weight kernel
// (gathered_grad_weight.cuh): rows of positions, or copies of pairs of positions.
#pragma once

#include "gathered_grad_weight_tables.cuh"

namespace convt3d {

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

}  // namespace convt3d

// Index arithmetic of the depthwise kernels: how a block's threads share a result, and the taps of
// the common kernels as compile-time facts. Host-device, no CUDA headers: the CPU tests check it
// against the definition.
//
// Along an axis with dilation 1, position t and tap k meet where (geometry.h)
//
//   forward     result stride * t + plane(k)     operand t - shift(k)
//   grad_input  result t                         operand stride * t + k - padding
//
// with k - padding = stride * shift(k) + plane(k). Both are
//
//   result  = kResultStep * t + plane(k)
//   operand = kOperandStep * t + kOrigin + offset(k),   0 <= offset(k) < kWindow
#pragma once

#include <cstdint>

#include "tile_geometry.h"

namespace convt3d {

template <Pass kPassOfAxis, int kKernelOfAxis, int kStride, int kPadding>
struct FixedAxis {
  static constexpr Pass kPass = kPassOfAxis;
  static constexpr int kKernel = kKernelOfAxis;
  static constexpr bool kForward = kPass == Pass::kForward;

  static constexpr int shift(int tap) {  // rounds down for tap < kPadding, too
    return (tap - kPadding + kStride * kPadding) / kStride - kPadding;
  }
  static constexpr int plane(int tap) {
    return kForward ? tap - kPadding - kStride * shift(tap) : 0;
  }
  static constexpr int offset(int tap) { return kForward ? shift(kKernel - 1) - shift(tap) : tap; }
  static constexpr int kResultStep = kForward ? kStride : 1;
  static constexpr int kOperandStep = kForward ? 1 : kStride;
  static constexpr int kOrigin = kForward ? -shift(kKernel - 1) : -kPadding;
  static constexpr int kWindow = kForward ? shift(kKernel - 1) - shift(0) + 1 : kKernel;

  // Of `tile` positions: the results, and the operand coordinates that they read.
  static constexpr int results(int tile) { return kResultStep * tile; }
  static constexpr int span(int tile) { return kOperandStep * (tile - 1) + kWindow; }
};

// How the threads of a block lie over channels, w and h. Along d a block is one tile high.
//
//   thread -> lane (channels, fastest), slot along w, slot along h
//   block  -> slab of channels (fastest), group of slots along w, along h
struct ThreadMap {
  int lanes, slots_w, slots_h;
  int slabs, groups_w, groups_h;
};

constexpr int kDepthwiseThreads = 128;

inline int divide_up(int a, int b) { return (a + b - 1) / b; }

// Spreads `count` over as few pieces of at most `most` as possible, evenly.
inline int even_piece(int count, int most) { return divide_up(count, divide_up(count, most)); }

// `vectors` of channels (1 where a block has one channel), `tiles_w` and `rows_h` to cover.
inline ThreadMap thread_map(int vectors, int most_lanes, int tiles_w, int rows_h) {
  ThreadMap map{};
  map.lanes = even_piece(vectors, most_lanes);
  const int slots = kDepthwiseThreads / map.lanes;
  // With channels side by side, a square; otherwise whole lines, whose stores are neighbours.
  const int most_w = map.lanes == 1 ? 32 : slots >= 32 ? 8 : slots >= 8 ? 4 : 2;
  map.slots_w = even_piece(tiles_w, most_w < slots ? most_w : slots);
  map.slots_h = even_piece(rows_h, slots / map.slots_w);
  map.slabs = divide_up(vectors, map.lanes);
  map.groups_w = divide_up(tiles_w, map.slots_w);
  map.groups_h = divide_up(rows_h, map.slots_h);
  return map;
}

// What a thread works on; coordinates may lie outside, where it has nothing to do.
struct ThreadPlace {
  bool used;
  int slab, vector;  // vector: of channels
  int tile_w, row_h;
};

CONVT3D_HOST_DEVICE inline ThreadPlace thread_place(const ThreadMap& map, unsigned block,
                                                    unsigned thread) {
  ThreadPlace place;
  const unsigned lane = thread % static_cast<unsigned>(map.lanes);
  const unsigned slot = thread / static_cast<unsigned>(map.lanes);
  const unsigned slot_w = slot % static_cast<unsigned>(map.slots_w);
  const unsigned slot_h = slot / static_cast<unsigned>(map.slots_w);
  const unsigned slab = block % static_cast<unsigned>(map.slabs);
  const unsigned group = block / static_cast<unsigned>(map.slabs);
  const unsigned group_w = group % static_cast<unsigned>(map.groups_w);
  const unsigned group_h = group / static_cast<unsigned>(map.groups_w);
  place.used = slot_h < static_cast<unsigned>(map.slots_h);
  place.slab = static_cast<int>(slab);
  place.vector = static_cast<int>(slab * map.lanes + lane);
  place.tile_w = static_cast<int>(group_w * map.slots_w + slot_w);
  place.row_h = static_cast<int>(group_h * map.slots_h + slot_h);
  return place;
}

}  // namespace convt3d

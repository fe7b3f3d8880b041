// How staged_lines.cuh divides lines, and its memory. Host-device, no CUDA headers.
#pragma once

#include "tile_geometry.h"

namespace convt3d {

constexpr int kLineBlock = 8;  // positions of 16 bits: of a transposed matrix

constexpr int kMostSlotRuns = 8;

// Lines are staged in slots: a run is one copy, of neighbouring blocks of positions along w and all
// channels of a box, or a group of them; a slot holds one run, or several short ones.
struct LineStaging {
  int line_runs;    // of a line
  int blocks;       // of a run, kLineBlock positions each
  int pitch;        // bytes of a run from one channel to the next
  int units;        // 16-byte units of channels of a run
  int unit_groups;  // so many for all channels
  int run_bytes;
  int slot_runs;
  unsigned inverse_line_runs, inverse_blocks;  // of 2^20, rounded up

  // Bytes; 0: none.
  CONVT3D_HOST_DEVICE int swizzle() const { return pitch / 16 % 2 == 0 ? pitch : 0; }
  CONVT3D_HOST_DEVICE int slot_bytes() const {
    return (slot_runs * run_bytes + 1023) / 1024 * 1024;
  }
  // Of a run.
  CONVT3D_HOST_DEVICE int line_of(int run) const {
    return static_cast<int>(static_cast<unsigned>(run) * inverse_line_runs >> 20);
  }
  // Of a block in a slot.
  CONVT3D_HOST_DEVICE int run_of(int block) const {
    return static_cast<int>(static_cast<unsigned>(block) * inverse_blocks >> 20);
  }
  // Slots that each group of channels takes.
  CONVT3D_HOST_DEVICE int group_slots(int lines) const {
    return (lines * line_runs + slot_runs - 1) / slot_runs;
  }
};

// Positions that copies of lines bring before the first one asked for, at most: lines of an axis of
// `extent`, which begin at `origin` plus multiples of `step`.
CONVT3D_HOST_DEVICE inline int most_before(int extent, int origin, int step) {
  return extent % kLineBlock == 0 && step % kLineBlock == 0 ? origin & (kLineBlock - 1)
                                                            : kLineBlock - 1;
}

// For `lines` lines of `span` positions, those before included, and `units` units of channels.
CONVT3D_HOST_DEVICE inline LineStaging line_staging(int lines, int span, int units) {
  constexpr int kSlotBytes = 4096, kMostExtent = 256, kLeastBlocks = 4;
  const int all_blocks = (span + kLineBlock - 1) / kLineBlock;
  constexpr int kUnitChannels = 8;
  // The channels of a block must meet different banks: at an odd number of 16-byte chunks from each
  // other, or at 2, 4 or 8, which the copy engine swizzles.
  const auto pitch_of = [](int blocks) {
    const bool pads = blocks % 2 == 0 && blocks != 2 && blocks != 4 && blocks != 8;
    return (blocks + pads) * 16;
  };
  const auto fits = [&](int blocks, int run_units) {
    const int channels = run_units * kUnitChannels, pitch = pitch_of(blocks);
    return channels * pitch <= kSlotBytes && channels <= kMostExtent && pitch <= 2 * kMostExtent;
  };
  LineStaging staging{};
  // All channels of as much of a line as fits; where that is little, fewer channels.
  int blocks = all_blocks;
  while (blocks > 1 && !fits(blocks, units)) --blocks;
  const int least = all_blocks < kLeastBlocks ? all_blocks : kLeastBlocks;
  if (blocks < least) blocks = least;
  staging.line_runs = (all_blocks + blocks - 1) / blocks;
  staging.blocks = (all_blocks + staging.line_runs - 1) / staging.line_runs;
  staging.unit_groups = 1;
  while (units % staging.unit_groups != 0 || !fits(staging.blocks, units / staging.unit_groups))
    ++staging.unit_groups;
  staging.units = units / staging.unit_groups;
  staging.pitch = pitch_of(staging.blocks);
  staging.run_bytes = staging.units * kUnitChannels * staging.pitch;
  staging.slot_runs = kSlotBytes / staging.run_bytes;
  if (staging.slot_runs > kMostSlotRuns) staging.slot_runs = kMostSlotRuns;
  if (staging.slot_runs > lines * staging.line_runs) staging.slot_runs = lines * staging.line_runs;
  const auto inverse = [](int value) {
    return static_cast<unsigned>(((1 << 20) + value - 1) / value);
  };
  staging.inverse_line_runs = inverse(staging.line_runs);
  staging.inverse_blocks = inverse(staging.blocks);
  return staging;
}

// Where warps store rows that do not exist: a unit per lane.
constexpr int kDumpBytes = 32 * 16;
// Staging memory of so many warps with rings of `depth` slots, and its barriers.
CONVT3D_HOST_DEVICE constexpr int line_rings_bytes(int warps, int depth, int slot_bytes) {
  return warps * (depth * slot_bytes + kDumpBytes);
}
CONVT3D_HOST_DEVICE constexpr int line_barriers_bytes(int warps, int depth) {
  return warps * depth * 16;
}

}  // namespace convt3d

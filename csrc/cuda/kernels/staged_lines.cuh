// Rows of channels in shared memory from a tensor in which w, not the channel, is fastest, by the
// copy engine and warps.
//
//   memory   channel, line, w
//   staging  runs of a line, of each its channels one after the other (LineStaging)
//   shared   a row per position: its channels side by side (SwizzledRows)
//
// Some warps have the copy engine bring runs into the slots of others, which transpose them
// (ldmatrix and stmatrix). To the copy engine all positions of a channel are one axis, so that
// lines need not begin on 16-byte boundaries, as copies must: they begin up to 15 bytes before, in
// all channels of a line alike. What they read besides a line belongs to neighbouring ones, and
// becomes zeros while it is transposed.
#pragma once

#include "staged_lines_sizes.h"
#include "transposed_fill.cuh"

namespace convt3d {

// Staged runs. Each of the warps that transpose them has a ring of kDepth slots, with two barriers
// each that take one arrival.
template <int kWarps, int kDepth>
struct LineRings {
  char* memory;  // slots, then what the warps dump
  int slot_bytes;
  uint32_t barriers;

  // Of a warp's `count`-th slot.
  struct Slot {
    uint32_t full, empty, parity;
    int at;
  };
  __device__ __forceinline__ Slot slot(int warp, unsigned count) const {
    const int index = warp * kDepth + static_cast<int>(count % kDepth);
    const uint32_t full = barriers + 16 * index;
    return {full, full + 8, count / kDepth & 1, index * slot_bytes};
  }
  __device__ __forceinline__ void init() const {
    for (int i = 0; i < 2 * kWarps * kDepth; ++i) barrier_init(barriers + 8 * i, 1);
  }
};

// Where a line begins.
struct LinePlace {
  int at, sample;
};
// So far in front of the tensor that no run reaches it: zeros.
constexpr LinePlace kNoLine{-1024, 0};

// Elements that a copy brings before position `at`.
__device__ __forceinline__ int elements_before(int at) { return at & (kLineBlock - 1); }

// The slots of one box: each is a group of channels, and runs of lines.
struct BoxSlots {
  int group, first_run;

  __device__ __forceinline__ BoxSlots(const LineStaging& staging, int group_slots, int index)
      : group(0) {
    for (; index >= group_slots; index -= group_slots) ++group;
    first_run = index * staging.slot_runs;
  }
};

// Whose slot is the first of a box. Always the same warp writes a place of a box (else racecheck,
// which does not see what the barriers order, reports a race), but others begin with the next box
// of the ring.
template <int kWarps>
__device__ __forceinline__ int first_warp_of(int ring_slot, int slots) {
  return ring_slot * slots % kWarps;
}

// One of kLoaders warps that have lines staged, each for its share of the transposing warps.
template <int kWarps, int kDepth, int kLoaders>
class LineLoader {
 public:
  __device__ LineLoader(const LineRings<kWarps, kDepth>& rings, int loader)
      : rings_(rings), lane_(static_cast<int>(threadIdx.x) % 32), loader_(loader) {}

  // Those of one operand's box, from this channel on. `place_of(line)`: a LinePlace.
  template <typename PlaceOf>
  __device__ __forceinline__ void load(const LineStaging& staging, const CUtensorMap& map,
                                       int lines, int ring_slot, int group_slots, int channel,
                                       const PlaceOf& place_of) {
    constexpr int kUnitElements = 8;
    // Slots of all warps, each loader its own; a lane per run.
    constexpr int kAtOnce = kWarps / kLoaders;
    static_assert(kWarps % kLoaders == 0 && kAtOnce * kMostSlotRuns <= 32);
    const int slots = staging.unit_groups * group_slots, runs = lines * staging.line_runs;
    const int slot = lane_ % kAtOnce, run = lane_ / kAtOnce;
    const int first_warp = first_warp_of<kWarps>(ring_slot, slots);
    const int own = slot * kLoaders + (loader_ + kWarps - first_warp) % kLoaders;
    const int warp = (first_warp + own) % kWarps;
    const int slot_of_lane = (lane_ + kWarps - first_warp) % kWarps;
#pragma unroll 1
    for (int first = 0; first < slots; first += kWarps) {
      const auto at = rings_.slot(warp, __shfl_sync(0xffffffffu, count_, warp));
      const BoxSlots box(staging, group_slots, min(first + own, slots - 1));
      const int in_slot = min(staging.slot_runs, runs - box.first_run);
      const bool exists = first + own < slots && run < in_slot;
      if (exists) barrier_wait(at.empty, at.parity ^ 1);
      if (exists && run == 0) barrier_expect(at.full, in_slot * staging.run_bytes);
      __syncwarp();
      if (exists) {
        const int line = staging.line_of(box.first_run + run);
        const LinePlace place = place_of(line);
        const int column =
            (box.first_run + run - line * staging.line_runs) * staging.blocks * kLineBlock;
        copy_tensor(shared_address(rings_.memory) + at.at + run * staging.run_bytes, &map, at.full,
                    place.at - elements_before(place.at) + column,
                    channel + box.group * staging.units * kUnitElements, place.sample, 0, 0);
      }
      if (first + slot_of_lane < slots) ++count_;
    }
  }

 private:
  LineRings<kWarps, kDepth> rings_;
  int lane_, loader_;
  unsigned count_ = 0;  // of slots; of the warp that is numbered as this lane
};

// One of the warps that transpose staged lines.
template <int kWarps, int kDepth>
class LineTransposer {
 public:
  __device__ LineTransposer(const LineRings<kWarps, kDepth>& rings, int warp)
      : rings_(rings),
        lane_(static_cast<int>(threadIdx.x) % 32),
        warp_(warp),
        dump_(shared_address(rings.memory) + kWarps * kDepth * rings.slot_bytes +
              warp * kDumpBytes + lane_ * 16) {}

  // This warp's share of a box; `row_of(line, column)` gives the row of column x + `column`, or a
  // negative number for none, `place_of(line)` the line's first position.
  template <typename RowAt, typename PlaceOf>
  __device__ __forceinline__ void fill(const LineStaging& staging, const FilledLines& fill,
                                       const SwizzledRows& rows, int ring_slot, int group_slots,
                                       const RowAt& row_of, const PlaceOf& place_of) {
    const int slots = staging.unit_groups * group_slots, runs = fill.lines * staging.line_runs;
#pragma unroll 1
    for (int slot = (warp_ + kWarps - first_warp_of<kWarps>(ring_slot, slots)) % kWarps;
         slot < slots; slot += kWarps) {
      const auto at = rings_.slot(warp_, count_++);
      const BoxSlots box(staging, group_slots, slot);
      const int blocks = min(staging.slot_runs, runs - box.first_run) * staging.blocks;
      barrier_wait(at.full, at.parity);
#pragma unroll 1
      for (int first = 0; first < blocks; first += 32 / kLineBlock) {
        const int index = first + lane_ / kLineBlock, block = min(index, blocks - 1);
        const int in_slot = staging.run_of(block), run = box.first_run + in_slot;
        const int line = staging.line_of(run), in_run = block - in_slot * staging.blocks;
        const int column =
            ((run - line * staging.line_runs) * staging.blocks + in_run) * kLineBlock +
            lane_ % kLineBlock - elements_before(place_of(line));
        const bool exists =
            index < blocks && static_cast<unsigned>(column) < static_cast<unsigned>(fill.span);
        const int row = exists ? row_of(line, column) : -1;
        const bool inside =
            static_cast<unsigned>(fill.x + column) < static_cast<unsigned>(fill.extent);
        transpose(staging, at.at + in_slot * staging.run_bytes, in_run, rows, row, inside,
                  box.group * staging.units);
      }
      __syncwarp();
      if (lane_ == 0) barrier_arrive(at.empty);
    }
  }

 private:
  // Eight positions of each of four blocks: this lane's is number `block` of the run at `run`, and
  // its position becomes `row`.
  __device__ __forceinline__ void transpose(const LineStaging& staging, int run, int block,
                                            const SwizzledRows& rows, int row, bool inside,
                                            int unit) {
    const int position = lane_ % kLineBlock;
    // Chunks of 16 bytes are exchanged among each other as addresses' bits from the seventh on say.
    const int swizzled = staging.swizzle();
    const int swizzle = swizzled != 0 ? position * swizzled >> 7 & (swizzled / 16 - 1) : 0;
    uint32_t source =
        shared_address(rings_.memory) + run + position * staging.pitch + 16 * (block ^ swizzle);
#pragma unroll 2
    for (int u = 0; u < staging.units; ++u) {
      uint32_t matrices[4];
      load_matrix_x4(matrices, source);
      store_matrices_transposed(row >= 0 && inside ? rows.address(row, unit + u) : dump_, matrices);
      source += 8 * staging.pitch;
    }
    if (row >= 0 && !inside)
      for (int u = 0; u < staging.units; ++u)
        store_shared(rows.address(row, unit + u), {0, 0, 0, 0});
  }

  LineRings<kWarps, kDepth> rings_;
  int lane_, warp_;
  uint32_t dump_;
  unsigned count_ = 0;  // of this warp's slots
};

}  // namespace convt3d

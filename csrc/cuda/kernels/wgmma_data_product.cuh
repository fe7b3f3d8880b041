// The multiplying warpgroups of the WGMMA data kernel (wgmma_data.cuh): products of a column tile
// from the rings of boxes and weights, up to its sums in registers.
#pragma once

#include "wgmma_data_tables.cuh"

namespace convt3d {

template <int kBlocks, int kPlanes, int kSums>
__device__ __forceinline__ void pin(float (&sums)[kBlocks][kPlanes][kSums]) {
#pragma unroll
  for (int block = 0; block < kBlocks; ++block)
#pragma unroll
    for (int p = 0; p < kPlanes; ++p)
#pragma unroll
      for (int i = 0; i < kSums; ++i) pin(sums[block][p][i]);
}

// The products of one warpgroup. kColumns: of a product; kPlanes: products with sums of their own.
template <typename T, int kColumns, int kPlanes, int kBlocks>
struct Consumer {
  const WgmmaDataArguments& args;
  const WgmmaShared& shared;
  float sums[kBlocks][kPlanes][kColumns / 2];
  MatrixAddress left, right;
  int lane;
  int block_units, step_units, box_units, part_units;
  // The ring of weights: barrier and address of the next stage, parity of its phase (kStay or more:
  // nothing to wait for).
  static constexpr uint32_t kStay = 2;
  uint32_t stage_full, parity;
  int stage_at;          // of the next part
  int parts_left;        // of the stage
  uint32_t awaited;      // parity to wait for before the next part, if it begins a stage
  uint32_t unfreed = 0;  // barrier that frees the stage whose last products may be under way
  // The ring of boxes.
  RingCursor next_box;  // first not yet waited for
  int held = 0;         // boxes before it that are not yet freed

  __device__ Consumer(const WgmmaDataArguments& arguments, const WgmmaShared& memory, int warpgroup)
      : args(arguments),
        shared(memory),
        left(memory.boxes + first_row(arguments, warpgroup) * row_bytes(arguments), kWgmmaUnitBytes,
             (arguments.plan.flattened ? wgmma_run_rows(arguments.plan)
                                       : arguments.sizes.box.halo_w) *
                 row_bytes(arguments),
             arguments.sizes.box.width),
        right(memory.weights, kColumns * kWgmmaUnitBytes, 8 * kWgmmaUnitBytes),
        lane(threadIdx.x % 32),
        block_units(8 * arguments.sizes.box.width),
        step_units(arguments.sizes.box.width == 2 ? arguments.sizes.box.rows * 2 : 2),
        box_units(arguments.sizes.box_bytes / kWgmmaUnitBytes),
        part_units(arguments.sizes.part_bytes / kWgmmaUnitBytes) {
    first_stage(0);
  }
  static __device__ int first_row(const WgmmaDataArguments& args, int warpgroup) {
    const int run_rows = wgmma_run_rows(args.plan);
    if (args.plan.flattened) return warpgroup * 8 * run_rows;
    return warpgroup / args.plan.beside * 8 * args.sizes.box.halo_w +
           warpgroup % args.plan.beside * run_rows;
  }

  static __device__ int row_bytes(const WgmmaDataArguments& args) {
    return args.sizes.box.width * kWgmmaUnitBytes;
  }

  __device__ __forceinline__ void first_stage(uint32_t of_parity) {
    stage_full = shared.weight_full(0);
    stage_at = right.low;
    parity = of_parity;
  }
  // Once all stages have come, each into its own slot.
  __device__ __forceinline__ void stay_in_stages() { first_stage(kStay); }
  // Of a box held, from the first one on.
  __device__ __forceinline__ int slot_of_held(int box) const {
    const int slot = next_box.slot - held + box;
    return slot < 0 ? slot + shared.box_slots : slot;
  }
  // Waits until so many boxes not yet freed are there.
  __device__ __forceinline__ void hold_boxes(int count) {
#pragma unroll 1
    for (; held < count; ++held) {
      barrier_wait(shared.box_full(next_box.slot), next_box.parity);
      next_box.advance(shared.box_slots);
    }
  }
  // No product under way reads them.
  __device__ __forceinline__ void free_boxes(int count) {
#pragma unroll 1
    for (; count > 0; --count) {
      hold_boxes(1);
      __syncwarp();  // all lanes have waited for it
      if (lane == 0) barrier_arrive(shared.box_empty(slot_of_held(0)));
      --held;
    }
  }

  __device__ __forceinline__ void free_stage(uint32_t empty) {
    if (empty != 0 && lane == 0) barrier_arrive(empty);
  }
  // The next part begins a stage.
  __device__ __forceinline__ void end_stage() {
    if (!args.sizes.resident) unfreed = stage_full + 8 * shared.weight_slots;
    stage_full += 8;
    stage_at += parts_left * part_units;
    parts_left = args.plan.stage_parts;
    if (stage_full == shared.weight_full(shared.weight_slots)) {
      stage_full = shared.weight_full(0);
      stage_at = right.low;
      parity ^= 1;
    }
    awaited = parity;
  }

  // Parts of a stage, of plane p: straight code, so that their products leave back to back.
  // `accumulate` is false for the first products of a plane. `advance` finds the next parts'
  // operand while they run.
  template <int kSteps, int kParts, typename Advance>
  __device__ __forceinline__ void multiply_parts(int p, const int (&left_at)[kParts],
                                                 bool accumulate, const Advance& advance) {
    if (awaited < kStay) {
      barrier_wait(stage_full, awaited);
      awaited = kStay;
    }
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
      const uint64_t a = left.with(left_at[part]), b = right.with(stage_at + part * part_units);
#pragma unroll
      for (int step = 0; step < kSteps; ++step) {
#pragma unroll
        for (int block = 0; block < kBlocks; ++block)
          Wgmma<T, kColumns>::multiply(sums[block][p], a + step * step_units + block * block_units,
                                       b + step * 2 * kColumns, part > 0 || step > 0 || accumulate);
      }
    }
    // Part of the straight code: elsewhere ptxas makes it a group of one empty product, and waiting
    // for all but that one waits for these.
    wgmma_commit();
    const uint32_t multiplied = unfreed;
    unfreed = 0;
    stage_at += kParts * part_units;
    parts_left -= kParts;
    if (parts_left == 0) end_stage();
    advance();
    wgmma_wait<1>();
    free_stage(multiplied);
  }

  // The taps of a round from the list, for one chunk. `slot`: of the box that the list's places
  // count from.
  template <int kSteps, bool kPairs>
  __device__ __forceinline__ void multiply_taps(const ColumnPlace& tile, int first_tap, int slot,
                                                bool first_round) {
    // A part is one row's width of channels, or several where the width is one step.
    const int tap_step = args.indices.tap_step;
    const int first = left.low + slot * box_units;
    const int ring = shared.box_slots * box_units, end = left.low + ring;
    const auto operand_at = [first, ring, end](unsigned place) {
      const int at = first + static_cast<int>(place);
      return at >= end ? at - ring : at;
    };
    // Loaded by load_shared(): the compiler moves what it knows to be the same for all lanes to a
    // register of the warp as soon as it is asked for, and waits for it.
    uint32_t tap = shared_address(shared.taps + first_tap);
    const int parts = tile.taps * args.sizes.tap_parts;
    int left_at;  // of the next part
    // Of single parts: the tap after this one, and what is left of this one.
    unsigned next_tap = 0;
    int tap_parts = args.sizes.tap_parts;
    // Of pairs: each lane finds the operand of one of the next 32 parts.
    int found = 0, next = 0;  // the first of these; from there, the next one
    unsigned operands = 0;
    const auto find = [&] {
      int index = min(found + lane, parts - 1);
      const int in_tap = args.indices.tap_parts.take(index);
      operands =
          static_cast<unsigned>(operand_at(load_shared(tap + 4 * index)) + in_tap * tap_step);
    };
    const auto found_operand = [&](int part) {
      return static_cast<int>(uniform_of(part, lane, operands));
    };
    if constexpr (kPairs) {
      find();
      left_at = found_operand(0);
    } else {
      left_at = operand_at(uniform(load_shared(tap)));
      next_tap = load_shared(tap += 4);
    }
    const auto advance = [&](int multiplied) {
      if constexpr (kPairs) {
        next += multiplied;
        if (next + 1 >= 32) {
          found += next;
          next = 0;
          find();
        }
        left_at = found_operand(next);
      } else {
        const int next_at = operand_at(uniform(next_tap));
        const bool ends = --tap_parts == 0;
        left_at = ends ? next_at : left_at + tap_step;
        tap_parts = ends ? args.sizes.tap_parts : tap_parts;
        tap += ends ? 4 : 0;
        next_tap = load_shared(tap);
      }
    };
    const auto multiply_plane = [&](int p, int count, bool accumulate) {
#pragma unroll 1
      while (count > 0) {
        if (kPairs && count > 1 && parts_left > 1) {
          const int both[] = {left_at, found_operand(next + 1)};
          multiply_parts<kSteps>(p, both, accumulate, [&] { advance(2); });
          count -= 2;
        } else {
          const int only[] = {left_at};
          multiply_parts<kSteps>(p, only, accumulate, [&] { advance(1); });
          --count;
        }
        accumulate = true;
      }
    };
    if constexpr (kPlanes == 1) {
      multiply_plane(0, parts, !first_round);
    } else {
#pragma unroll 1
      for (int line = 0; line < tile.lines; ++line) {
#pragma unroll
        for (int p = 0; p < kPlanes; ++p)
          multiply_plane(p, args.plan.axes[2].taps_of(p) * args.sizes.tap_parts,
                         line > 0 || !first_round);
      }
    }
  }

  template <int kSteps>
  __device__ __forceinline__ void multiply_round(const ColumnPlace& tile, int first_tap, int slot,
                                                 bool first_round) {
    if constexpr (are_short_parts(kSteps, kColumns, kPlanes, kBlocks)) {
      if (args.sizes.pairs) return multiply_taps<kSteps, true>(tile, first_tap, slot, first_round);
    }
    multiply_taps<kSteps, false>(tile, first_tap, slot, first_round);
  }

  // The sums of a column tile, the last to read the first `leaving` boxes.
  __device__ __forceinline__ void multiply(const ColumnPlace& tile, int leaving) {
    const WgmmaDataPlan& plan = args.plan;
    const WindowAxis& d = plan.axes[0];
    pin(sums);
    wgmma_fence();
    if (!args.sizes.one_by_one) hold_boxes(d.window);
    int freed = 0, depth = 0;
    parts_left = plan.stage_parts;
    awaited = parity;
#pragma unroll 1
    for (int round = 0; round < tile.rounds; ++round) {
      int box = freed;
      if (args.sizes.one_by_one) {
        box = args.sizes.chunks == 1 ? d.offset[d.plane_begin[tile.d] + depth] : round;
        const int unread = min(box, leaving) - freed;
        if (unread > 0) {
          wgmma_wait<0>();
          free_boxes(unread);
          freed += unread;
        }
        hold_boxes(box - freed + 1);
      }
      const int first_tap = tile.first_tap + depth * tile.taps;
      switch (plan.stage_units) {
        case 2:
          multiply_round<1>(tile, first_tap, slot_of_held(box - freed), round == 0);
          break;
        case 4:
          multiply_round<2>(tile, first_tap, slot_of_held(box - freed), round == 0);
          break;
        case 6:
          multiply_round<3>(tile, first_tap, slot_of_held(box - freed), round == 0);
          break;
        default:
          multiply_round<4>(tile, first_tap, slot_of_held(box - freed), round == 0);
          break;
      }
      if (++depth == tile.chunk_rounds) {
        if (parts_left < plan.stage_parts) end_stage();
        depth = 0;
      }
    }
    wgmma_wait<0>();
    free_boxes(leaving - freed);
    free_stage(unfreed);
    unfreed = 0;
    __syncwarp();
    pin(sums);
    // A plane without taps is never multiplied. Selections, not a branch: see C7520 of ptxas.
    if (args.sizes.empty_planes) {
#pragma unroll
      for (int p = 0; p < kPlanes; ++p) {
        const bool empty = tile.rounds == 0 || (kPlanes > 1 && plan.axes[2].taps_of(p) == 0);
#pragma unroll
        for (int block = 0; block < kBlocks; ++block)
#pragma unroll
          for (int i = 0; i < kColumns / 2; ++i)
            sums[block][p][i] = empty ? 0.f : sums[block][p][i];
      }
    }
  }
};

}  // namespace convt3d

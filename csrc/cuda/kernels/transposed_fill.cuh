// Rows of channels in shared memory from a tensor in which w, not the channel, is fastest.
//
//   memory   channel, line, w
//   staging  blocks of eight neighbours along w, their channels of one 16-byte unit: 128 bytes
//   shared   a row per position: its channels side by side, in 16-byte units that are exchanged
//            among each other as the matrix units expect it (swizzle)
//
// A warp copies one batch of blocks after the other to its staging memory (cp.async), without
// waiting, and transposes an earlier one meanwhile (ldmatrix and stmatrix; float32: through
// registers). Where neighbours along w share no aligned word, threads load, transpose and store
// elements.
#pragma once

#include "mma.cuh"
#include "scalar.cuh"
#include "transposed_fill_sizes.h"
#include "wgmma.cuh"
#include "wgmma_geometry.h"

namespace convt3d {

// Where row and unit stand: `width` units (2, 4 or 8) of each row side by side, blocks of those one
// after the other.
struct SwizzledRows {
  uint32_t base;
  int width, block_bytes;

  __device__ __forceinline__ uint32_t block_of(int unit) const {
    return base + (unit >> (width / 4 + 1)) * block_bytes;
  }
  __device__ __forceinline__ uint32_t address(int row, int unit) const {
    return block_of(unit) + 16 * swizzled_unit(row, unit, width);
  }
};

// What a line of the tensor gives: nothing where it lies outside.
template <typename T>
struct LineSource {
  const T* begin;  // w = 0, first channel
  bool inside;
};

// The part of the tensor that is filled in.
struct FilledLines {
  int lines;
  int x, span;   // along w: first coordinate, which may lie outside, and how many
  int extent;    // of the tensor along w
  int units;     // to fill
  int channels;  // present in the tensor from the first unit on
};

// One warp's share, of boxes one after the other, with kDepth batches in its staging memory. The
// barriers of a box: `empty` is waited for before anything is stored; the one in front of it gets
// one arrival of each of kWarps.
template <typename T, int kWarps, int kDepth>
class TransposedFill {
 public:
  // `units`: of channels to fill, at most.
  __device__ TransposedFill(char* staging, int warp, int units, const BoxShape& box)
      : box_(box),
        batch_bytes_(fill_batch_bytes(units)),
        staging_(staging + warp * kDepth * batch_bytes_),
        lane_(static_cast<int>(threadIdx.x) % 32),
        warp_(warp) {}

  // `line_source(line)` gives a LineSource, `row_of(line, column)` the row of column x + `column`
  // or a negative number for none. Runs of 16 bytes (`whole`) or 4 begin on boundaries of their
  // size in memory, and `extent` is a multiple of them; only single elements may lie apart.
  // `ring_slot`: of the box. Always the same warp writes a place of it (else racecheck, which does
  // not see what the barriers order, reports a race), but another one takes the first batch.
  template <typename LineAt, typename RowAt>
  __device__ __forceinline__ void fill(const FilledLines& fill, const SwizzledRows& rows,
                                       bool whole, int64_t channel_stride, int stride_w,
                                       int ring_slot, uint32_t empty, uint32_t parity,
                                       const LineAt& line_source, const RowAt& row_of) {
    const int before = fill.x & (kPositions - 1);  // columns of the first block not asked for
    const int per_line = (before + fill.span + kPositions - 1) / kPositions;
    const int blocks = fill.lines * per_line;
    const auto inverse = static_cast<unsigned>(((1 << 20) + per_line - 1) / per_line);
    const int groups = (blocks + kFillBlocks - 1) / kFillBlocks;
    const int batches = groups * ((fill.units + kFillUnits - 1) / kFillUnits);
    const int first = (warp_ + ring_slot * batches) % kWarps;
#pragma unroll 1
    for (int batch = first; batch < batches; batch += kWarps) {
      int group = batch, unit = 0;
      for (; group >= groups; group -= groups) unit += kFillUnits;
      const auto place_of = [&](int block) {
        const int index = group * kFillBlocks + block;
        const int line = static_cast<int>(static_cast<unsigned>(index) * inverse >> 20);
        return Place{line, (index - line * per_line) * kPositions - before, index < blocks};
      };
      const int units = min(fill.units - unit, kFillUnits);
      if (whole)
        load<kElements>(fill, channel_stride, stride_w, unit, units, place_of, line_source);
      else
        load<kElements / 4>(fill, channel_stride, stride_w, unit, units, place_of, line_source);
      copy_async_wait<kDepth - 1>();
      next_slot();
      transpose(pending_[kDepth - 2]);  // the oldest, whose staging memory comes next
#pragma unroll
      for (int age = kDepth - 2; age > 0; --age) pending_[age] = pending_[age - 1];
      const Place place = place_of(lane_ / kPositions);
      const int column = place.column + lane_ % kPositions;
      const bool exists =
          place.exists && static_cast<unsigned>(column) < static_cast<unsigned>(fill.span);
      const int row = exists ? row_of(place.line, column) : -1;
      pending_[0] = {row < 0 ? kNowhere : rows.address(row, unit),
                     empty | parity | static_cast<uint32_t>(units) << kUnitsShift};
    }
  }

  // The box filled since the last call is complete.
  __device__ __forceinline__ void end_box(uint32_t empty, uint32_t parity) {
    // Of boxes filled one after the other, each has a barrier of its own.
    if ((pending_[0].box & (kBarrier | 1)) == (empty | parity)) {
      pending_[0].box |= kLast;
    } else {
      // Not before the box is empty: that would be an arrival for the one before. Waiting needs
      // what is pending to be stored, which others may wait for.
      flush();
      barrier_wait(empty, parity);
      arrive(empty);
    }
  }

  // Stores what has been loaded.
  __device__ __forceinline__ void flush() {
    copy_async_wait<0>();
    next_slot();
#pragma unroll
    for (int age = kDepth - 2; age >= 0; --age) {
      transpose(pending_[age]);
      pending_[age].box = 0;
      next_slot();
    }
  }

 private:
  static constexpr uint32_t kNowhere = ~0u;
  static constexpr int kPositions = 8;
  static constexpr int kElements = 16 / static_cast<int>(sizeof(T));
  struct Place {
    int line, column;
    bool exists;
  };
  // A batch that is on its way to the staging memory. Few registers: what has bits to spare is
  // shared.
  struct Pending {
    uint32_t address;  // of the first unit of this lane's row, or kNowhere
    // Barrier of the box, parity to wait for, kLast for the warp's last in the box, and units from
    // kUnitsShift on: 0, no batch.
    uint32_t box;
  };
  static constexpr uint32_t kLast = 2;
  static constexpr int kUnitsShift = 24;
  static constexpr uint32_t kBarrier = (1u << kUnitsShift) - 8;

  __device__ __forceinline__ void next_slot() {
    slot_ = slot_ == (kDepth - 1) * batch_bytes_ ? 0 : slot_ + batch_bytes_;
  }

  // A 16-byte chunk of a block: eight positions of a channel, or four. Rotated from block to block,
  // so that chunks of neighbouring blocks meet different banks, as those of one block do.
  __device__ __forceinline__ static int chunk_at(int block, int chunk) {
    return block * kFillBlockBytes + (chunk + 2 * block) % 8 * 16;
  }

  // Neighbouring lanes load neighbours along w.
  template <int kRun, typename PlaceOf, typename LineAt>
  __device__ __forceinline__ void load(const FilledLines& fill, int64_t channel_stride,
                                       int stride_w, int unit, int units, const PlaceOf& place_of,
                                       const LineAt& line_source) {
    constexpr int kBytes = kRun * static_cast<int>(sizeof(T));
    constexpr int kPieces = 16 / kBytes;             // of a chunk
    constexpr int kChunks = kPositions / kElements;  // of a channel
    constexpr int kLoads = kElements / kPieces;      // channels at once
    // Found anew each time where registers are too short to keep the places of both kinds of runs.
    int lane = lane_;
    if constexpr (kRun < kElements || sizeof(T) == 4) asm volatile("" : "+r"(lane));
    const int piece = lane % kPieces, half = lane / kPieces % kChunks;
    const int block = lane / (kPieces * kChunks) % kFillBlocks;
    const int first = lane / (kPieces * kChunks * kFillBlocks);  // channel of the unit
    const Place place = place_of(block);
    const int x = fill.x + place.column + half * kElements + piece * kRun;
    const LineSource<T> from = line_source(place.exists ? place.line : 0);
    const bool inside = place.exists && from.inside &&
                        static_cast<unsigned>(x) < static_cast<unsigned>(fill.extent);
    int channel = unit * kElements + first;
    const T* source =
        from.begin + (inside ? (kRun == 1 ? x * stride_w : x) : 0) + channel * channel_stride;
    const int channels = inside ? fill.channels : 0;
    uint32_t target = shared_address(staging_) + slot_ + piece * kBytes;
#pragma unroll 1
    for (int u = 0; u < units; ++u) {
#pragma unroll
      for (int i = 0; i < kPieces; ++i) {
        copy_async<kBytes>(target + chunk_at(block, (first + i * kLoads) * kChunks + half), source,
                           channel < channels);
        source += kLoads * channel_stride;
        channel += kLoads;
      }
      target += kStagedUnitBytes;
    }
    copy_async_commit();
  }

  // A batch that has arrived, at the slot.
  __device__ __forceinline__ void transpose(const Pending& batch) {
    const int units = static_cast<int>(batch.box >> kUnitsShift);
    if (units == 0) return;
    __syncwarp();
    barrier_wait(batch.box & kBarrier, batch.box & 1);
    const int block = lane_ / kPositions, position = lane_ % kPositions;
    const char* const staged = staging_ + slot_;
#pragma unroll
    for (int u = 0; u < kFillUnits; ++u) {
      if (u >= units) break;
      const int unit_at = u * kStagedUnitBytes;
      const bool apart = u >= 2 && box_.width == 2;  // from the first two units
      const uint32_t target =
          (batch.address ^ (apart ? u - 2 : u) << 4) + (apart ? box_.bytes() : 0);
      if constexpr (sizeof(T) == 2) {
        const uint32_t chunk = shared_address(staged) + unit_at + chunk_at(block, position);
        uint32_t matrices[4];
        load_matrix_x4(matrices, chunk);
        // Rows that do not exist are stored where they came from.
        store_matrices_transposed(batch.address != kNowhere ? target : chunk, matrices);
      } else {
        uint32_t words[4];
#pragma unroll
        for (int c = 0; c < 4; ++c)
          words[c] = *reinterpret_cast<const uint32_t*>(
              staged + unit_at + chunk_at(block, 2 * c + position / 4) + position % 4 * 4);
        if (batch.address != kNowhere)
          store_shared(target, {round_to_tf32(words[0]), round_to_tf32(words[1]),
                                round_to_tf32(words[2]), round_to_tf32(words[3])});
      }
    }
    if (batch.box & kLast) arrive(batch.box & kBarrier);
    __syncwarp();  // the staging memory is free
  }

  __device__ __forceinline__ void arrive(uint32_t empty) {
    fence_for_wgmma();
    __syncwarp();
    if (lane_ == 0) barrier_arrive(empty - 8);
  }

  const BoxShape& box_;
  int batch_bytes_;
  char* staging_;
  int lane_, warp_;
  int slot_ = 0;  // in the staging memory, of the next batch to load or to transpose, bytes
  Pending pending_[kDepth - 1] = {};  // newest first
};

// Element by element: neighbouring threads take neighbours along w, and load kUnits units before
// they store any.
template <int kUnits, typename T, typename LineAt, typename RowAt>
__device__ __forceinline__ void fill_elements(const FilledLines& fill, const SwizzledRows& rows,
                                              int64_t channel_stride, int stride_w, int thread,
                                              int threads, const LineAt& line_source,
                                              const RowAt& row_of) {
  using Bits = BitsOf<T>;
  constexpr int kElements = 16 / static_cast<int>(sizeof(T));
  const int line_step = threads / fill.span, column_step = threads % fill.span;
#pragma unroll 1
  for (int unit = 0; unit < fill.units; unit += kUnits) {
    const int channels = fill.channels - unit * kElements;
    int line = thread / fill.span, column = thread % fill.span;
#pragma unroll 1
    while (line < fill.lines) {
      const int x = fill.x + column;
      const LineSource<T> from = line_source(line);
      const bool inside =
          from.inside && static_cast<unsigned>(x) < static_cast<unsigned>(fill.extent);
      const T* source =
          from.begin + (inside ? x * stride_w : 0) + unit * kElements * channel_stride;
      Bits values[kUnits][kElements];
#pragma unroll
      for (int k = 0; k < kUnits; ++k) {
#pragma unroll
        for (int j = 0; j < kElements; ++j) {
          values[k][j] = inside && k * kElements + j < channels
                             ? __ldg(reinterpret_cast<const Bits*>(source))
                             : Bits{0};
          source += channel_stride;
          forget_origin(source);  // else all addresses are computed first
        }
      }
      const int row = row_of(line, column);
      if (row >= 0) {
#pragma unroll
        for (int k = 0; k < kUnits; ++k) {
          if (k > 0 && unit + k >= fill.units) break;
          const Bits* v = values[k];
          uint4 packed;
          if constexpr (sizeof(T) == 4)
            packed = {round_to_tf32(v[0]), round_to_tf32(v[1]), round_to_tf32(v[2]),
                      round_to_tf32(v[3])};
          else
            packed = {
                v[0] | static_cast<uint32_t>(v[1]) << 16, v[2] | static_cast<uint32_t>(v[3]) << 16,
                v[4] | static_cast<uint32_t>(v[5]) << 16, v[6] | static_cast<uint32_t>(v[7]) << 16};
          store_shared(rows.address(row, unit + k), packed);
        }
      }
      line += line_step;
      column += column_step;
      if (column >= fill.span) {
        column -= fill.span;
        ++line;
      }
    }
  }
}

}  // namespace convt3d

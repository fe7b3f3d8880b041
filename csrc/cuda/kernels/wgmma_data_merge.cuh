// Sums of taps that a product had side by side (WgmmaDataPlan::merged_taps) become results.
#pragma once

#include "wgmma_data_tables.cuh"

namespace convt3d {

// Before: sums[block][tap][i] is what that tap and channel make of operand row r, 8 * block + lane
// / 4 of a run. The result of position r adds up rows r + offset(tap), which are in lanes further
// on, or there in the next block. After: sums[block][plane][i] are the results, in the same
// registers.
template <int kPlanes, int kTaps, int kSums, int kBlocks>
__device__ __forceinline__ void merge_taps(const WindowAxis& w,
                                           float (&sums)[kBlocks][kTaps][kSums], int lane) {
  static_assert(kPlanes <= kTaps);
  int from[kTaps], plane[kTaps];
  bool given_to_previous[kTaps];
#pragma unroll
  for (int tap = 0; tap < kTaps; ++tap) {
    const int offset = w.offset[tap];  // at most 7
    from[tap] = (lane + 4 * offset) % 32;
    given_to_previous[tap] = lane / 4 < offset;
    plane[tap] = 0;
#pragma unroll
    for (int p = 1; p < kPlanes; ++p) plane[tap] += w.plane_begin[p] <= tap;
  }
#pragma unroll
  for (int block = 0; block < kBlocks; ++block) {
    // Past the last block are rows that are no positions.
    const int next = block + 1 < kBlocks ? block + 1 : block;
#pragma unroll
    for (int i = 0; i < kSums; ++i) {
      float results[kPlanes] = {};
#pragma unroll
      for (int tap = 0; tap < kTaps; ++tap) {
        const float given = given_to_previous[tap] ? sums[next][tap][i] : sums[block][tap][i];
        const float value = shuffle_sum(given, from[tap]);
#pragma unroll
        for (int p = 0; p < kPlanes; ++p)
          results[p] += kPlanes == 1 || p == plane[tap] ? value : 0.f;
      }
#pragma unroll
      for (int p = 0; p < kPlanes; ++p) sums[block][p][i] = results[p];
    }
  }
}

}  // namespace convt3d

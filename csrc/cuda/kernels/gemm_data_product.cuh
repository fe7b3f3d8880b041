// The products of one warp of the implicit matrix product (gemm_data.cuh), and their sums.
#pragma once

#include "gemm_pack_tables.cuh"
#include "mma.cuh"

namespace convt3d {

template <typename T, int kRowFragments, int kColumnGroups>
struct GemmTile {
  static constexpr int kPartBytes = 2 * 16 * kColumnGroups * kUnitBytes;
  static constexpr int kStepBytes = kHeaderBytes + kWeightParts<T> * kPartBytes;

  using Sum = Accumulator<T>;
  // Rows that a lane addresses of a fragment: one of 16, or (float64) two of the eight of a half.
  static constexpr int kLaneRows = sizeof(T) == 8 ? 2 : 1;

  Sum sum[kRowFragments][2 * kColumnGroups][4];

  __device__ void clear() {
#pragma unroll
    for (auto& row : sum) {
#pragma unroll
      for (auto& column : row) {
#pragma unroll
        for (Sum& value : column) value = 0;
      }
    }
  }

  __device__ void add(const GemmTile& other) {
#pragma unroll
    for (int i = 0; i < kRowFragments; ++i) {
#pragma unroll
      for (int c = 0; c < 2 * kColumnGroups; ++c) {
#pragma unroll
        for (int e = 0; e < 4; ++e) sum[i][c][e] += other.sum[i][c][e];
      }
    }
  }

  // The row of fragment `index / kLaneRows` that this lane addresses.
  static __device__ int lane_row(int index) {
    const int lane = threadIdx.x % 32;
    return index / kLaneRows * 16 + (kLaneRows == 2 ? index % 2 * 8 + lane / 4 : lane % 16);
  }

  // The k-steps of one stage; `rows` are this lane's operand row addresses. kAccurate (float32):
  // three products of TF32 halves for one, else a single one.
  template <bool kAccurate>
  __device__ void multiply_stage(const uint32_t (&rows)[kRowFragments * kLaneRows],
                                 const char* stage) {
    constexpr int kAllGroups = (1 << kColumnGroups) - 1, kWidth = 16 * kColumnGroups;
    const int lane = threadIdx.x % 32;
    // Of this lane: unit of the k-step and place in it; unit, column and place of the weights.
    constexpr bool kDouble = sizeof(T) == 8;
    const int unit = kDouble ? lane % 4 / 2 : lane / 16;
    const int place = kDouble ? lane % 2 * 8 : 0;
    const int weight_unit = kDouble ? unit : lane / 8 % 2;
    const int column = kDouble ? lane / 4 : lane % 8 + lane / 16 * 8;
    int offset[kStageSteps], groups[kStageSteps], all = kAllGroups;
#pragma unroll
    for (int i = 0; i < kStageSteps; ++i) {
      const int4 header = *reinterpret_cast<const int4*>(stage + i * kStepBytes);
      offset[i] = (unit == 0 ? header.x : header.y) + place;
      groups[i] = header.z;
      all &= header.z;
    }
    const uint32_t weights =
        shared_address(stage) + kHeaderBytes + (weight_unit * kWidth + column) * kUnitBytes + place;
    if (all == kAllGroups) {  // the common case, without branches: loads run ahead of products
#pragma unroll
      for (int i = 0; i < kStageSteps; ++i)
        multiply_step<true, kAccurate>(rows, offset[i], weights + i * kStepBytes, kAllGroups);
    } else {
#pragma unroll
      for (int i = 0; i < kStageSteps; ++i) {
        if (groups[i] != 0)
          multiply_step<false, kAccurate>(rows, offset[i], weights + i * kStepBytes, groups[i]);
      }
    }
  }

 private:
  template <bool kAll, bool kAccurate>
  __device__ void multiply_step(const uint32_t (&rows)[kRowFragments * kLaneRows], int offset,
                                uint32_t weights, int groups) {
    if constexpr (sizeof(T) == 8)
      multiply_doubles<kAll>(rows, offset, weights, groups);
    else
      multiply_matrices<kAll, kAccurate>(rows, offset, weights, groups);
  }

  template <bool kAll>
  __device__ void multiply_doubles(const uint32_t (&rows)[kRowFragments * kLaneRows], int offset,
                                   uint32_t weights, int groups) {
    double a[kRowFragments][2];
#pragma unroll
    for (int i = 0; i < kRowFragments; ++i)
#pragma unroll
      for (int half = 0; half < 2; ++half) a[i][half] = load_double(rows[2 * i + half] + offset);
#pragma unroll
    for (int g = 0; g < kColumnGroups; ++g) {
      if (!kAll && (groups >> g & 1) == 0) continue;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const double b = load_double(weights + (g * 16 + half * 8) * kUnitBytes);
#pragma unroll
        for (int i = 0; i < kRowFragments; ++i) multiply_tile(sum[i][2 * g + half], a[i], b);
      }
    }
  }

  template <bool kAll, bool kAccurate>
  __device__ void multiply_matrices(const uint32_t (&rows)[kRowFragments], int offset,
                                    uint32_t weights, int groups) {
    uint32_t a[kRowFragments][4], a_low[kRowFragments][4];
#pragma unroll
    for (int i = 0; i < kRowFragments; ++i) {
      load_matrix_x4(a[i], rows[i] + offset);
      if constexpr (kWeightParts<T> == 2) {
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          const float value = __uint_as_float(a[i][j]);
          a[i][j] = round_to_tf32(a[i][j]);
          if (kAccurate)
            a_low[i][j] = round_to_tf32(__float_as_uint(value - __uint_as_float(a[i][j])));
        }
      }
    }
#pragma unroll
    for (int g = 0; g < kColumnGroups; ++g) {
      if (!kAll && (groups >> g & 1) == 0) continue;
      uint32_t b[4];
      load_matrix_x4(b, weights + g * 16 * kUnitBytes);
      if constexpr (kWeightParts<T> == 2 && kAccurate) {
        uint32_t b_low[4];
        load_matrix_x4(b_low, weights + kPartBytes + g * 16 * kUnitBytes);
#pragma unroll
        for (int i = 0; i < kRowFragments; ++i) {
          multiply_tile<T>(sum[i][2 * g], a_low[i], b[0], b[1]);
          multiply_tile<T>(sum[i][2 * g + 1], a_low[i], b[2], b[3]);
          multiply_tile<T>(sum[i][2 * g], a[i], b_low[0], b_low[1]);
          multiply_tile<T>(sum[i][2 * g + 1], a[i], b_low[2], b_low[3]);
        }
      }
#pragma unroll
      for (int i = 0; i < kRowFragments; ++i) {
        multiply_tile<T>(sum[i][2 * g], a[i], b[0], b[1]);
        multiply_tile<T>(sum[i][2 * g + 1], a[i], b[2], b[3]);
      }
    }
  }
};

}  // namespace convt3d

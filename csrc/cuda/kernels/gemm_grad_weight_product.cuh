// The products of one warp of grad_weight (gemm_grad_weight.cuh), and their sums.
#pragma once

#include "gemm_grad_weight_job.cuh"

namespace convt3d {

constexpr int kStepPositions = 16;
// float32: k-steps that the tensor cores sum up before the sums move on to float32 registers,
// because tensor cores cut the low bits of every sum they carry.
constexpr int kShortSteps = 4;

template <typename T, int kStill, int kMoving, int kTaps>
struct TapTile {
  using Sum = Accumulator<T>;
  Sum sum[kTaps][kStill][kMoving][4];

  __device__ void clear() {
#pragma unroll
    for (auto& tap : sum)
#pragma unroll
      for (auto& row : tap)
#pragma unroll
        for (auto& fragment : row)
#pragma unroll
          for (Sum& value : fragment) value = 0;
  }
  __device__ void add(const TapTile& other) {
#pragma unroll
    for (int t = 0; t < kTaps; ++t)
#pragma unroll
      for (int i = 0; i < kStill; ++i)
#pragma unroll
        for (int j = 0; j < kMoving; ++j)
#pragma unroll
          for (int e = 0; e < 4; ++e) sum[t][i][j][e] += other.sum[t][i][j][e];
  }

  // 16-bit: 16 positions. `still` and `moving` are the addresses of this lane's rows, `offset` the
  // taps' row offsets in bytes.
  __device__ void multiply(uint32_t still, uint32_t moving, const int (&offset)[kTaps]) {
    uint32_t a[kStill][4];
#pragma unroll
    for (int i = 0; i < kStill; ++i) load_matrix_trans_x4(a[i], still + i * 32);
#pragma unroll
    for (int t = 0; t < kTaps; ++t) {
      const uint32_t rows = moving + offset[t];
#pragma unroll
      for (int j = 0; j + 1 < kMoving; j += 2) {
        uint32_t b[4];
        load_matrix_trans_x4(b, rows + j * 16);
#pragma unroll
        for (int i = 0; i < kStill; ++i) {
          multiply_tile<T>(sum[t][i][j], a[i], b[0], b[1]);
          multiply_tile<T>(sum[t][i][j + 1], a[i], b[2], b[3]);
        }
      }
      if constexpr (kMoving % 2 == 1) {
        uint32_t b[2];
        load_matrix_trans_x2(b, rows + (kMoving - 1) * 16);
#pragma unroll
        for (int i = 0; i < kStill; ++i) multiply_tile<T>(sum[t][i][kMoving - 1], a[i], b[0], b[1]);
      }
    }
  }

  // float32: 8 positions; three products of TF32 halves for one (kAccurate), or one. `still` and
  // `moving` point to this lane's rows lane % 4 and lane % 4 + 4, at channel lane / 4.
  template <bool kAccurate>
  __device__ void multiply(const float* (&still)[2], const float* (&moving)[2],
                           const int (&offset)[kTaps]) {
    // A sum of two TF32 values keeps float32's digits; the tensor cores ignore the low half's own
    // low bits.
    const auto split = [](float value, uint32_t& high, uint32_t& low) {
      high = round_to_tf32(__float_as_uint(value));
      if (kAccurate) low = __float_as_uint(value - __uint_as_float(high));
    };
    uint32_t a[kStill][4], a_low[kStill][4];
#pragma unroll
    for (int i = 0; i < kStill; ++i) {
#pragma unroll
      for (int e = 0; e < 4; ++e) split(still[e / 2][i * 16 + e % 2 * 8], a[i][e], a_low[i][e]);
    }
#pragma unroll
    for (int t = 0; t < kTaps; ++t) {
#pragma unroll
      for (int j = 0; j < kMoving; ++j) {
        uint32_t b[2], b_low[2];
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const float* row =
              reinterpret_cast<const float*>(reinterpret_cast<const char*>(moving[e]) + offset[t]);
          split(row[j * 8], b[e], b_low[e]);
        }
#pragma unroll
        for (int i = 0; i < kStill; ++i) {
          if constexpr (kAccurate) {
            multiply_tile<T>(sum[t][i][j], a_low[i], b[0], b[1]);
            multiply_tile<T>(sum[t][i][j], a[i], b_low[0], b_low[1]);
          }
          multiply_tile<T>(sum[t][i][j], a[i], b[0], b[1]);
        }
      }
    }
  }

  // float64: 4 positions. `still` and `moving` point to this lane's row lane % 4, at channel
  // lane / 4.
  __device__ void multiply(const double* still, const double* moving, const int (&offset)[kTaps]) {
    double a[kStill][2];
#pragma unroll
    for (int i = 0; i < kStill; ++i)
#pragma unroll
      for (int half = 0; half < 2; ++half) a[i][half] = still[i * 16 + half * 8];
#pragma unroll
    for (int t = 0; t < kTaps; ++t) {
      const double* row =
          reinterpret_cast<const double*>(reinterpret_cast<const char*>(moving) + offset[t]);
#pragma unroll
      for (int j = 0; j < kMoving; ++j) {
        const double b = row[j * 8];
#pragma unroll
        for (int i = 0; i < kStill; ++i) multiply_tile(sum[t][i][j], a[i], b);
      }
    }
  }
};

template <typename T, bool kAccurate, int kStill, int kMoving, int kTaps>
__device__ void multiply_step(TapTile<T, kStill, kMoving, kTaps>& tile, const char* still,
                              const char* moving, const int* position_rows, int step,
                              int still_pitch, const int (&offset)[kTaps]) {
  const int lane = threadIdx.x % 32;
  if constexpr (sizeof(T) == 2) {
    // Matrices of eight positions by eight channels, in the order of the fragments' registers:
    // channels first for the still operand, positions first for the moving one.
    const int still_position = step * kStepPositions + lane / 16 * 8 + lane % 8;
    const int moving_position = step * kStepPositions + lane % 16;
    tile.multiply(shared_address(still) + still_position * still_pitch + lane / 8 % 2 * 16,
                  shared_address(moving) + position_rows[moving_position] + lane / 16 * 16, offset);
  } else if constexpr (sizeof(T) == 8) {
#pragma unroll
    for (int quarter = 0; quarter < 4; ++quarter) {
      const int position = step * kStepPositions + quarter * 4 + lane % 4;
      tile.multiply(reinterpret_cast<const double*>(still + position * still_pitch) + lane / 4,
                    reinterpret_cast<const double*>(moving + position_rows[position]) + lane / 4,
                    offset);
    }
  } else {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float *a[2], *b[2];
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const int position = step * kStepPositions + half * 8 + e * 4 + lane % 4;
        a[e] = reinterpret_cast<const float*>(still + position * still_pitch) + lane / 4;
        b[e] = reinterpret_cast<const float*>(moving + position_rows[position]) + lane / 4;
      }
      tile.template multiply<kAccurate>(a, b, offset);
    }
  }
}

// Kernels with 168 registers and nearly as many sums (16-bit).
template <int kFragments>
constexpr bool is_full = kFragments > 20 && kFragments <= 27;

// All k-steps of one tile that fall to this warp. kSingle: one product for one, not three of TF32
// values (float32).
template <typename T, bool kSingle, int kStill, int kMoving, int kTaps>
__device__ __forceinline__ void multiply_positions(TapTile<T, kStill, kMoving, kTaps>& tile,
                                                   const GradWeightArguments& args,
                                                   const char* stage, const int* position_rows,
                                                   int position_warp, const int (&offset)[kTaps]) {
  const char* moving = stage + args.sizes.moving_at;
  const int steps = args.sizes.still_rows / kStepPositions, pitch = args.sizes.still_pitch;
  if constexpr (sizeof(T) == 2) {
    // One step of many taps has enough independent products, and two would spill where the
    // registers are capped.
    constexpr bool kCapped = most_warps(false, kStill * kMoving * kTaps) > 8;
    constexpr int kUnroll = kTaps >= 4 || (kCapped && kStill * kMoving * kTaps > 20) ? 1 : 2;
#pragma unroll(kUnroll)
    for (int step = position_warp; step < steps; step += args.position_warps)
      multiply_step<T, true>(tile, stage, moving, position_rows, step, pitch, offset);
  } else if constexpr (kSingle) {
#pragma unroll 1
    for (int step = position_warp; step < steps; step += args.position_warps)
      multiply_step<T, false>(tile, stage, moving, position_rows, step, pitch, offset);
  } else {
    for (int from = position_warp; from < steps; from += kShortSteps * args.position_warps) {
      TapTile<T, kStill, kMoving, kTaps> partial;
      partial.clear();
      const int to = min(steps, from + kShortSteps * args.position_warps);
#pragma unroll 1
      for (int step = from; step < to; step += args.position_warps)
        multiply_step<T, true>(partial, stage, moving, position_rows, step, pitch, offset);
      tile.add(partial);
    }
  }
}

// `shared`: the block's memory, in which no warp reads any more.
template <typename T, int kStill, int kMoving, int kTaps>
__device__ __forceinline__ void store_sums(const TapTile<T, kStill, kMoving, kTaps>& tile,
                                           const GradWeightArguments& args, char* shared) {
  constexpr int kFragments = kTaps * kStill * kMoving;
  // What the block works on is found again: nothing of it may stay in registers while products
  // need them.
  unsigned block = blockIdx.x, thread = threadIdx.x;
  asm volatile("" : "+r"(block), "+r"(thread));
  const int lane = static_cast<int>(thread % 32), warp = static_cast<int>(thread / 32);
  const auto jobs = static_cast<unsigned>(args.sizes.jobs);
  const int job_index = static_cast<int>(block % jobs);
  const int tap_warp = warp % args.tap_warps;
  const int slot = static_cast<int>(block / jobs) * args.position_warps + warp / args.tap_warps;
  using Sums = FragmentSums<T>;
  const auto fragment = [&](int index) {
    const auto& s = tile.sum[index / (kStill * kMoving)][index / kMoving % kStill][index % kMoving];
    return Sums{s[0], s[1], s[2], s[3]};
  };
  if (args.workspace != nullptr) {
    Sums* const partials =
        static_cast<Sums*>(args.workspace) +
        ((slot * args.sizes.jobs + job_index) * args.tap_warps + tap_warp) * (kFragments * 32) +
        lane;
#pragma unroll
    for (int index = 0; index < kFragments; ++index) partials[index * 32] = fragment(index);
    return;
  }
  // Through shared memory, some at a time, so that places are computed in a loop and not for each
  // fragment. A lane reads what it wrote.
  const GradWeightJob job = job_at(args, job_index);
  const int taps = job.taps[0] * job.taps[1] * job.taps[2] - tap_warp * kTaps;
  const int64_t lane_tap = result_of_tap(args, job, tap_warp * kTaps + min(lane, max(taps, 1) - 1));
  Sums* const staged = reinterpret_cast<Sums*>(shared) + warp * kStagedFragments * 32 + lane;
#pragma unroll
  for (int first = 0; first < kFragments; first += kStagedFragments) {
#pragma unroll
    for (int index = first; index < min(first + kStagedFragments, kFragments); ++index)
      staged[(index - first) * 32] = fragment(index);
#pragma unroll 1
    for (int index = first; index < min(first + kStagedFragments, kFragments); ++index) {
      const int t = index / (kStill * kMoving);
      if (t >= taps) return;
      write_fragment<T>(args, __shfl_sync(0xffffffffu, lane_tap, t),
                        (job.still_slice * kStill + index / kMoving % kStill) * 16,
                        (job.moving_slice * kMoving + index % kMoving) * 8,
                        staged[(index - first) * 32]);
    }
  }
}

}  // namespace convt3d

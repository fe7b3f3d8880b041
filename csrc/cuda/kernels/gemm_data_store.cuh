// The result of the implicit matrix product (gemm_data.cuh): sums -> shared -> global.
#pragma once

#include "gemm_data_fill.cuh"
#include "gemm_data_product.cuh"

namespace convt3d {

// Staged as [column][row] for a result whose fastest dimension is w, as [row][column] for
// channels_last.
template <typename T, int kRowFragments, int kColumnGroups>
__device__ void stage_result(const GemmDataArguments& args,
                             const GemmTile<T, kRowFragments, kColumnGroups>& tile,
                             int first_channel, int channels, T* staging) {
  struct alignas(2 * sizeof(T)) Pair {
    T first, second;
  };
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int pitch = args.staging_pitch;
  const int first_row = warp * kRowFragments * 16 + lane / 4;
#pragma unroll
  for (int c = 0; c < 2 * kColumnGroups; ++c) {
    const int column = c * 8 + lane % 4 * 2;
    Accumulator<T> bias[2] = {0, 0};
    if (args.bias.data != nullptr) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const int channel = (column + e) % args.plan.channels_per_tile;
        if (channel < channels)
          bias[e] = Convert<Accumulator<T>>::from(
              static_cast<const T*>(args.bias.data)[(first_channel + channel) * args.bias.stride]);
      }
    }
#pragma unroll
    for (int i = 0; i < kRowFragments; ++i) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int row = first_row + i * 16 + half * 8;
        const Pair pair{Convert<T>::from(tile.sum[i][c][2 * half] + bias[0]),
                        Convert<T>::from(tile.sum[i][c][2 * half + 1] + bias[1])};
        if (args.result_channels_last) {
          *reinterpret_cast<Pair*>(staging + row * pitch + column) = pair;
        } else {
          staging[column * pitch + row] = pair.first;
          staging[(column + 1) * pitch + row] = pair.second;
        }
      }
    }
  }
}

template <typename T>
__device__ void store_result(const GemmDataArguments& args, const ColumnTile& columns,
                             const int (&position)[3], int n, int64_t first_channel, int channels,
                             const T* staging) {
  const GemmDataPlan& plan = args.plan;
  int corner[3];  // first result coordinates of the tile
  T* result = static_cast<T*>(args.result.data) + n * args.result.stride[0] +
              first_channel * args.result.stride[1];
#pragma unroll
  for (int a = 0; a < 3; ++a) {
    corner[a] = result_coordinate(plan.axes[a], position[a], columns.plane[a]);
    result += corner[a] * args.result.stride[2 + a];
  }
  const auto inside = [&](const int4& place) {
    return within(corner[0] + (place.z >> 16), plan.axes[0].result_extent) &&
           within(corner[1] + (place.z & 0xffff), plan.axes[1].result_extent) &&
           within(corner[2] + place.w, plan.axes[2].result_extent);
  };
  const int4* places = reinterpret_cast<const int4*>(args.tables.results);
  if (!args.result_channels_last) {
    // Neighbouring threads write neighbouring results along w; each walks over the channels.
    const int64_t stride = args.result.stride[1];
    for (int at = threadIdx.x; at < args.sizes.places; at += kGemmThreads) {
      const int4 place = __ldg(places + at);
      if (!inside(place)) continue;
      T* destination = result + place.x;
      const T* source = staging + place.y;
#pragma unroll 8
      for (int channel = 0; channel < channels; ++channel) {
        *destination = *source;
        destination += stride;
        source += args.staging_pitch;
      }
    }
    return;
  }
  // Neighbouring threads write neighbouring channels of one position, in 16-byte units if they
  // can be had.
  const bool vectors = channels % kUnitElements<T> == 0 &&
                       plan.channels_per_tile % kUnitElements<T> == 0 && args.result_in_vectors;
  const int lanes = vectors ? channels / kUnitElements<T> : channels;
  const int places_at_once = kGemmThreads / lanes;
  const int lane = threadIdx.x % lanes;
  if (threadIdx.x / lanes >= places_at_once) return;
#pragma unroll 4
  for (int at = threadIdx.x / lanes; at < args.sizes.places; at += places_at_once) {
    const int4 place = __ldg(places + at);
    if (!inside(place)) continue;
    if (vectors) {
      *reinterpret_cast<uint4*>(result + place.x + lane * kUnitElements<T>) =
          *reinterpret_cast<const uint4*>(staging + place.y + lane * kUnitElements<T>);
    } else {
      result[place.x + lane * args.result.stride[1]] = staging[place.y + lane];
    }
  }
}

}  // namespace convt3d

// Forward where results have few channels: every input position times the weight of every output
// channel and tap, then each output gathers what belongs to it (col2im) from shared memory.
//
//   block   persistent: a tile of positions in (h, w) with its halo, walking along d
//   weight  packed into shared memory once, in the order of the fragments
//   input   straight into registers, plane by plane: a warp takes 32 positions and all columns
//   output  a thread owns outputs: taps of one input plane are summed at a time; what planes still
//           to come add to waits in shared memory, which only this thread reads
//
// An output is one fixed sequence of sums: input planes, then taps along h and w.
#pragma once

#include "im2col_fragments.cuh"

namespace convt3d {

// 32 positions and a chunk of channels. Four neighbouring positions of a thread: rows g and g + 8
// of the first fragment, then of the second.
template <typename T, bool kChannelsLast>
struct InputChunk {
  static constexpr int kRun = kRunElements<T>;
  uint32_t words[16];

  // `source`: the thread's first position and channel; `channels` and `positions` are what is there
  // from these on.
  __device__ __forceinline__ void load(const T* source, const Im2colArguments& args, int channels,
                                       int positions) {
    if constexpr (kChannelsLast) {
#pragma unroll
      for (int p = 0; p < 4; ++p)
        load_words<4>(words + 4 * p, source + p * args.input.stride[4],
                      p < positions && channels > 0);
    } else {
      constexpr int kWords = sizeof(T);  // of four positions
#pragma unroll
      for (int c = 0; c < kRun; ++c, source += args.input.stride[1])
        load_words<kWords>(words + kWords * c, source, positions > 0 && c < channels);
    }
  }
  template <bool kAccurate>
  __device__ __forceinline__ LeftFragment<T, kAccurate> fragment(int step, int m) const {
    if constexpr (kChannelsLast) {
      return {words[4 * (2 * m) + 2 * step], words[4 * (2 * m + 1) + 2 * step],
              words[4 * (2 * m) + 2 * step + 1], words[4 * (2 * m + 1) + 2 * step + 1]};
    } else if constexpr (sizeof(T) == 4) {
      return {words[4 * (2 * step) + 2 * m], words[4 * (2 * step) + 2 * m + 1],
              words[4 * (2 * step + 1) + 2 * m], words[4 * (2 * step + 1) + 2 * m + 1]};
    } else {
      const auto word = [&](int c) { return words[2 * (4 * step + c) + m]; };
      return {low_halves(word(0), word(1)), high_halves(word(0), word(1)),
              low_halves(word(2), word(3)), high_halves(word(2), word(3))};
    }
  }
};

// Weights in the order of the fragments: chunk, step, tile of columns, lane.
template <typename T, int kTiles, bool kAccurate>
__device__ void pack_forward_weights(const Im2colArguments& args, char* packed) {
  constexpr int kHalf = kRunElements<T> / 2;  // channels of a thread and step
  const int entries = 2 * args.sizes.depth_chunks * kTiles * 32;
  const T* const weight =
      static_cast<const T*>(args.weight.data) +
      static_cast<int64_t>(blockIdx.y) * args.sizes.channels * args.weight.stride[0];
  for (int entry = threadIdx.x; entry < entries; entry += kIm2colThreads) {
    const int lane = entry % 32, tile = entry / 32 % kTiles, step = entry / 32 / kTiles;
    const int column = tile * 8 + lane / 4;
    const int channel =
        step / 2 * 4 * kRunElements<T> + lane % 4 * kRunElements<T> + step % 2 * kHalf;
    const T* const source = weight + weight_offset(args, column) + channel * args.weight.stride[0];
    const auto bits = [&](int c) {
      return bits_of(source + c * args.weight.stride[0],
                     column < args.sizes.columns && channel + c < args.sizes.channels);
    };
    RightFragment<kAccurate> fragment;
    if constexpr (sizeof(T) == 4)
      fragment.template set<T>(bits(0), bits(1));
    else
      fragment.template set<T>(bits(0) | bits(1) << 16, bits(2) | bits(3) << 16);
    fragment.store(packed + entry * RightFragment<kAccurate>::kBytes);
  }
}

// The products of one plane of the input: `plane` is its first channel of this group.
template <typename T, int kTiles, bool kChannelsLast, bool kAccurate>
__device__ __forceinline__ void multiply_plane(const Im2colArguments& args, const T* plane,
                                               const InputRange& h, const InputRange& w,
                                               const char* weights, float* products) {
  constexpr int kChunk = 4 * kRunElements<T>;
  const WindowAxis &axis_h = args.plan.axes[1], &axis_w = args.plan.axes[2];
  const int lane = threadIdx.x % 32, quads = h.extent() * args.quads_w.value();
  for (int unit = threadIdx.x / 32; unit * 8 < quads; unit += kIm2colWarps) {
    const int quad = unit * 8 + lane / 4;
    int y = quad;
    const int x = w.begin + args.quads_w.take(y) * 4;
    y += h.begin;
    const bool inside = quad < quads && y >= 0 && y < axis_h.operand_extent && x >= 0;
    const int positions = inside ? axis_w.operand_extent - x : 0;
    const T* source = plane + y * args.input.stride[3] + x * args.input.stride[4];
    float sums[kTiles][2][4] = {};
    const int first = lane % 4 * kRunElements<T>;
    source += first * args.input.stride[1];
    // Loaded one chunk ahead, where registers allow.
    constexpr bool kAhead = kChannelsLast || sizeof(T) == 4 || kTiles != 8;
    InputChunk<T, kChannelsLast> chunk;
    if constexpr (kAhead) chunk.load(source, args, args.sizes.channels - first, positions);
    const char* right_at = weights + lane * RightFragment<kAccurate>::kBytes;
#pragma unroll 1
    for (int ahead = kChunk; ahead < args.sizes.channels + kChunk; ahead += kChunk) {
      if constexpr (!kAhead)
        chunk.load(source, args, args.sizes.channels - ahead + kChunk - first, positions);
      const LeftFragment<T, kAccurate> left[2][2] = {
          {chunk.template fragment<kAccurate>(0, 0), chunk.template fragment<kAccurate>(0, 1)},
          {chunk.template fragment<kAccurate>(1, 0), chunk.template fragment<kAccurate>(1, 1)}};
      source += kChunk * args.input.stride[1];
      if (kAhead && ahead < args.sizes.channels)
        chunk.load(source, args, args.sizes.channels - ahead - first, positions);
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
        RightFragment<kAccurate> right[2];
#pragma unroll
        for (int step = 0; step < 2; ++step)
          right[step].load(right_at +
                           (step * kTiles + tile) * 32 * RightFragment<kAccurate>::kBytes);
        multiply_steps<T, kAccurate>(sums[tile], left, right);
      }
      right_at += 2 * kTiles * 32 * RightFragment<kAccurate>::kBytes;
    }
    float* const to = products + (unit * 8 + lane / 4) * 4;
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile)
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const int column = tile * 8 + lane % 4 * 2 + e;
        const auto& sum = sums[tile];
        if (column < args.sizes.columns)
          *reinterpret_cast<float4*>(to + column * args.sizes.column_pitch) =
              make_float4(sum[0][e], sum[0][2 + e], sum[1][e], sum[1][2 + e]);
      }
  }
}

// For each tap along h and w, sorted by plane: what lies between its products and those of tap 0 at
// the first input position that any output of its position reads, in floats.
struct ForwardTables {
  int h[kMostWindowTaps], w[kMostWindowTaps];
};

__device__ inline void write_forward_tables(const Im2colArguments& args, ForwardTables& tables) {
  const int tap = threadIdx.x, pitch = args.sizes.column_pitch;
  const int row_pitch = args.quads_w.value() * 4;
  const WindowAxis &h = args.plan.axes[1], &w = args.plan.axes[2];
  if (tap < h.taps())
    tables.h[tap] = h.tap[tap] * args.plan.kernel[2] * pitch + h.offset[tap] * row_pitch;
  if (tap < w.taps()) tables.w[tap] = w.tap[tap] * pitch + w.offset[tap];
}

// A block's work item, in shared memory because registers are short.
struct ForwardItem {
  Im2colItem place;
  InputRange h, w;                // of the input
  int first_output, last_output;  // along d
  int first_plane, last_plane;    // of the input, possibly outside

  __device__ ForwardItem(const Im2colArguments& args, int index) : place(args, index) {
    const Im2colPlan& plan = args.plan;
    h = input_range(plan.axes[1], place.h, plan.tile_h, 1);
    w = input_range(plan.axes[2], place.w, plan.tile_w, 4);
    first_output = place.d * plan.segment * plan.stride[0];
    last_output = min(first_output + plan.segment * plan.stride[0], plan.axes[0].result_extent);
    // Input plane z meets outputs stride * z - padding and what is touched behind.
    first_plane =
        -floor_div(-(first_output + plan.padding[0] - touched_planes(plan) + 1), plan.stride[0]);
    last_plane = floor_div(last_output - 1 + plan.padding[0], plan.stride[0]);
  }
};

// The outputs that input plane z contributes to: `products` are its own (not read where `inside`
// is false). The ring begins with its first output at `ring_slot`.
template <typename T>
__device__ __forceinline__ void gather_outputs(const Im2colArguments& args, const ForwardItem& item,
                                               int z, bool inside, const float* products,
                                               const ForwardTables& tables, float* ring,
                                               int ring_slot) {
  constexpr int kPlanes = 4;  // taps along d at a time
  const Im2colPlan& plan = args.plan;
  const WindowAxis &h = plan.axes[1], &w = plan.axes[2];
  const int touched = touched_planes(plan), stride_d = plan.stride[0];
  const int plane_products = plan.kernel[1] * plan.kernel[2] * args.sizes.column_pitch;
  const int row_pitch = args.quads_w.value() * 4;
  const int begin = stride_d * z - plan.padding[0];
  // Of the output planes from `begin` on, those of the item; the first ones are complete then, and
  // the input plane before has left sums of some.
  const int first = item.first_output - begin, last = item.last_output - begin;
  const int begun = z == item.first_plane ? 0 : touched - stride_d;
  T* const result = static_cast<T*>(args.output.data) + item.place.n * args.output.stride[0] +
                    static_cast<int64_t>(blockIdx.y) * args.out_channels * args.output.stride[1] +
                    begin * args.output.stride[2];
  const int units = args.sizes.outputs / plan.stride[2];
  // A thread's unit: one channel, all residues along w of one position.
  for (int unit = threadIdx.x; unit < units; unit += kIm2colThreads) {
    int channel, t_w, y = unit;
    if (args.output_channels_last) {
      t_w = args.line.take(y);
      channel = args.out_channel.take(t_w);
    } else {
      t_w = args.line.take(y);
      channel = y;
      y = args.lines.take(channel);
    }
    int t_h = y;
    const int plane_h = args.stride_h.take(t_h);
    t_h += item.place.h;
    t_w += item.place.w;
    const int out_h = t_h * plan.stride[1] + plane_h;
    if (out_h >= h.result_extent) continue;
    const int first_h = h.plane_begin[plane_h], last_h = h.plane_begin[plane_h + 1];
    const float* const own = products + channel * plan.kernel[0] * plane_products +
                             (t_h + h.origin - item.h.begin) * row_pitch + t_w + w.origin -
                             item.w.begin;
    const float bias =
        args.bias.data == nullptr
            ? 0.f
            : Convert<float>::from(static_cast<const T*>(
                  args.bias.data)[(blockIdx.y * args.out_channels + channel) * args.bias.stride]);
    T* const line = result + channel * args.output.stride[1] + out_h * args.output.stride[3];
    for (int plane_w = 0; plane_w < plan.stride[2]; ++plane_w) {
      const int out_w = t_w * plan.stride[2] + plane_w;
      if (out_w >= w.result_extent) break;
      const int first_w = w.plane_begin[plane_w], last_w = w.plane_begin[plane_w + 1];
      T* to = line + out_w * args.output.stride[4];
      float* const kept = ring + plane_w * units + unit;
      float* left = kept + ring_slot * args.sizes.outputs;
      int j = 0;
      // What is known now of the j-th output plane; on to the next.
      const auto finish = [&](float sum) {
        if (j >= first && j < last) {
          if (j < begun) sum += *left;
          if (j < stride_d)
            *to = Convert<T>::from(sum + bias);
          else
            *left = sum;
        }
        ++j;
        to += args.output.stride[2];
        left = ring_slot + j == touched ? kept : left + args.sizes.outputs;
      };
      for (int tap_d = 0; tap_d < plan.kernel[0]; tap_d += kPlanes) {
        float sums[kPlanes] = {};
        if (inside) {
          const float* const planes = own + tap_d * plane_products;
          for (int a = first_h; a < last_h; ++a)
            for (int b = first_w; b < last_w; ++b) {
              const float* const from = planes + tables.h[a] + tables.w[b];
#pragma unroll
              for (int i = 0; i < kPlanes; ++i)
                if (tap_d + i < plan.kernel[0]) sums[i] += from[i * plane_products];
            }
        }
#pragma unroll
        for (int i = 0; i < kPlanes; ++i) {
          if (tap_d + i >= plan.kernel[0]) break;
          finish(sums[i]);
          // Planes between taps, and behind the last one, have none of this input plane's.
          const int next = tap_d + i + 1 < plan.kernel[0] ? j - 1 + plan.dilation[0] : touched;
          while (j < next) finish(0.f);
        }
      }
    }
  }
}

template <typename T, int kTiles, bool kChannelsLast, bool kAccurate>
__global__ void __launch_bounds__(kIm2colThreads, kAccurate ? 1 : 2)
    im2col_forward_kernel(const __grid_constant__ Im2colArguments args) {
  extern __shared__ __align__(16) char shared[];
  const Im2colPlan& plan = args.plan;
  const Im2colSizes& sizes = args.sizes;
  char* const weights = shared;
  float* const products = reinterpret_cast<float*>(shared + sizes.weight_bytes);
  float* const ring = reinterpret_cast<float*>(shared + sizes.weight_bytes + sizes.tile_bytes);
  __shared__ ForwardTables tables;
  write_forward_tables(args, tables);
  pack_forward_weights<T, kTiles, kAccurate>(args, weights);
  __shared__ __align__(8) char item_memory[sizeof(ForwardItem)];
  ForwardItem& item = *reinterpret_cast<ForwardItem*>(item_memory);
  const int touched = touched_planes(plan);
  for (int64_t index = blockIdx.x; index < sizes.items; index += gridDim.x) {
    __syncthreads();  // the item before is done
    if (threadIdx.x == 0) item = ForwardItem(args, static_cast<int>(index));
    __syncthreads();
    int ring_slot = 0;
    for (int z = item.first_plane; z <= item.last_plane; ++z) {
      const bool inside = z >= 0 && z < plan.axes[0].operand_extent;
      if (inside) {
        const T* const plane =
            static_cast<const T*>(args.input.data) + item.place.n * args.input.stride[0] +
            static_cast<int64_t>(blockIdx.y) * sizes.channels * args.input.stride[1] +
            z * args.input.stride[2];
        multiply_plane<T, kTiles, kChannelsLast, kAccurate>(args, plane, item.h, item.w, weights,
                                                            products);
      }
      __syncthreads();
      gather_outputs<T>(args, item, z, inside, products, tables, ring, ring_slot);
      __syncthreads();
      ring_slot += plan.stride[0];
      if (ring_slot >= touched) ring_slot -= touched;
    }
  }
}

}  // namespace convt3d

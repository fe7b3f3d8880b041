// What one thread of the depthwise data kernels does (depthwise_data.cuh). Host-device, no CUDA
// headers: the CPU tests run the threads one after the other.
#pragma once

#include <cstdint>
#include <type_traits>

#include "depthwise_geometry.h"
#include "depthwise_plan.h"
#include "tensors.h"

// The pragma means nothing to the compiler of the host.
#if defined(__CUDA_ARCH__)
#define CONVT3D_UNROLL _Pragma("unroll")
#else
#define CONVT3D_UNROLL
#endif

namespace convt3d {

template <typename T, int kCount>
struct alignas(sizeof(T) * kCount) Elements {
  T at[kCount];
};

// Conversions of a storage type; those of the 16-bit types are in depthwise_data.cuh. A `Quad` is
// four neighbours as they are loaded, in as few registers as they need.
template <typename T>
struct Storage;
template <>
struct Storage<float> {
  using Quad = Elements<float, 4>;
  static CONVT3D_HOST_DEVICE float load(float value) { return value; }
  static CONVT3D_HOST_DEVICE void load(const Quad& quad, float (&values)[4]) {
    for (int i = 0; i < 4; ++i) values[i] = quad.at[i];
  }
  static CONVT3D_HOST_DEVICE float store(float value) { return value; }
  static CONVT3D_HOST_DEVICE Quad store(const float (&values)[4]) {
    return {{values[0], values[1], values[2], values[3]}};
  }
};

// Of `count` neighbours, how many one access of at most 16 bytes moves; `count` is a power of two.
template <typename T>
constexpr int run_length(int count) {
  return count * static_cast<int>(sizeof(T)) > 16 ? 16 / static_cast<int>(sizeof(T)) : count;
}

constexpr int kMostGridDepth = 65535;  // blocks along d, and samples

struct DepthwiseArguments {
  explicit DepthwiseArguments(const std::array<Axis, 3>& axes)
      : depth(axes[0]), height(axes[1]), width(axes[2]) {}

  TapTable<int32_t> depth, height, width;
  ThreadMap map{};
  int batch{};
  int operand_channels{}, result_channels{};  // per group
  int channels{};                             // of the result
  int operand_extent[3]{}, result_extent[3]{};
  int tiles_d{}, tiles_d_per_block{};
  const void* operand{};
  void* result{};
  int64_t operand_stride[5]{}, result_stride[5]{};
  const void* weight{};
  int64_t weight_group_stride{}, weight_operand_stride{}, weight_result_stride{};
  int64_t weight_tap_stride[3]{};
  const void* bias{};
  int64_t bias_stride{};
  // Threads of one channel: whether they read runs of the operand along w in one piece, and how
  // many results they store at once.
  bool load_runs{};
  int store_run{};
};

template <Pass kPass>
CONVT3D_HOST_DEVICE Partners<int32_t> partners_of(const TapTable<int32_t>& table, int position) {
  if constexpr (kPass == Pass::kForward) {
    return partners_of_output(table, position);
  } else {
    return partners_of_input(table, position);
  }
}
template <Pass kPass>
CONVT3D_HOST_DEVICE int tap_step(const TapTable<int32_t>& table) {
  return kPass == Pass::kForward ? table.period : 1;
}
template <Pass kPass>
CONVT3D_HOST_DEVICE int position_step(const TapTable<int32_t>& table) {
  return kPass == Pass::kForward ? -table.shift_step : table.dilation;
}

// Bytes of shared memory that the weights of a slab take.
inline int weight_bytes(const DepthwiseArguments& args, int vector) {
  return args.operand_channels * args.depth.kernel * args.height.kernel * args.width.kernel *
         args.map.lanes * vector * static_cast<int>(sizeof(float));
}

// Whether there is a result where the thread stands; it has `results_w` of them along w.
template <int kVector>
CONVT3D_HOST_DEVICE bool has_work(const DepthwiseArguments& args, const ThreadPlace& place,
                                  int results_w) {
  return place.used && place.vector * kVector < args.channels &&
         place.row_h < args.result_extent[1] && place.tile_w * results_w < args.result_extent[2];
}

// ---- Weights in shared memory ------------------------------------------------------------------
// As float: [operand channel of the group][tap][channel of the slab].
template <typename T, int kVector>
CONVT3D_HOST_DEVICE void fill_weights(const DepthwiseArguments& args, int slab, int kernel_d,
                                      int kernel_h, int kernel_w, unsigned thread, float* weights) {
  const int channels = args.map.lanes * kVector;
  const int rows = kDepthwiseThreads / channels;  // at least 2: lanes are at most 32
  const int row = thread / static_cast<unsigned>(channels), local = thread - row * channels;
  const int channel = slab * channels + local;
  if (row >= rows) return;
  const int taps = kernel_d * kernel_h * kernel_w;
  const int group = channel / args.result_channels;
  const T* source = static_cast<const T*>(args.weight) + group * args.weight_group_stride +
                    (channel - group * args.result_channels) * args.weight_result_stride;
  for (int o = 0; o < args.operand_channels; ++o) {
    for (int tap = row; tap < taps; tap += rows) {
      const int line = tap / kernel_w, kd = line / kernel_h;
      float value = 0.f;
      if (channel < args.channels)
        value = Storage<T>::load(
            source[o * args.weight_operand_stride + kd * args.weight_tap_stride[0] +
                   (line - kd * kernel_h) * args.weight_tap_stride[1] +
                   (tap - line * kernel_w) * args.weight_tap_stride[2]]);
      weights[(o * taps + tap) * channels + local] = value;
    }
  }
}

// kVector neighbouring channels of one tap.
template <int kVector>
CONVT3D_HOST_DEVICE Elements<float, kVector> load_weight(const float* weight) {
#if defined(__CUDA_ARCH__)
  // Volatile, so that the compiler does not keep every tap in registers over a tile.
  Elements<float, kVector> result;
  const auto address = static_cast<unsigned>(__cvta_generic_to_shared(weight));
  if constexpr (kVector == 4) {
    asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];"
                 : "=f"(result.at[0]), "=f"(result.at[1]), "=f"(result.at[2]), "=f"(result.at[3])
                 : "r"(address));
  } else {
    static_assert(kVector == 1);
    asm volatile("ld.shared.f32 %0, [%1];" : "=f"(result.at[0]) : "r"(address));
  }
  return result;
#else
  return *reinterpret_cast<const Elements<float, kVector>*>(weight);
#endif
}

// ---- Operand -----------------------------------------------------------------------------------
// Elements from the operand's channel 0 to the one that a result channel reads.
CONVT3D_HOST_DEVICE inline int64_t operand_channel(const DepthwiseArguments& args, int channel,
                                                   int o) {
  const int group = args.result_channels == 1 ? channel : channel / args.result_channels;
  return (static_cast<int64_t>(group) * args.operand_channels + o) * args.operand_stride[1];
}

// Keeps the compiler from holding every address of a line in registers over all lines.
template <typename T>
CONVT3D_HOST_DEVICE void recompute([[maybe_unused]] const T*& pointer) {
#if defined(__CUDA_ARCH__)
  asm volatile("" : "+l"(pointer));
#endif
}

// A run of operands along w as a thread needs it, not yet converted.
template <typename T, class Tile>
struct OperandLine {
  using Axis = typename Tile::Axis;
  static constexpr int kVector = Tile::kVector, kSpan = Axis::span(Tile::kTileW);
  using Unit = std::conditional_t<kVector == 1, T, typename Storage<T>::Quad>;
  Unit at[kSpan];

  // `line` points at coordinate 0, `first` is the coordinate of at[0]. Zeros outside.
  CONVT3D_HOST_DEVICE void load(const DepthwiseArguments& args, const T* line, int first,
                                bool inside) {
    // No coordinate is below the extent where the whole line lies outside.
    const unsigned extent = inside ? args.operand_extent[2] : 0;
    if constexpr (kVector == 1) {
      if (args.load_runs) return load_runs(line, first, extent);
    }
    line += first * args.operand_stride[4];
    CONVT3D_UNROLL
    for (int j = 0; j < kSpan; ++j) {
      at[j] = Unit{};
      if (static_cast<unsigned>(first + j) < extent) at[j] = *reinterpret_cast<const Unit*>(line);
      line += args.operand_stride[4];
      recompute(line);
    }
  }
  CONVT3D_HOST_DEVICE void convert(int j, float (&values)[kVector]) const {
    if constexpr (kVector == 1) {
      values[0] = Storage<T>::load(at[j]);
    } else {
      Storage<T>::load(at[j], values);
    }
  }

 private:
  // The middle of the line starts on a multiple of its length.
  CONVT3D_HOST_DEVICE void load_runs(const T* line, int first, unsigned extent) {
    constexpr int kMiddle = Axis::kOperandStep * Tile::kTileW, kLeft = -Axis::kOrigin;
    constexpr int kRun = run_length<T>(kMiddle);
    CONVT3D_UNROLL
    for (int j = 0; j < kSpan; ++j) {
      const int x = first + j;
      if (j < kLeft || j >= kLeft + kMiddle) {
        at[j] = static_cast<unsigned>(x) < extent ? line[x] : T{};
      } else if ((j - kLeft) % kRun == 0) {
        Elements<T, kRun> run{};
        if (static_cast<unsigned>(x) < extent)
          run = *reinterpret_cast<const Elements<T, kRun>*>(line + x);
        CONVT3D_UNROLL
        for (int i = 0; i < kRun; ++i)
          if (j + i < kSpan) at[j + i] = run.at[i];
      }
    }
  }
};

// ---- Result ------------------------------------------------------------------------------------
// kCount results along w from `x` on, in runs that lie inside or outside as a whole.
template <int kRun, typename T, int kCount>
CONVT3D_HOST_DEVICE void store_runs(const DepthwiseArguments& args, T* line, int x,
                                    const float (&sum)[kCount][1]) {
  CONVT3D_UNROLL
  for (int j = 0; j < kCount; j += kRun) {
    if (x + j < args.result_extent[2]) {
      Elements<T, kRun> run;
      CONVT3D_UNROLL
      for (int i = 0; i < kRun; ++i) run.at[i] = Storage<T>::store(sum[j + i][0]);
      *reinterpret_cast<Elements<T, kRun>*>(line + x + j) = run;
    }
  }
}

template <typename T, int kVector, int kCount>
CONVT3D_HOST_DEVICE void store_line(const DepthwiseArguments& args, T* line, int x,
                                    const float (&sum)[kCount][kVector]) {
  if constexpr (kVector == 1) {
    constexpr int kMost = run_length<T>(kCount);
    if constexpr (kMost > 1) {
      if (args.store_run == kMost) return store_runs<kMost>(args, line, x, sum);
    }
    if constexpr (kMost > 4) {
      if (args.store_run == 4) return store_runs<4>(args, line, x, sum);
    }
    if constexpr (kMost > 2) {
      if (args.store_run == 2) return store_runs<2>(args, line, x, sum);
    }
  }
  CONVT3D_UNROLL
  for (int j = 0; j < kCount; ++j) {
    if (x + j < args.result_extent[2]) {
      T* target = line + (x + j) * args.result_stride[4];
      if constexpr (kVector == 1) {
        *target = Storage<T>::store(sum[j][0]);
      } else {
        *reinterpret_cast<typename Storage<T>::Quad*>(target) = Storage<T>::store(sum[j]);
      }
    }
  }
}

template <typename T>
CONVT3D_HOST_DEVICE float bias_of(const DepthwiseArguments& args, int channel) {
  if (args.bias == nullptr) return 0.f;
  return Storage<T>::load(static_cast<const T*>(args.bias)[channel * args.bias_stride]);
}

// ---- Threads -----------------------------------------------------------------------------------
// What a thread computes: kTileD x kTileW positions of one line h, with all their residues along d
// and w, of kVector channels.
template <class AxisOfTile, int kTileDOfTile, int kTileWOfTile, int kVectorOfTile>
struct ThreadTile {
  using Axis = AxisOfTile;
  static constexpr int kTileD = kTileDOfTile, kTileW = kTileWOfTile, kVector = kVectorOfTile;

  // Lines of the operand loaded before they are needed, as far as registers allow.
  template <typename T>
  static constexpr int ahead() {
    return sizeof(T) == 2 && (kVector == 1 || Axis::span(kTileW) * kVector < 24) ? 2 : 1;
  }
};

// Taps along d and w are compile-time facts, those along h (`lines`) a loop. A line of the operand
// is read once for all of them, the next ones while it is multiplied.
template <typename T, class Tile>
CONVT3D_HOST_DEVICE void fixed_thread(const DepthwiseArguments& args, const ThreadPlace& place,
                                      const Partners<int32_t>& lines, int tile_d, int n,
                                      const float* weights) {
  using Axis = typename Tile::Axis;
  constexpr int kTileD = Tile::kTileD, kTileW = Tile::kTileW, kVector = Tile::kVector;
  constexpr int kResultsD = Axis::results(kTileD), kResultsW = Axis::results(kTileW);
  constexpr int kLines = Axis::span(kTileD), kKernel = Axis::kKernel;
  constexpr int kAhead = Tile::template ahead<T>();
  const int channel = place.vector * kVector, h = place.row_h;
  const int pitch = args.map.lanes * kVector;
  const int local = channel - place.slab * pitch;

  float sum[kResultsD][kResultsW][kVector];
  CONVT3D_UNROLL
  for (int v = 0; v < kVector; ++v) {
    const float bias = bias_of<T>(args, channel + v);
    CONVT3D_UNROLL
    for (int d = 0; d < kResultsD; ++d) CONVT3D_UNROLL
    for (int w = 0; w < kResultsW; ++w) sum[d][w][v] = bias;
  }

  const int first_d = Axis::kOperandStep * kTileD * tile_d + Axis::kOrigin;
  const int first_w = Axis::kOperandStep * kTileW * place.tile_w + Axis::kOrigin;
  for (int o = 0; o < args.operand_channels; ++o) {
    for (int b = 0; b < lines.count; ++b) {
      const int kh = lines.tap + b * tap_step<Axis::kPass>(args.height);
      const int y = lines.position + b * position_step<Axis::kPass>(args.height);
      const T* line = static_cast<const T*>(args.operand) + n * args.operand_stride[0] +
                      operand_channel(args, channel, o) + y * args.operand_stride[3] +
                      first_d * args.operand_stride[2];
      const float* taps = weights + ((o * kKernel * kKernel + kh) * kKernel) * pitch + local;
      const auto inside = [&](int z) {
        return static_cast<unsigned>(first_d + z) < static_cast<unsigned>(args.operand_extent[0]);
      };
      OperandLine<T, Tile> next[kAhead];
      CONVT3D_UNROLL
      for (int z = 0; z < kAhead && z < kLines; ++z) {
        next[z].load(args, line, first_w, inside(z));
        line += args.operand_stride[2];
      }
      CONVT3D_UNROLL
      for (int z = 0; z < kLines; ++z) {
        float value[Axis::span(kTileW)][kVector];
        CONVT3D_UNROLL
        for (int j = 0; j < Axis::span(kTileW); ++j) next[z % kAhead].convert(j, value[j]);
        if (z + kAhead < kLines) {
          next[z % kAhead].load(args, line, first_w, inside(z + kAhead));
          line += args.operand_stride[2];
        }
        CONVT3D_UNROLL
        for (int kd = 0; kd < kKernel; ++kd) {
          const int steps = z - Axis::offset(kd), td = steps / Axis::kOperandStep;
          if (steps < 0 || steps % Axis::kOperandStep != 0 || td >= kTileD) continue;
          const int d = Axis::kResultStep * td + Axis::plane(kd);
          CONVT3D_UNROLL
          for (int kw = 0; kw < kKernel; ++kw) {
            const auto weight = load_weight<kVector>(taps + (kd * kKernel * kKernel + kw) * pitch);
            CONVT3D_UNROLL
            for (int tw = 0; tw < kTileW; ++tw) CONVT3D_UNROLL
            for (int v = 0; v < kVector; ++v)
              sum[d][Axis::kResultStep * tw + Axis::plane(kw)][v] +=
                  value[Axis::kOperandStep * tw + Axis::offset(kw)][v] * weight.at[v];
          }
        }
      }
    }
  }

  T* result = static_cast<T*>(args.result) + n * args.result_stride[0] +
              channel * args.result_stride[1] + h * args.result_stride[3];
  CONVT3D_UNROLL
  for (int d = 0; d < kResultsD; ++d) {
    const int result_d = kResultsD * tile_d + d;
    if (result_d < args.result_extent[0])
      store_line<T>(args, result + result_d * args.result_stride[2], kResultsW * place.tile_w,
                    sum[d]);
  }
}

// One position, any taps.
template <typename T, Pass kPass, int kVector>
CONVT3D_HOST_DEVICE void any_thread(const DepthwiseArguments& args, const ThreadPlace& place,
                                    const Partners<int32_t>& ph, const Partners<int32_t>& pw, int d,
                                    int n, const float* weights) {
  const int channel = place.vector * kVector, h = place.row_h, w = place.tile_w;
  const int pitch = args.map.lanes * kVector;
  const int local = channel - place.slab * pitch;
  const Partners<int32_t> pd = partners_of<kPass>(args.depth, d);

  float sum[1][kVector];
  CONVT3D_UNROLL
  for (int v = 0; v < kVector; ++v) sum[0][v] = bias_of<T>(args, channel + v);
  for (int o = 0; o < args.operand_channels; ++o) {
    for (int a = 0; a < pd.count; ++a) {
      for (int b = 0; b < ph.count; ++b) {
        const int kd = o * args.depth.kernel + pd.tap + a * tap_step<kPass>(args.depth);
        const int kh = ph.tap + b * tap_step<kPass>(args.height);
        const float* taps =
            weights + ((kd * args.height.kernel + kh) * args.width.kernel + pw.tap) * pitch + local;
        const T* position =
            static_cast<const T*>(args.operand) + n * args.operand_stride[0] +
            operand_channel(args, channel, o) +
            (pd.position + a * position_step<kPass>(args.depth)) * args.operand_stride[2] +
            (ph.position + b * position_step<kPass>(args.height)) * args.operand_stride[3] +
            pw.position * args.operand_stride[4];
        const int64_t step = position_step<kPass>(args.width) * args.operand_stride[4];
        const int tap = tap_step<kPass>(args.width) * pitch;
        for (int c = 0; c < pw.count; ++c) {
          float value[kVector];
          if constexpr (kVector == 1) {
            value[0] = Storage<T>::load(*position);
          } else {
            Storage<T>::load(*reinterpret_cast<const typename Storage<T>::Quad*>(position), value);
          }
          const auto weight = load_weight<kVector>(taps);
          CONVT3D_UNROLL
          for (int v = 0; v < kVector; ++v) sum[0][v] += value[v] * weight.at[v];
          position += step;
          taps += tap;
        }
      }
    }
  }
  store_line<T>(args,
                static_cast<T*>(args.result) + n * args.result_stride[0] +
                    channel * args.result_stride[1] + d * args.result_stride[2] +
                    h * args.result_stride[3],
                w, sum);
}

// ---- Blocks ------------------------------------------------------------------------------------
// Calls `use` with every tile along d and sample of the block (block_y, block_z) of a grid.
template <typename Use>
CONVT3D_HOST_DEVICE void for_each_tile(const DepthwiseArguments& args, int block_y, int block_z,
                                       int samples_at_once, Use&& use) {
  const int first = block_y * args.tiles_d_per_block;
  const int end = first + args.tiles_d_per_block;
  for (int n = block_z; n < args.batch; n += samples_at_once)
    for (int d = first; d < end && d < args.tiles_d; ++d) use(d, n);
}

}  // namespace convt3d

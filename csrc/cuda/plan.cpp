#include "plan.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>
#include <string>
#include <vector>

#include "plan_cache.h"

namespace convt3d {
namespace {

// ---- Cost model, in clocks of one multiprocessor -----------------------------------------------
// Measured or derived rates (H200; other GPUs have other ratios, but the order of the candidates
// is what matters).
constexpr double kSharedBytesPerClock = 128;  // ldmatrix
constexpr double kProductsPerClock = 1800;    // 16-bit multiply-adds through mma.sync
constexpr double kStepOverhead = 24;          // clocks a k-step costs beside its instructions
constexpr double kFillAsyncClocks = 0.9;      // per 16-byte unit: issue and L2
constexpr double kFillHalfSector = 1.6;       // times that where a row is one unit: half a sector
constexpr double kFillElementClocks = 1.2;    // per unit of 8 or 4 separately loaded elements
constexpr double kChunkOverhead = 900;        // clocks to change chunks: barriers, empty ring
constexpr double kStoreVectorClocks = 0.06;   // per element, 16-byte stores
constexpr double kStoreElementClocks = 0.14;  // per element, one by one
constexpr double kSectorElementClocks = 0.5;  // per element in a memory sector of its own
constexpr double kTileOverhead = 700;         // clocks per column tile: pipeline start, barriers
constexpr double kBlockOverhead = 1500;       // clocks to start and drain a block
// A block alone on its multiprocessor waits for memory and barriers most of the time.
constexpr double kAloneFactor = 2.2;

struct Candidate {
  GemmDataPlan plan;
  double clocks = std::numeric_limits<double>::infinity();
};

int64_t count(const GemmDataPlan& plan, int (TileAxis::*field)() const) {
  int64_t product = 1;
  for (const TileAxis& axis : plan.axes) product *= (axis.*field)();
  return product;
}

// k-steps of all column tiles of one group, and how many column groups they multiply.
struct Work {
  double steps = 0;
  double group_steps = 0;
};

Work work_of(const GemmDataPlan& plan, const GemmDataSizes& sizes) {
  Work work;
  const auto& axes = plan.axes;
  for (int d = 0; d < axes[0].plane_blocks(); ++d) {
    for (int h = 0; h < axes[1].plane_blocks(); ++h) {
      for (int w = 0; w < axes[2].plane_blocks(); ++w) {
        const double entries = static_cast<double>(entry_count(axes[0], d * axes[0].plane_block)) *
                               entry_count(axes[1], h * axes[1].plane_block) *
                               entry_count(axes[2], w * axes[2].plane_block);
        work.steps += std::ceil(entries * sizes.units / 2);
      }
    }
  }
  work.steps *= sizes.channel_tiles;
  // Masked groups: a result plane is multiplied only by the entries that have a tap for it. Only
  // whole groups of 16 columns can be skipped.
  double share = 1;
  if (axes[0].pass == Pass::kForward && plan.channels_per_tile >= 16) {
    for (const TileAxis& axis : axes) {
      double taps = 0, slots = 0;
      for (int first = 0; first < axis.planes; first += axis.plane_block) {
        const int entries = entry_count(axis, first);
        for (int e = 0; e < entries; ++e) {
          const Entry entry = entry_at(axis, first, e);
          for (int p = first; p < first + axis.plane_block; ++p) {
            slots += 1;
            taps += tap_of_entry(axis, entry, p) >= 0;
          }
        }
      }
      if (slots > 0) share *= taps / slots;
    }
  }
  work.group_steps = work.steps * plan.column_groups * share;
  return work;
}

double clocks_of(const Problem& problem, DataType type, const GemmDataPlan& plan,
                 const GemmDataSizes& sizes, bool result_channels_last, const Device& device) {
  const int resident = resident_blocks(sizes, device);
  if (resident < 1 || sizes.shared_bytes > device.shared_per_block)
    return std::numeric_limits<double>::infinity();
  const double precision = type == DataType::kFloat32 ? 3 : 1;
  // float64: a quarter of the depth per k-step, and 128 multiply-adds per clock.
  const double product_cost = type == DataType::kFloat64 ? kProductsPerClock / 128 / 4 : precision;
  const double runs = std::ceil(static_cast<double>(sizes.column_tiles) / plan.columns_per_block);
  const double tiles = static_cast<double>(problem.batch) * count(plan, &TileAxis::tiles);
  const double blocks = tiles * problem.groups * runs;

  const Work work = work_of(plan, sizes);
  const double matrix_bytes = 4 * 512;  // one fragment of each of the four warps
  // Eight rows of a fragment share no bank when they are neighbours along w.
  const double conflicts = plan.axes[2].tile % 8 == 0 ? 1 : 1.5;
  const double shared =
      matrix_bytes / kSharedBytesPerClock *
      (work.steps * plan.row_fragments * conflicts + work.group_steps * precision);
  const double products =
      work.group_steps * plan.row_fragments * 4 * 16 * 16 * 16 * product_cost / kProductsPerClock;
  const double multiply = std::max(shared, products) + work.steps * kStepOverhead;

  const bool forward = plan.axes[0].pass == Pass::kForward;
  const double plane_chunks = sizes.chunks / sizes.channel_chunks;
  const double fills = (sizes.chunks > 1 ? sizes.column_tiles : runs) * plane_chunks;
  const double fill =
      fills * count(plan, &TileAxis::operand_rows) * sizes.units *
      (!plan.asynchronous_fill
           ? kFillElementClocks * (forward ? 1 : plan.axes[2].plane_blocks())  // skipped neighbours

       : plan.chunk_units == 1 && sizes.units > 1 ? kFillAsyncClocks * kFillHalfSector
                                                  : kFillAsyncClocks);
  const double elements =
      static_cast<double>(sizes.column_tiles) * sizes.column_width * sizes.block_rows;
  double per_element = kStoreElementClocks;
  if (result_channels_last) {
    if (plan.channels_per_tile % 8 == 0) per_element = kStoreVectorClocks;
  } else if (forward && plan.axes[2].plane_block < plan.axes[2].planes) {
    per_element = kSectorElementClocks;  // every stride-th element of a line
  }
  const double changes = sizes.chunks > 1 ? sizes.chunks * sizes.column_tiles * kChunkOverhead : 0;
  const double clocks = (multiply + fill + changes + elements * per_element) / runs +
                        kTileOverhead * plan.columns_per_block + kBlockOverhead;

  const double together = std::min<double>(resident, std::ceil(blocks / device.multiprocessors));
  const double waves = std::ceil(blocks / (device.multiprocessors * together));
  return waves * std::max(together, kAloneFactor) * clocks;
}

// ---- Candidates --------------------------------------------------------------------------------
int round_up(int value, int multiple) { return (value + multiple - 1) / multiple * multiple; }

// Splits `channels` evenly over as few tiles of at most `most` channels as possible.
int even_slice(int channels, int most) {
  const int tiles = (channels + most - 1) / most;
  const int slice = (channels + tiles - 1) / tiles;
  return std::min(round_up(slice, 8), most) >= slice ? std::min(round_up(slice, 8), most) : slice;
}

// Whether all planes of a block have a tap at each of its entries.
bool is_uniform(const TileAxis& axis) {
  for (int first = 0; first < axis.planes; first += axis.plane_block) {
    const int entries = entry_count(axis, first);
    for (int e = 0; e < entries; ++e) {
      const Entry entry = entry_at(axis, first, e);
      for (int p = first; p < first + axis.plane_block && p < axis.planes; ++p)
        if (tap_of_entry(axis, entry, p) < 0) return false;
    }
  }
  return true;
}

// Ways to form column tiles and plane blocks. Planes merge along w first: there they share lines
// of the result (forward) or of the operand (grad_input).
std::vector<GemmDataPlan> column_candidates(const GemmDataPlan& base, int result_channels) {
  std::vector<GemmDataPlan> candidates;
  for (int merged = 0; merged <= 3; ++merged) {
    GemmDataPlan plan = base;
    int planes = 1;
    for (int a = 0; a < 3; ++a) {
      plan.axes[a].plane_block = a >= 3 - merged ? plan.axes[a].planes : 1;
      planes *= plan.axes[a].result_block();
    }
    if (merged > 0 && plan.axes[3 - merged].planes == 1) continue;  // nothing new
    for (int groups = 1; groups <= 4; ++groups) {
      if (planes > 16 * groups) continue;
      plan.channels_per_tile = even_slice(result_channels, 16 * groups / planes);
      plan.column_groups = (plan.channels_per_tile * planes + 15) / 16;
      // A plane without a tap at an entry must be skipped, which only whole groups of columns can
      // be: a weight of zero would spread operands that are not finite.
      bool skippable = plan.channels_per_tile % 16 == 0;
      if (!skippable && planes > 1)
        skippable = std::all_of(std::begin(plan.axes), std::end(plan.axes), is_uniform);
      if (plan.column_groups == groups && (planes == 1 || skippable)) candidates.push_back(plan);
    }
  }
  return candidates;
}

// Tile edges: powers of two, and the whole extent where it is short.
std::vector<int> edges(int positions, int most) {
  std::vector<int> result;
  for (int edge = 1; edge < positions && edge <= most; edge *= 2) result.push_back(edge);
  if (positions <= most) result.push_back(positions);
  // Even splits of the extent, which leave no ragged last tile.
  for (int parts = 2; parts <= 4; ++parts) {
    const int edge = (positions + parts - 1) / parts;
    if (edge <= most && edge > 4) result.push_back(edge);
  }
  return result;
}

Alternatives<GemmDataPlan>::Kind kind_of(const GemmDataPlan& plan) {
  const auto& axes = plan.axes;
  return {plan.row_fragments,  plan.column_groups,  plan.channels_per_tile,
          axes[0].plane_block, axes[1].plane_block, axes[2].plane_block};
}

// `ordered`: prescribes what decides the order of a result's sums, the planes that are worked on
// together and the chunks.
Candidate search(const Problem& problem, Pass pass, DataType type, bool fast_operand,
                 bool result_channels_last, const Device& device, const GemmDataPlan* ordered,
                 Alternatives<GemmDataPlan>* alternatives) {
  const bool forward = pass == Pass::kForward;
  const int result_channels = static_cast<int>(forward ? problem.out_channels_per_group()
                                                       : problem.in_channels_per_group());
  GemmDataPlan base{};
  for (int a = 0; a < 3; ++a) base.axes[a] = tile_axis(pass, problem.axes[a]);
  base.asynchronous_fill = fast_operand;
  Candidate best;
  const auto consider = [&](GemmDataPlan plan) {
    plan.chunk_units = 1;
    plan.columns_per_block = 1;
    const int units = gemm_data_sizes(problem, pass, type, plan).units;
    for (int chunks = 1; chunks <= units; chunks *= 2) {
      plan.chunk_units = (units + chunks - 1) / chunks;
      if (ordered != nullptr && plan.chunk_units != ordered->chunk_units) continue;
      GemmDataSizes sizes = gemm_data_sizes(problem, pass, type, plan);
      if (sizes.shared_bytes > device.shared_per_block) continue;
      for (int columns = sizes.column_tiles, tried = 0; columns != tried;
           columns = (columns + 1) / 2) {
        tried = plan.columns_per_block = columns;
        const double cost = clocks_of(problem, type, plan, sizes, result_channels_last, device);
        if (cost < best.clocks) best = {plan, cost};
        if (alternatives != nullptr) alternatives->offer(kind_of(plan), plan, cost);
      }
    }
  };
  const auto in_order = [&](const GemmDataPlan& plan) {
    for (int a = 0; a < 3 && ordered != nullptr; ++a)
      if (plan.axes[a].plane_block != ordered->axes[a].plane_block) return false;
    return true;
  };
  for (GemmDataPlan& columns : column_candidates(base, result_channels)) {
    if (!in_order(columns)) continue;
    for (int fragments : {2, 4}) {
      if (fragments == 4 && element_bytes(type) > 2) continue;  // no registers for it
      GemmDataPlan plan = columns;
      plan.row_fragments = fragments;
      const int rows = 64 * fragments;
      for (int w : edges(plan.axes[2].positions, rows)) {
        for (int h : edges(plan.axes[1].positions, rows / w)) {
          for (int d : edges(plan.axes[0].positions, rows / w / h)) {
            // Tiles that leave most of the rows empty are never the best.
            if (w * h * d * 4 < rows && w * h * d < plan.axes[0].positions *
                                                        plan.axes[1].positions *
                                                        plan.axes[2].positions)
              continue;
            plan.axes[0].tile = d;
            plan.axes[1].tile = h;
            plan.axes[2].tile = w;
            consider(plan);
          }
        }
      }
    }
  }
  return best;
}

}  // namespace

int resident_blocks(const GemmDataSizes& sizes, const Device& device) {
  return device.shared_per_multiprocessor / (sizes.shared_bytes + 1024);
}

// 16 bytes, 4 or an element.
static int shorter_run(int run) { return run > 2 ? run / 4 : 1; }

int run_of_extent(int64_t extent, int elements) {
  int run = elements;
  while (extent % run != 0) run = shorter_run(run);
  return run;
}

int run_of(const TensorPointer& tensor, int elements) {
  if (tensor.stride[4] != 1) return 1;
  const int element = 16 / elements;
  const auto fits = [&](int run) {
    bool result = reinterpret_cast<uintptr_t>(tensor.data) % (run * element) == 0;
    for (int dim = 0; dim < 4; ++dim) result = result && tensor.stride[dim] % run == 0;
    return result;
  };
  int run = elements;
  while (!fits(run)) run = shorter_run(run);
  return run;
}

bool loads_in_lines(const TensorPointer& tensor, const std::array<int64_t, 3>& extents,
                    DataType type) {
  constexpr int64_t kUnitBytes = 16;
  const int64_t bytes = element_bytes(type);
  const auto& [stride_n, stride_c, stride_d, stride_h, stride_w] = tensor.stride;
  const int64_t plane = extents[1] * extents[2];
  // Coordinates reach a box beyond either end.
  constexpr int64_t kMost = std::numeric_limits<int>::max() - (1 << 16);
  return reinterpret_cast<uintptr_t>(tensor.data) % kUnitBytes == 0 && stride_w == 1 &&
         stride_h == extents[2] && stride_d == plane && plane * extents[0] <= kMost &&
         stride_c * bytes % kUnitBytes == 0 && stride_n * bytes % kUnitBytes == 0;
}

const char* wgmma_refusal(DataType type, bool allow_tf32, const Device& device) {
  if (!device.has_wgmma) return "the GPU or this build has no WGMMA (sm_90a)";
  if (type == DataType::kFloat32)
    return allow_tf32 ? nullptr : "its float32 products are TF32, which is not allowed";
  return type == DataType::kFloat16 || type == DataType::kBFloat16
             ? nullptr
             : "WGMMA has no products of this dtype";
}

bool fits_data_kernels(const Problem& problem) {
  constexpr int64_t limit = 1 << 24;
  bool fits = problem.in_channels < limit && problem.out_channels < limit &&
              problem.batch < limit && problem.groups < 16384;
  int64_t positions = problem.batch, taps = 1;
  for (const Axis& axis : problem.axes) {
    fits = fits && axis.input < limit && axis.output < limit && axis.stride <= kMostPlaneBlocks &&
           axis.dilation < limit / axis.kernel && axis.padding < limit && axis.kernel <= 1024;
    positions *= std::max(axis.input, axis.output);
    taps *= axis.kernel;
  }
  return fits && positions < (int64_t{1} << 36) && taps <= 65536;
}

double elements_of(const Sizes& size) {
  double elements = 1;
  for (int64_t extent : size) elements *= static_cast<double>(extent);
  return elements;
}

TensorPointer dense_tensor(const Sizes& size, bool channels_last) {
  TensorPointer pointer{};
  const Sizes strides = dense_strides(size, channels_last);
  std::copy_backward(strides.begin(), strides.end(), pointer.stride.end());
  return pointer;
}

Planned<GemmDataPlan> plan_gemm_data(const Problem& problem, Pass pass, DataType type,
                                     const TensorPointer& operand, const TensorPointer& result,
                                     const Device& device,
                                     Alternatives<GemmDataPlan>* alternatives) {
  if (!is_real_floating(type)) return Refusal{"tensor cores have no products of this dtype"};
  if (!fits_data_kernels(problem)) return Refusal{"its sizes exceed what the kernel counts"};
  if (problem.groups > 1 && problem.in_channels_per_group() < 4 &&
      problem.out_channels_per_group() < 4)
    return Refusal{"nearly all of a 16-column tile would be padding"};

  const int64_t operand_channels =
      pass == Pass::kForward ? problem.in_channels_per_group() : problem.out_channels_per_group();
  const bool fast_operand = loads_in_vectors(operand, operand_channels, type);
  const bool channels_last = result.stride[1] < result.stride[4];
  static PlanCache<GemmDataPlan> cache;
  const PlanKey key(
      problem, {static_cast<int64_t>(pass), static_cast<int64_t>(type), fast_operand, channels_last,
                device.multiprocessors, device.shared_per_block, device.shared_per_multiprocessor});
  const auto find = [&]() -> Planned<GemmDataPlan> {
    // The order of a result's sums must not depend on the batch: that of a typical one.
    Problem typical = problem;
    typical.batch = 16;
    const Candidate order =
        search(typical, pass, type, fast_operand, channels_last, device, nullptr, nullptr);
    if (!std::isfinite(order.clocks)) return Refusal{"no tile fits into shared memory"};
    const Candidate best =
        search(problem, pass, type, fast_operand, channels_last, device, &order.plan, alternatives);
    return {best.plan, best.clocks};
  };
  const Planned<GemmDataPlan> planned = alternatives ? find() : cache.find(key, find);
  if (planned && !tile_offsets_fit(*planned, operand, result))
    return Refusal{"the strides within a tile exceed 32 bits"};
  return planned;
}

}  // namespace convt3d

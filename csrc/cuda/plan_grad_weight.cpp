#include "plan_grad_weight.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <vector>

#include "plan_cache.h"

namespace convt3d {
namespace {

// Partial sums may take this much memory (the documented workspace).
constexpr int64_t kMostWorkspace = int64_t{64} << 20;
// Coordinates inside a tile are packed into 10, 10 and 12 bits.
constexpr int kMostExtent = 1020, kMostExtentW = 4080;
constexpr int kStaticShared = 128;  // the kernel's own, beside what depends on the plan
constexpr int kRegistersPerMultiprocessor = 65536;
constexpr int kThreadsPerMultiprocessor = 2048;

// ---- Cost model, in clocks of one multiprocessor -----------------------------------------------
// Fitted to 900 measured plans of the public shapes (H200, bfloat16); other GPUs have other ratios,
// but the order of the candidates is what matters.
constexpr double kFragmentClocks = 1.7;  // one 16 x 8 fragment, 32 bytes deep, through mma.sync
constexpr double kSharedBytesPerClock = 100;
constexpr double kDoubleFragmentClocks = 16;  // float64, 16 positions deep
constexpr double kNarrowTile = 1.3;           // bank conflicts of tiles less than 8 positions wide
constexpr double kIssuesPerClock = 4;
constexpr double kItemClocks = 0.2;    // a row, or a position of a vector, whatever its channels
constexpr double kAsyncClocks = 0.65;  // 16 bytes from L2: 25 bytes per clock
constexpr double kQuadClocks = 1.05;   // the same, element by element, in ever narrower loads
constexpr double kPairClocks = 2.5;
constexpr double kElementClocks = 1.95;
// Fewer threads than these leave the memory's latency open.
constexpr double kElementThreads = 290, kAsyncThreads = 210;
constexpr double kTileClocks = 650;     // two barriers, the tile's coordinates, ramps
constexpr double kBlockClocks = 10000;  // start, tables, storing
// Share of the shorter phase, filling or multiplying, that hides in the longer.
constexpr double kOverlapOfWarps = 0.85;  // warps that do nothing but fill
constexpr double kOverlapOfStages = 0.2;
constexpr double kOverlapOfBlocks = 0.3;
constexpr double kWarpsForFullRate = 8;
constexpr double kSumKernelClocks = 16000;  // another launch
constexpr double kSumBytesPerClock = 2000;  // of the whole GPU
constexpr double kStoresPerClock = 90;      // scattered weights, of the whole GPU

struct Candidate {
  GemmGradWeightPlan plan;
  double clocks = std::numeric_limits<double>::infinity();
};

// The fill that tiles of this width allow: vectors must start at the same place in every tile.
TileFill fill_for(TileFill widest, int advance, bool several_tiles) {
  if (!several_tiles || advance % vector_of(widest) == 0) return widest;
  return widest == TileFill::kQuads && advance % 2 == 0 ? TileFill::kPairs : TileFill::kElements;
}

double fill_clocks(TileFill fill, int items, int channels, DataType type) {
  const int per_unit = 16 / element_bytes(type);
  const double units = (channels + per_unit - 1) / per_unit;
  const double unit = fill == TileFill::kAsync   ? kAsyncClocks
                      : fill == TileFill::kQuads ? kQuadClocks
                      : fill == TileFill::kPairs ? kPairClocks
                                                 : kElementClocks;
  return items * vector_of(fill) * (units * unit + kItemClocks);
}

constexpr double kNever = std::numeric_limits<double>::infinity();

// Chooses the split and returns the clocks of the whole pass; kNever where they cannot be less
// than clocks_to_beat.
double choose_split(const Problem& problem, DataType type, const Device& device,
                    double clocks_to_beat, GemmGradWeightPlan& plan) {
  plan.splits = 1;
  const GemmGradWeightSizes sizes = gemm_grad_weight_sizes(problem, type, plan);
  if (sizes.shared_bytes + kStaticShared > device.shared_per_block) return kNever;
  const bool single = type == DataType::kFloat32;
  const int fragments = plan.still_fragments * plan.moving_fragments * plan.taps;
  const int multiplying = plan.tap_warps * plan.position_warps;
  const int warps = plan.warp_roles ? 12 : multiplying;
  const int resident = resident_blocks(type, plan, sizes, device);
  if (resident < 1) return kNever;

  const double warp_steps = sizes.still_rows / 16.0 * plan.tap_warps;
  const double loads = plan.still_fragments * 512.0 + plan.taps * plan.moving_fragments * 256.0;
  const double products = warp_steps * fragments * (single ? 6 : 1);
  const double tensor =
      products * (type == DataType::kFloat64 ? kDoubleFragmentClocks : kFragmentClocks);
  const double shared = warp_steps * loads * element_bytes(type) / 2 / kSharedBytesPerClock *
                        (plan.axes[2].tile < 8 ? kNarrowTile : 1);
  // float32: a load, a rounding and a subtraction per register and half.
  const double issues =
      single ? (products + warp_steps * loads / 128 * 2 * 3) / kIssuesPerClock : 0;
  const double compute = std::max({tensor, shared, issues});
  const double fill = fill_clocks(plan.still_fill, sizes.still_items,
                                  std::min(sizes.still_channels, 16 * plan.still_fragments), type) +
                      fill_clocks(plan.moving_fill, sizes.moving_items,
                                  std::min(sizes.moving_channels, 8 * plan.moving_fragments), type);

  const bool async = plan.still_fill == TileFill::kAsync && plan.moving_fill == TileFill::kAsync;
  const double all_tiles = static_cast<double>(sizes.jobs) * sizes.tiles / device.multiprocessors;
  if (all_tiles * (std::max(compute, fill) + kTileClocks / resident) >= clocks_to_beat)
    return kNever;

  int64_t weights = problem.in_channels * problem.out_channels_per_group();
  for (const Axis& axis : problem.axes) weights *= axis.kernel;
  double best = kNever;
  int best_splits = 1;
  for (double waves : {0.0, 0.5, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0}) {
    const auto wanted =
        static_cast<int64_t>(waves * device.multiprocessors * resident / sizes.jobs);
    int64_t splits = std::clamp<int64_t>(wanted, 1, std::max<int64_t>(sizes.tiles, 1));
    const int64_t slot_bytes = sizes.jobs * plan.tap_warps * fragments * fragment_bytes(type);
    if (splits * plan.position_warps > 1)
      splits = std::min(splits, kMostWorkspace / (slot_bytes * plan.position_warps));
    if (splits < 1) continue;
    const int64_t tiles_per_split = (sizes.tiles + splits - 1) / splits;
    splits = std::max<int64_t>((sizes.tiles + tiles_per_split - 1) / tiles_per_split, 1);
    const double blocks_each =
        std::ceil(static_cast<double>(sizes.jobs * splits) / device.multiprocessors);
    const double together = std::min<double>(resident, blocks_each);
    const double busy =
        compute * std::pow(std::max(1.0, kWarpsForFullRate / (together * multiplying)), 0.6);
    const double fill_threads = together * 32 * (plan.warp_roles ? 4 : warps);
    const double filling =
        fill *
        std::pow(std::max(1.0, (async ? kAsyncThreads : kElementThreads) / fill_threads), 0.7);
    const double overlap = plan.warp_roles   ? kOverlapOfWarps
                           : plan.stages > 1 ? kOverlapOfStages
                           : together > 1    ? kOverlapOfBlocks
                                             : 0;
    const double tile =
        std::max(busy, filling) + std::min(busy, filling) * (1 - overlap) + kTileClocks / together;
    double clocks = blocks_each * (tiles_per_split * tile + kBlockClocks / together) +
                    weights / kStoresPerClock;
    if (splits * plan.position_warps > 1)
      clocks +=
          kSumKernelClocks + 2.0 * splits * plan.position_warps * slot_bytes / kSumBytesPerClock;
    if (clocks < best) {
      best = clocks;
      best_splits = static_cast<int>(splits);
    }
  }
  plan.splits = best_splits;
  return best;
}

// ---- Candidates --------------------------------------------------------------------------------
struct Tile {
  int edge[3];
  double waste;  // positions of all tiles, in whole k-steps, over positions
};

// Tiles of 64 to kMostPositions positions: edges are powers of two, or the whole extent where it
// is short. Rows of a tile stay 8 wide where they can, for the banks and for coalescing.
std::vector<Tile> tiles_of(const ContractionAxis (&axes)[3]) {
  constexpr int kMostPositions = 512, kLeastPositions = 64;
  const auto edges = [](int extent, int least) {
    std::vector<int> result;
    for (int edge = 1; edge < extent && edge <= kMostPositions; edge *= 2)
      if (edge >= least) result.push_back(edge);
    if (extent <= kMostPositions) result.push_back(extent);
    return result;
  };
  std::vector<Tile> tiles;
  double least_waste = kNever;
  for (int w : edges(axes[2].still_extent, 8)) {
    for (int h : edges(axes[1].still_extent, 1)) {
      for (int d : edges(axes[0].still_extent, 1)) {
        if (w * h > kMostPositions || w * h * d > kMostPositions) continue;
        const bool whole =
            w == axes[2].still_extent && h == axes[1].still_extent && d == axes[0].still_extent;
        if (w * h * d < kLeastPositions && !whole) continue;
        Tile tile{{d, h, w}, (w * h * d + 15) / 16 * 16.0 / (w * h * d)};
        for (int a = 0; a < 3; ++a)
          tile.waste *= static_cast<double>((axes[a].still_extent + tile.edge[a] - 1) /
                                            tile.edge[a] * tile.edge[a]) /
                        axes[a].still_extent;
        least_waste = std::min(least_waste, tile.waste);
        tiles.push_back(tile);
      }
    }
  }
  constexpr double kMuchWaste = 1.3;
  std::erase_if(tiles, [&](const Tile& tile) { return tile.waste > kMuchWaste * least_waste; });
  return tiles;
}

// Sizes of groups of taps: even splits of the kernel.
std::vector<int> groups_of(int kernel) {
  std::vector<int> result;
  for (int parts = 1; parts <= kernel; ++parts) {
    const int group = (kernel + parts - 1) / parts;
    if (group <= 8 * kGradWeightWarps && (result.empty() || result.back() != group))
      result.push_back(group);
  }
  return result;
}

struct Search {
  const Problem& problem;
  DataType type;
  const Device& device;
  bool warp_roles;
  TileFill still_fill, moving_fill;
  Alternatives<GemmGradWeightPlan>* alternatives;
  Candidate best;

  std::vector<Tile> tiles;

  static Alternatives<GemmGradWeightPlan>::Kind kind_of(const GemmGradWeightPlan& plan) {
    return {plan.mirrored,  plan.still_fragments, plan.moving_fragments,
            plan.tap_warps, plan.position_warps,  plan.warp_roles};
  }

  void consider_tiles(GemmGradWeightPlan plan) {
    ContractionAxis &d = plan.axes[0], &h = plan.axes[1], &w = plan.axes[2];
    const bool role_kernel =
        warp_roles &&
        fits_warp_roles(type == DataType::kFloat32, plan.still_fragments, plan.moving_fragments);
    for (const Tile& tile : tiles) {
      for (int a = 0; a < 3; ++a) plan.axes[a].tile = tile.edge[a];
      if (d.extent_of_tile() > kMostExtent || h.extent_of_tile() > kMostExtent ||
          w.extent_of_tile() > kMostExtentW)
        continue;
      plan.still_fill = fill_for(still_fill, w.tile, w.tiles() > 1);
      plan.moving_fill = fill_for(moving_fill, w.tile * w.stride, w.tiles() > 1);
      const bool async =
          plan.still_fill == TileFill::kAsync && plan.moving_fill == TileFill::kAsync;
      const auto consider = [&](int stages, bool warp_roles) {
        GemmGradWeightPlan candidate = plan;
        candidate.stages = stages;
        candidate.warp_roles = warp_roles;
        const double to_beat =
            alternatives != nullptr ? alternatives->clocks_of(kind_of(candidate)) : best.clocks;
        const double clocks = choose_split(problem, type, device, to_beat, candidate);
        if (clocks < best.clocks) best = {candidate, clocks};
        if (alternatives != nullptr) alternatives->offer(kind_of(candidate), candidate, clocks);
      };
      if (role_kernel && plan.tap_warps * plan.position_warps <= 8) consider(2, true);
      if (async) consider(2, false);
      consider(1, false);
    }
  }

  void consider_taps(GemmGradWeightPlan plan) {
    for (int group_d : groups_of(plan.axes[0].kernel)) {
      for (int group_h : groups_of(plan.axes[1].kernel)) {
        for (int group_w : groups_of(plan.axes[2].kernel)) {
          const int box = group_d * group_h * group_w;
          plan.tap_warps = (box + plan.taps - 1) / plan.taps;
          const int fragments = plan.still_fragments * plan.moving_fragments * plan.taps;
          const int warps = most_warps(element_bytes(type) > 2, fragments);
          if (plan.tap_warps > warps) continue;
          // Boxes that leave many of the warps' taps empty are never the best.
          if (box * 4 < plan.tap_warps * plan.taps * 3 && plan.tap_warps > 1) continue;
          set_group(plan.axes[0], group_d);
          set_group(plan.axes[1], group_h);
          set_group(plan.axes[2], group_w);
          for (plan.position_warps = 1; plan.position_warps * plan.tap_warps <= warps;
               plan.position_warps *= 2) {
            if (plan.position_warps * plan.tap_warps >= 3) consider_tiles(plan);
          }
        }
      }
    }
  }

  void consider_channels(bool mirrored) {
    GemmGradWeightPlan plan{};
    plan.mirrored = mirrored;
    for (int a = 0; a < 3; ++a) plan.axes[a] = contraction_axis(problem.axes[a], mirrored);
    tiles = tiles_of(plan.axes);
    const auto in = static_cast<int>(problem.in_channels_per_group());
    const auto out = static_cast<int>(problem.out_channels_per_group());
    const int still = mirrored ? out : in, moving = mirrored ? in : out;
    for (int still_fragments : {4, 3, 2, 1}) {
      if (16 * (still_fragments - 1) >= still) continue;
      for (int moving_fragments : {8, 4, 3, 2, 1}) {
        const int smaller = moving_fragments == 8 ? 4 : moving_fragments - 1;
        if (8 * smaller >= moving) continue;
        plan.still_fragments = still_fragments;
        plan.moving_fragments = moving_fragments;
        plan.taps = taps_per_warp(element_bytes(type) > 2, still_fragments, moving_fragments);
        if (plan.taps > 0) consider_taps(plan);
      }
    }
  }
};

// What the tensor-core kernel counts in 32 bits must fit.
bool fits_gemm(const Problem& problem) {
  constexpr int64_t limit = 1 << 24;
  bool fits = problem.batch > 0 && problem.batch < limit && problem.in_channels < limit &&
              problem.out_channels < limit;
  int64_t weights = problem.in_channels * problem.out_channels_per_group();
  for (const Axis& axis : problem.axes) {
    fits = fits && axis.input < limit && axis.output < limit && axis.stride <= kMostExtent &&
           axis.dilation < limit / axis.kernel && axis.padding < limit && axis.kernel <= 1024;
    weights *= axis.kernel;
  }
  return fits && weights < (int64_t{1} << 31);
}

}  // namespace

int resident_blocks(DataType type, const GemmGradWeightPlan& plan, const GemmGradWeightSizes& sizes,
                    const Device& device) {
  const bool wide = element_bytes(type) > 2;
  const int fragments = plan.still_fragments * plan.moving_fragments * plan.taps;
  const int warps = plan.warp_roles ? 12 : plan.tap_warps * plan.position_warps;
  // What the compiler was seen to use: bounded by the block, else sums and working set.
  const int working_set = (fragments * (wide ? 8 : 4) + 112 + 7) / 8 * 8;
  const int most_registers = plan.warp_roles          ? 168
                             : wide || fragments > 27 ? 255
                             : fragments == 24        ? 184
                                                      : 168;
  const int registers = std::min(working_set, most_registers);
  return std::min({device.shared_per_multiprocessor / (sizes.shared_bytes + kStaticShared + 1024),
                   kRegistersPerMultiprocessor / (registers * 32 * warps),
                   kThreadsPerMultiprocessor / (32 * warps)});
}

Planned<GemmGradWeightPlan> plan_gemm_grad_weight(const Problem& problem, DataType type,
                                                  const TensorPointer& grad_output,
                                                  const TensorPointer& input, const Device& device,
                                                  Alternatives<GemmGradWeightPlan>* alternatives) {
  if (!is_real_floating(type)) return Refusal{"tensor cores have no products of this dtype"};
  if (!fits_gemm(problem)) return Refusal{"its sizes exceed what the kernel counts"};
  if (problem.in_channels_per_group() < 4 && problem.out_channels_per_group() < 4)
    return Refusal{"nearly all of a 16 x 8 fragment would be padding"};

  const auto fill_of = [&](const TensorPointer& tensor, int64_t channels, int64_t Axis::* extent) {
    const std::array<int64_t, 5> size{problem.batch, channels, problem.axes[0].*extent,
                                      problem.axes[1].*extent, problem.axes[2].*extent};
    return widest_fill(tensor, size, channels / problem.groups, type);
  };
  const TileFill grad_output_fill = fill_of(grad_output, problem.out_channels, &Axis::output);
  const TileFill input_fill = fill_of(input, problem.in_channels, &Axis::input);
  const bool warp_roles = device.has_wgmma;  // register pools came with the same GPU
  static PlanCache<GemmGradWeightPlan> cache;
  const PlanKey key(problem, {static_cast<int64_t>(type), static_cast<int64_t>(grad_output_fill),
                              static_cast<int64_t>(input_fill), warp_roles, device.multiprocessors,
                              device.shared_per_block, device.shared_per_multiprocessor});
  const auto find = [&]() -> Planned<GemmGradWeightPlan> {
    Search search{problem,          type,         device, warp_roles, input_fill,
                  grad_output_fill, alternatives, {},     {}};
    search.consider_channels(false);
    const bool unit_stride = std::all_of(problem.axes.begin(), problem.axes.end(),
                                         [](const Axis& axis) { return axis.stride == 1; });
    if (unit_stride) {
      std::swap(search.still_fill, search.moving_fill);
      search.consider_channels(true);
    }
    if (!std::isfinite(search.best.clocks)) return Refusal{"no tile fits into shared memory"};
    return {search.best.plan, search.best.clocks};
  };
  const Planned<GemmGradWeightPlan> planned = alternatives ? find() : cache.find(key, find);
  if (planned && !grad_weight_offsets_fit(*planned, type, grad_output, input))
    return Refusal{"the strides within a tile exceed 32 bits"};
  return planned;
}

}  // namespace convt3d

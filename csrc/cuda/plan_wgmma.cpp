#include "plan_wgmma.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "kernels/wgmma_shapes.h"
#include "plan_cache.h"
#include "plan_wgmma_cost.h"

namespace convt3d {
namespace {

// Typical ones, for what must not depend on the batch.
constexpr int64_t kLargeBatch = 16, kSmallBatch = 2;

// Samples whose positions in (h, w), with what lies between them, fit so many rows.
int images_in_rows(const WgmmaDataPlan& plan, int rows) {
  const WindowAxis &h = plan.axes[1], &w = plan.axes[2];
  if (h.positions > rows || w.positions > rows || h.span(h.positions) > kMostBoxLines ||
      w.span(w.positions) > kMostBoxLines)
    return 0;
  const BoxShape box = box_shape(h, w, h.positions, w.positions, 2, 2);
  const int last = box.row_of({0, h.positions - 1, w.positions - 1});
  return last < rows ? (rows - 1 - last) / box.sample_rows + 1 : 0;
}

// Whether an instance has all taps along w side by side: of one column tile of channels, read no
// further away than the eight rows of a lane, and not more than half of the rows of a run, which
// are no positions.
bool can_merge(const WindowAxis& h, const WindowAxis& w, const WgmmaShape& shape,
               int64_t result_channels) {
  const int64_t padded = (result_channels + 7) / 8 * 8;
  if (shape.h_planes > 1 && (shape.h_planes != h.planes || !meets_once(h) || !meets_once(w)))
    return false;
  return shape.merged_taps == shape.h_planes * w.taps() && shape.w_planes == w.planes &&
         w.operand_step == 1 && w.window <= 8 && w.window - 1 <= 4 * shape.blocks &&
         shape.columns == padded;
}

// Neighbours that one load can take of a plane of depth whose lines follow each other; 0: they do
// not.
int run_of_planes(const TensorPointer& operand, const WgmmaDataPlan& plan) {
  if (operand.stride[4] != 1 || operand.stride[3] != plan.axes[2].operand_extent) return 0;
  TensorPointer planes = operand;
  planes.stride[3] = 0;  // begins nowhere
  return run_of(planes, plan.unit_elements);
}

// ---- Candidates --------------------------------------------------------------------------------
struct Search {
  const Problem& problem;
  Pass pass;
  bool result_channels_last;
  int most_samples;
  int planes_run;  // plan.fill_run where whole planes are read; 0: they do not lie in one piece
  const Device& device;
  Alternatives<WgmmaDataPlan>* alternatives;
  WgmmaDataPlan best{};
  double clocks = std::numeric_limits<double>::infinity();

  WgmmaDataSizes sizes_of(const WgmmaDataPlan& plan) const {
    return wgmma_data_sizes(problem, pass, result_channels_last, plan);
  }

  // What warps fill boxes by: the fewest blocks of eight positions, or the longest runs.
  void choose_lines(WgmmaDataPlan& plan) const {
    const WindowAxis &h = plan.axes[1], &w = plan.axes[2];
    plan.fill_by = FillBy::kBoxLines;
    const bool reaches = w.origin < w.operand_extent && w.origin + w.span(plan.tile_w) > 0;
    if (plan.fill_run == 0 || plan.tile_w < w.positions || !reaches) return;
    plan.fill_by = FillBy::kTensorLines;
    if (planes_run == 0 || plan.tile_h < h.positions) return;
    const WgmmaDataSizes sizes = sizes_of(plan);
    const int64_t per_line = (((w.origin + sizes.lines.x) & 7) + sizes.lines.span + 7) / 8;
    const int64_t per_plane = (int64_t{h.operand_extent} * w.operand_extent + 7) / 8;
    const int64_t blocks = plan.samples * per_plane;
    constexpr int64_t kMost = 1 << 20;  // that TransposedFill tells the lines of blocks for
    if (blocks * per_plane >= kMost ||
        (planes_run <= plan.fill_run && blocks > sizes.lines.count * per_line))
      return;
    plan.fill_by = FillBy::kPlanes;
    plan.fill_run = planes_run;
  }

  // Weight stages of several short parts, for fewer barriers.
  void divide_memory(WgmmaDataPlan plan) {
    plan.segment = plan.axes[0].positions;
    plan.column_parts = plan.box_slots = plan.weight_slots = plan.stage_parts = 1;
    choose_lines(plan);
    constexpr double kLongStageClocks = 400;
    for (plan.stage_parts = 1; plan.stage_parts <= 4; plan.stage_parts *= 2) {
      divide_memory_of_stages(plan);
      if (2 * plan.stage_parts * part_clocks(plan) >= kLongStageClocks) break;
    }
  }

  // Divides shared memory between boxes and weights, then compares.
  void divide_memory_of_stages(WgmmaDataPlan plan) {
    const WindowAxis& d = plan.axes[0];
    const WgmmaDataSizes sizes = sizes_of(plan);
    // What the copy engine brings at once is at most 256 long; rounds are counted in 16 bits.
    if (sizes.box.lines > kMostBoxLines || sizes.box.span_w > 256 ||
        int64_t{sizes.chunks} * d.taps() > std::numeric_limits<int16_t>::max() ||
        sizes.column_tiles > 256 || sizes.channel_tiles > 256 ||
        sizes.shared_bytes > device.shared_per_block)
      return;
    constexpr int kSlack = 512;  // barriers and alignment
    const int room =
        device.shared_per_block - sizes.shared_bytes + sizes.box_bytes + sizes.stage_bytes - kSlack;
    // Chunks of channels take boxes one after the other, of a single one all of a window stay.
    const bool stay = sizes.chunks == 1;
    const int most_boxes = stay ? d.window + 2 * std::min(d.window, d.operand_step) : 3 * d.window;
    const int least_boxes = stay ? d.window : 2;
    constexpr int kLeastStages = 3, kMostStages = 16;
    for (int boxes = most_boxes; boxes >= least_boxes; --boxes) {
      const int left = room - boxes * sizes.box_bytes;
      if (left < kLeastStages * sizes.stage_bytes) continue;
      plan.box_slots = boxes;
      const int stages = left / sizes.stage_bytes;
      const bool all = problem.groups == 1 && sizes.stages <= stages;
      if (all) {
        plan.weight_slots = static_cast<int>(sizes.stages);
        if (plan.weight_slots + boxes > 220) continue;
        distribute(plan);
      }
      plan.weight_slots = std::min({stages, kMostStages});
      if (all && plan.weight_slots >= sizes.stages) continue;
      distribute(plan);
    }
  }

  // Splits the work so that the multiprocessors finish together.
  void distribute(WgmmaDataPlan plan) {
    const int positions = plan.axes[0].positions;
    const WgmmaDataSizes whole = sizes_of(plan);
    constexpr int kMostParts = 64;
    const int columns = whole.column_tiles;
    int tried = 0;
    for (int each = columns; each >= 1; each -= (each + 3) / 4) {  // column tiles per part
      const int parts = (columns + each - 1) / each;
      // Column tiles of planes without taps are no work.
      if (parts > kMostParts || (parts > 1 && (whole.resident || whole.empty_planes))) break;
      if (parts == std::exchange(tried, parts)) continue;
      plan.column_parts = parts;
      plan.segment = positions;
      const WgmmaDataSizes sizes = sizes_of(plan);
      if (sizes.shared_bytes > device.shared_per_block) continue;
      const ItemClocks item = item_clocks(plan, sizes, result_channels_last);
      for (int cuts = 1; cuts <= positions; cuts += (cuts + 3) / 4) {
        plan.segment = (positions + cuts - 1) / cuts;
        const int segments = (positions + plan.segment - 1) / plan.segment;
        // The kernel counts work items, and the boxes of one.
        constexpr int64_t kMost = std::numeric_limits<int>::max();
        const int64_t boxes = int64_t{plan.segment} * each * sizes.chunks * plan.axes[0].window;
        if (sizes.items * segments > kMost || boxes > kMost) continue;
        const double cost =
            clocks_of(item, plan.segment, sizes.items * segments, device.multiprocessors);
        if (cost < clocks) {
          clocks = cost;
          best = plan;
          best.clocks = cost;
        }
        if (alternatives != nullptr)
          alternatives->offer({plan.columns, plan.w_planes, plan.blocks, plan.merged_taps,
                               plan.warpgroups, plan.flattened ? 0 : plan.beside, plan.fill_run},
                              plan, cost);
      }
    }
  }

  void tiles(WgmmaDataPlan plan) {
    const WindowAxis &h = plan.axes[1], &w = plan.axes[2];
    const int run_rows = wgmma_run_rows(plan), rows = wgmma_runs(plan) * run_rows;
    plan.flattened = false;
    plan.samples = 1;
    // Of equal predictions, the tile with the longest lines.
    for (plan.beside = plan.warpgroups; plan.beside >= 1; --plan.beside) {
      if (plan.warpgroups % plan.beside != 0) continue;
      plan.tile_h = 8 * (plan.warpgroups / plan.beside);
      plan.tile_w = plan.beside * run_rows;
      divide_memory(plan);
    }
    plan.flattened = true;
    plan.beside = 1;
    for (int splits = 1; splits <= 4; ++splits) {
      plan.tile_w = (w.positions + splits - 1) / splits;
      const int pitch = w.halo(plan.tile_w);
      if (plan.tile_w > rows) continue;
      const int most_h = std::min((rows - plan.tile_w) / pitch + 1, h.positions);
      // Even tiles along h.
      const int tiles = (h.positions + most_h - 1) / most_h;
      plan.tile_h = (h.positions + tiles - 1) / tiles;
      divide_memory(plan);
    }
    // Whole images of several samples, as many in each tile.
    const int64_t most = std::min(images_in_rows(plan, rows), most_samples);
    if (most < 2) return;
    plan.tile_h = h.positions;
    plan.tile_w = w.positions;
    for (int64_t groups = (problem.batch + most - 1) / most; groups < problem.batch;
         groups += (groups + 3) / 4) {
      const int samples = static_cast<int>((problem.batch + groups - 1) / groups);
      if (samples < most / 4) break;
      if (samples == std::exchange(plan.samples, samples)) continue;
      divide_memory(plan);
    }
  }
};

// The best plan for a problem, whatever it costs. `axes` may prescribe the order of the sums: chunk
// and stage, and which taps are merged.
std::optional<WgmmaDataPlan> search_plan(const Problem& problem, const WgmmaDataPlan& axes,
                                         Pass pass, bool channels_last, bool vectors, int run,
                                         int planes_run, int most_samples, const Device& device,
                                         Alternatives<WgmmaDataPlan>* alternatives = nullptr) {
  const bool forward = pass == Pass::kForward;
  const int64_t operand_channels =
      forward ? problem.in_channels_per_group() : problem.out_channels_per_group();
  const int64_t result_channels =
      forward ? problem.out_channels_per_group() : problem.in_channels_per_group();
  const int unit = axes.unit_elements;
  const int units = static_cast<int>((operand_channels + unit - 1) / unit);
  WgmmaDataPlan base = axes;
  Search search{problem, pass, channels_last, most_samples, planes_run, device, alternatives};
  const auto consider_chunk = [&](int chunk_units, int stage_units) {
    base.chunk_units = chunk_units;
    base.stage_units = stage_units;
    // The copy engine would read the next group's channels where a chunk is not full.
    const bool by_tensor =
        vectors && (problem.groups == 1 || operand_channels % (unit * base.chunk_units) == 0);
    base.fill_run = by_tensor ? 0 : run;
    const auto consider = [&](const WgmmaShape& shape) {
      const bool prescribed = axes.chunk_units != 0;
      if (!exists(shape, unit) || (prescribed && shape.merged_taps != axes.merged_taps)) return;
      if (shape.warpgroups > 2 && !by_tensor) return;
      if (shape.merged_taps > 0) {
        if (!can_merge(base.axes[1], base.axes[2], shape, result_channels)) return;
      } else {
        const bool all = shape.w_planes == base.axes[2].planes;
        if (!all && !(channels_last && shape.w_planes == 1)) return;
        if (shape.columns > 16 && shape.columns / 2 >= result_channels) return;
      }
      WgmmaDataPlan plan = base;
      plan.columns = shape.columns;
      plan.w_planes = shape.w_planes;
      plan.merges_h = shape.h_planes > 1;
      if (plan.merges_h) plan.axes[1] = one_tap_axis(plan.axes[1]);
      plan.merged_taps = shape.merged_taps;
      plan.blocks = shape.blocks;
      plan.warpgroups = shape.warpgroups;
      search.tiles(plan);
    };
    if (channels_last)
      for (const WgmmaShape& shape : kWgmmaShapesChannelsLast) consider(shape);
    else
      for (const WgmmaShape& shape : kWgmmaShapesContiguous) consider(shape);
  };
  if (axes.chunk_units != 0) {
    consider_chunk(axes.chunk_units, axes.stage_units);
  } else {
    // The fewest chunks that fit, and a few more: smaller boxes may allow larger tiles. Small
    // images take more: of several samples, whose boxes grow with the tile.
    const bool small = axes.axes[1].positions * axes.axes[2].positions < 64;
    const int more = small ? 15 : 3;
    int tried = 0;
    for (int chunks = 1, last = units; chunks <= last; ++chunks) {
      const int chunk = (units + chunks - 1) / chunks;
      // Two, four, six or eight units a stage: padding costs, and so do short stages.
      double least = std::numeric_limits<double>::infinity();
      int chunk_units = 0, stage_units = 0;
      for (const auto& [stage, overhead] : {std::pair{8, 1.}, {6, 1.02}, {4, 1.1}, {2, 1.3}}) {
        const int padded = (chunk + stage - 1) / stage * stage;
        if (padded * overhead >= least) continue;
        least = padded * overhead;
        chunk_units = padded;
        stage_units = stage;
      }
      if (chunk_units == std::exchange(tried, chunk_units)) continue;
      consider_chunk(chunk_units, stage_units);
      if (last == units && std::isfinite(search.clocks)) last = std::min(units, chunks + more);
    }
  }
  if (!std::isfinite(search.clocks)) return std::nullopt;
  return search.best;
}

// A plan with nothing but the order of the sums of another.
WgmmaDataPlan ordered_as(WgmmaDataPlan base, const WgmmaDataPlan& plan) {
  base.chunk_units = plan.chunk_units;
  base.stage_units = plan.stage_units;
  base.merged_taps = plan.merged_taps;
  return base;
}

// Why the portable kernel (gemm_data) is faster; nullptr: it is not, as far as predictions tell.
const char* drawback_of(const Problem& problem, Pass pass, DataType type, bool vectors,
                        bool channels_last, const WgmmaDataPlan& plan, const Device& device) {
  if (channels_last && plan.fill_run != 0 && problem.groups > 1)
    return "the copy engine cannot tell these groups' channels apart";
  // For tensors that depend on nothing but the plan's key: what runs must not depend on the calls
  // before.
  const bool forward = pass == Pass::kForward;
  const TensorPointer operand =
      dense_tensor(forward ? problem.input_size() : problem.output_size(), vectors);
  const TensorPointer result =
      dense_tensor(forward ? problem.output_size() : problem.input_size(), channels_last);
  const auto portable = plan_gemm_data(problem, pass, type, operand, result, device);
  // What it took on an H200 was 0.64 to 1.7 times its prediction, with a channels-last operand read
  // in elements 2.7 times.
  const double taken = channels_last && !vectors ? 2.7 : 1.65;
  return portable && portable.clocks() * taken < plan.clocks
             ? "the portable kernel is predicted faster"
             : nullptr;
}

}  // namespace

Planned<WgmmaDataPlan> plan_wgmma_data(const Problem& problem, Pass pass, DataType type,
                                       const TensorPointer& operand, const TensorPointer& result,
                                       bool allow_tf32, const Device& device, bool even_if_slow,
                                       Alternatives<WgmmaDataPlan>* alternatives) {
  if (const char* reason = wgmma_refusal(type, allow_tf32, device)) return Refusal{reason};
  const bool is_float32 = type == DataType::kFloat32;
  const int64_t operand_channels =
      pass == Pass::kForward ? problem.in_channels_per_group() : problem.out_channels_per_group();
  const bool channels_last = result.stride[1] < result.stride[4];
  constexpr int64_t kMostGroups = 65535;  // a dimension of the packing kernel's grid
  if (!fits_data_kernels(problem) || problem.groups > kMostGroups)
    return Refusal{"its sizes exceed what the kernel counts"};
  WgmmaDataPlan base{};
  base.unit_elements = is_float32 ? 4 : 8;
  for (int a = 0; a < 3; ++a) {
    const std::optional<WindowAxis> axis = window_axis(pass, problem.axes[a]);
    if (!axis) return Refusal{"a kernel above 16 or a stride above 8 exceeds its tables"};
    base.axes[a] = *axis;
  }
  // Offsets within one plane of depth, of the samples of a tile, are 32-bit. Rings are tried for
  // windows of up to 64 boxes.
  constexpr int64_t kMost = std::numeric_limits<int>::max(), kSlack = 512;
  const auto plane = [&base](const TensorPointer& tensor, int WindowAxis::* extent) {
    return (base.axes[1].*extent + kSlack) * tensor.stride[3] +
           (base.axes[2].*extent + kSlack) * tensor.stride[4];
  };
  if (plane(operand, &WindowAxis::operand_extent) > kMost ||
      plane(result, &WindowAxis::result_extent) > kMost || base.axes[0].window > 64)
    return Refusal{"a plane of depth or the window along the depth exceeds what it counts"};
  int most_samples = kMostTileSamples;
  for (const int64_t left : {(kMost - plane(operand, &WindowAxis::operand_extent)) /
                                 std::max<int64_t>(operand.stride[0], 1),
                             (kMost - plane(result, &WindowAxis::result_extent)) /
                                 std::max<int64_t>(result.stride[0], 1)})
    most_samples = static_cast<int>(std::min<int64_t>(most_samples, left + 1));
  const bool vectors = loads_in_vectors(operand, operand_channels, type);
  // Whatever the batch and the memory: the order of the sums follows from it.
  const int typical_run =
      channels_last ? 1 : run_of_extent(base.axes[2].operand_extent, base.unit_elements);
  const int run = std::min(typical_run, run_of(operand, base.unit_elements));
  const int typical_planes_run =
      channels_last
          ? 0
          : run_of_extent(int64_t{base.axes[1].operand_extent} * base.axes[2].operand_extent,
                          base.unit_elements);
  const int planes_run = std::min(typical_planes_run, run_of_planes(operand, base));
  static PlanCache<WgmmaDataPlan> cache;
  const PlanKey key(
      problem, {static_cast<int64_t>(pass), channels_last, vectors, device.multiprocessors,
                device.shared_per_block, static_cast<int64_t>(type), even_if_slow, most_samples,
                run, planes_run});
  const auto find = [&]() -> Planned<WgmmaDataPlan> {
    // Which kernel runs must not depend on the batch: ask for a typical one.
    const auto of_batch = [&](const WgmmaDataPlan& order, int64_t batch) {
      Problem typical = problem;
      typical.batch = batch;
      return search_plan(typical, order, pass, channels_last, vectors, typical_run,
                         typical_planes_run, kMostTileSamples, device);
    };
    const auto large = of_batch(base, kLargeBatch), small = of_batch(base, kSmallBatch);
    constexpr Refusal kNoTile{
        "it has no instance with all residues along w, or none whose tile fits into shared memory"};
    if (!large || !small) return kNoTile;
    if (!even_if_slow) {
      Problem typical = problem;
      typical.batch = kLargeBatch;
      if (const char* drawback =
              drawback_of(typical, pass, type, vectors, channels_last, *large, device))
        return Refusal{drawback};
    }
    // Nor must the order of the sums: whichever costs the other batch less.
    const WgmmaDataPlan of_large = ordered_as(base, *large), of_small = ordered_as(base, *small);
    const auto small_as_large = of_batch(of_large, kSmallBatch),
               large_as_small = of_batch(of_small, kLargeBatch);
    const auto loss = [](const auto& plan, const auto& best) {
      return plan ? plan->clocks / best->clocks : std::numeric_limits<double>::infinity();
    };
    const WgmmaDataPlan& ordered =
        loss(small_as_large, small) <= loss(large_as_small, large) ? of_large : of_small;
    const auto plan = search_plan(problem, ordered, pass, channels_last, vectors, run, planes_run,
                                  most_samples, device, alternatives);
    if (!plan) return kNoTile;
    return {*plan, plan->clocks};
  };
  return alternatives ? find() : cache.find(key, find);
}

}  // namespace convt3d

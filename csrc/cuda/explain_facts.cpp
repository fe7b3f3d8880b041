#include "explain_facts.h"

#include <algorithm>
#include <array>
#include <cstdio>

#include "plan_gathered_grad_weight.h"
#include "plan_grad_weight.h"

namespace convt3d {
namespace {

std::string text_of(bool value) { return value ? "true" : "false"; }
std::string text_of(int64_t value) { return std::to_string(value); }
std::string text_of(int value) { return std::to_string(value); }
std::string text_of(const char* value) { return quoted(value); }
std::string text_of(double value) {
  char buffer[32];
  std::snprintf(buffer, sizeof(buffer), "%.10g", value);
  return buffer;
}
std::string text_of(OperandFill fill) {
  switch (fill) {
    case OperandFill::kCopyEngine:
      return quoted("copy engine");
    case OperandFill::kLines:
      return quoted("lines");
    case OperandFill::kElements:
      break;
  }
  return quoted("elements");
}
std::string text_of(const std::array<int, 3>& values) {
  return '[' + text_of(values[0]) + ", " + text_of(values[1]) + ", " + text_of(values[2]) + ']';
}

class Facts {
 public:
  template <typename Value>
  Facts& add(const char* name, const Value& value) {
    text_ += (text_.empty() ? "" : ", ") + quoted(name) + ": " + text_of(value);
    return *this;
  }
  std::string text() const { return '{' + text_ + '}'; }

 private:
  std::string text_;
};

// All begin alike. items: pieces of work; blocks: of threads, in the grid; waves: rounds that a
// multiprocessor, or one of the blocks that it runs together, goes through.
Facts common_facts(double clocks, const std::array<int, 3>& tile, int64_t items, int64_t blocks,
                   int64_t places, int stages, int chunks, int splits) {
  Facts facts;
  facts.add("clocks", clocks)
      .add("tile", tile)
      .add("items", items)
      .add("blocks", blocks)
      .add("waves", (items + places - 1) / places)
      .add("stages", stages)
      .add("chunks", chunks)
      .add("splits", splits);
  return facts;
}

const char* name_of(TileFill fill) {
  switch (fill) {
    case TileFill::kAsync:
      return "async";
    case TileFill::kQuads:
      return "quads";
    case TileFill::kPairs:
      return "pairs";
    case TileFill::kElements:
      return "elements";
  }
  return "";
}

const char* name_of(GatherFill fill) {
  return fill == GatherFill::kCopyEngine   ? "copy engine"
         : fill == GatherFill::kShifted    ? "copy engine, shifted copies"
         : fill == GatherFill::kTransposed ? "copy engine, transposed"
                                           : "elements";
}

}  // namespace

std::string quoted(const char* text) { return '"' + std::string(text) + '"'; }
std::string list_of(const std::vector<std::string>& items) {
  std::string text;
  for (const std::string& item : items) text += (text.empty() ? "" : ", ") + item;
  return '[' + text + ']';
}

Pass pass_of(const PlanRequest& request) {
  return request.kind == Operator::kForward ? Pass::kForward : Pass::kGradInput;
}
Im2colPass im2col_pass_of(const PlanRequest& request) {
  return request.kind == Operator::kForward     ? Im2colPass::kForward
         : request.kind == Operator::kGradInput ? Im2colPass::kGradInput
                                                : Im2colPass::kGradWeight;
}

std::string facts_of(const PlanRequest& request, bool result_channels_last,
                     const WgmmaDataPlan& plan) {
  const WgmmaDataSizes sizes =
      wgmma_data_sizes(request.problem, pass_of(request), result_channels_last, plan);
  const int64_t places = request.device.multiprocessors;
  return common_facts(plan.clocks, {plan.segment, plan.tile_h, plan.tile_w}, sizes.items,
                      std::min(sizes.items, places), places, plan.weight_slots, sizes.chunks, 1)
      .add("columns", plan.columns)
      .add("w_planes", plan.w_planes)
      .add("h_planes", wgmma_h_planes(plan))
      .add("merged_taps", plan.merged_taps)
      .add("row_blocks", plan.blocks)
      .add("flattened", plan.flattened)
      .add("warpgroups", plan.warpgroups)
      .add("beside", plan.beside)
      .add("samples", plan.samples)
      .add("column_parts", plan.column_parts)
      .add("column_tiles", sizes.column_tiles)
      .add("chunk_units", plan.chunk_units)
      .add("stage_units", plan.stage_units)
      .add("stage_parts", plan.stage_parts)
      .add("box_slots", plan.box_slots)
      .add("weights_resident", sizes.resident)
      .add("fill_run", plan.fill_run)
      .add("fills_planes", plan.fill_by == FillBy::kPlanes)
      .add("shared_bytes", sizes.shared_bytes)
      .add("packed_bytes", sizes.packed_bytes)
      .add("workspace_bytes", 0)
      .text();
}

std::string facts_of(const PlanRequest& request, const TapwisePlan& plan, double clocks) {
  const TapwiseSizes sizes = tapwise_sizes(request.problem, pass_of(request), plan);
  const int64_t places = request.device.multiprocessors;
  return common_facts(clocks, {plan.tile[1], plan.tile[2], plan.tile[3]}, sizes.items,
                      std::min(sizes.items, places), places, plan.stages, sizes.chunks,
                      plan.split ? plan.segments : 1)
      .add("samples", plan.tile[0])
      .add("columns", plan.columns)
      .add("row_blocks", plan.blocks)
      .add("segments", plan.segments)
      .add("column_tiles", sizes.channel_tiles * sizes.planes)
      .add("shared_bytes", sizes.shared_bytes)
      .add("packed_bytes", 0)
      .add("workspace_bytes", sizes.workspace_bytes)
      .text();
}

std::string facts_of(const PlanRequest& request, const TapwiseGradWeightPlan& plan, double clocks) {
  const TapwiseGradWeightSizes sizes = tapwise_grad_weight_sizes(request.problem, plan);
  const int64_t places = request.device.multiprocessors;
  return common_facts(clocks, {plan.tile[1], plan.tile[2], plan.tile[3]}, sizes.items,
                      std::min(sizes.items, places), places, plan.stages, 1, plan.splits)
      .add("samples", plan.tile[0])
      .add("columns", plan.columns)
      .add("row_blocks", plan.blocks)
      .add("column_tiles", sizes.column_tiles)
      .add("shared_bytes", sizes.shared_bytes)
      .add("packed_bytes", 0)
      .add("workspace_bytes", sizes.workspace_bytes)
      .text();
}

std::string facts_of(const PlanRequest& request, const GatheredDataPlan& plan, double clocks) {
  const GatheredDataSizes sizes = gathered_data_sizes(request.problem, pass_of(request), plan);
  const int64_t places = request.device.multiprocessors;
  return common_facts(clocks, {plan.tile[0], plan.tile[1], plan.tile[2]}, sizes.items,
                      std::min(sizes.items, places), places, plan.stages, sizes.chunks, 1)
      .add("columns", plan.columns)
      .add("row_blocks", plan.blocks)
      .add("column_tiles", sizes.channel_tiles * sizes.planes)
      .add("box_slots", plan.box_slots)
      .add("shared_bytes", sizes.shared_bytes)
      .add("packed_bytes", sizes.packed_bytes)
      .add("workspace_bytes", 0)
      .text();
}

std::string facts_of(const PlanRequest& request, const GemmDataPlan& plan, double clocks) {
  const GemmDataSizes sizes =
      gemm_data_sizes(request.problem, pass_of(request), request.type, plan);
  int64_t items = request.problem.batch * request.problem.groups *
                  ((sizes.column_tiles + plan.columns_per_block - 1) / plan.columns_per_block);
  std::array<int, 3> tile, plane_block;
  for (int a = 0; a < 3; ++a) {
    items *= plan.axes[a].tiles();
    tile[a] = plan.axes[a].tile;
    plane_block[a] = plan.axes[a].plane_block;
  }
  const int resident = resident_blocks(sizes, request.device);
  return common_facts(clocks, tile, items, items, request.device.multiprocessors * resident,
                      kStages, sizes.chunks, 1)
      .add("row_fragments", plan.row_fragments)
      .add("column_groups", plan.column_groups)
      .add("channels_per_tile", plan.channels_per_tile)
      .add("plane_block", plane_block)
      .add("columns_per_block", plan.columns_per_block)
      .add("column_tiles", sizes.column_tiles)
      .add("chunk_units", plan.chunk_units)
      .add("resident_blocks", resident)
      .add("fill", plan.asynchronous_fill ? "async" : "elements")
      .add("shared_bytes", sizes.shared_bytes)
      .add("packed_bytes", sizes.scratch_bytes)
      .add("workspace_bytes", 0)
      .text();
}

std::string facts_of(const PlanRequest& request, const GemmGradWeightPlan& plan, double clocks) {
  const GemmGradWeightSizes sizes = gemm_grad_weight_sizes(request.problem, request.type, plan);
  const int resident = resident_blocks(request.type, plan, sizes, request.device);
  const int64_t items = sizes.jobs * plan.splits;
  return common_facts(clocks, {plan.axes[0].tile, plan.axes[1].tile, plan.axes[2].tile}, items,
                      items, request.device.multiprocessors * resident, plan.stages, 1, plan.splits)
      .add("still_operand", plan.mirrored ? "grad_output" : "input")
      .add("still_fragments", plan.still_fragments)
      .add("moving_fragments", plan.moving_fragments)
      .add("taps_per_warp", plan.taps)
      .add("tap_warps", plan.tap_warps)
      .add("position_warps", plan.position_warps)
      .add("warp_roles", plan.warp_roles)
      .add("resident_blocks", resident)
      .add("still_fill", name_of(plan.still_fill))
      .add("moving_fill", name_of(plan.moving_fill))
      .add("shared_bytes", sizes.shared_bytes)
      .add("packed_bytes", 0)
      .add("workspace_bytes", sizes.workspace_bytes)
      .text();
}

std::string facts_of(const PlanRequest& request, const WgmmaGradWeightPlan& plan, double clocks) {
  const WgmmaGradWeightSizes sizes = wgmma_grad_weight_sizes(request.problem, plan);
  const int64_t items = sizes.jobs * plan.splits;
  return common_facts(clocks, {1, plan.tile_h, plan.tile_w}, items, items,
                      request.device.multiprocessors, plan.stages, 1, plan.splits)
      .add("still_operand", plan.input_moves ? "grad_output" : "input")
      .add("rows", plan.moving_rows == plan.input_moves ? "input" : "grad_output")
      .add("columns", plan.columns)
      .add("merged_taps", plan.merged)
      .add("tap_groups", plan.tap_groups)
      .add("tap_tiles_per_warpgroup", plan.tiles)
      .add("split_positions", plan.split_positions)
      .add("flattened", plan.flattened)
      .add("samples", plan.samples)
      .add("fill", plan.fill)
      .add("shared_bytes", sizes.shared_bytes)
      .add("packed_bytes", 0)
      .add("workspace_bytes", sizes.workspace_bytes)
      .text();
}

std::string facts_of(const PlanRequest& request, const GatheredGradWeightPlan& plan,
                     double clocks) {
  const GatheredGradWeightSizes sizes = gathered_grad_weight_sizes(request.problem, plan);
  const int64_t items = sizes.jobs * plan.splits;
  return common_facts(clocks, {plan.tile[0], plan.tile[1], plan.tile[2]}, items, items,
                      request.device.multiprocessors, plan.stages, 1, plan.splits)
      .add("columns", plan.columns)
      .add("mirrored", plan.mirrored)
      .add("row_tiles_per_warpgroup", plan.tiles)
      .add("row_blocks", plan.row_blocks)
      .add("row_channels_per_block", plan.slice)
      .add("samples", plan.samples)
      .add("fill_of_gathered", name_of(plan.output_fill))
      .add("fill_of_still", name_of(plan.input_fill))
      .add("shared_bytes", sizes.shared_bytes)
      .add("packed_bytes", 0)
      .add("workspace_bytes", sizes.workspace_bytes)
      .text();
}

std::string facts_of(const PlanRequest& request, const Im2colPlan& plan, double clocks) {
  const Im2colPass pass = im2col_pass_of(request);
  const Im2colSizes sizes =
      im2col_sizes(request.problem, pass, request.type, request.allow_tf32, plan);
  const int64_t places = int64_t{request.device.multiprocessors} * plan.blocks;
  const int64_t items = sizes.items * request.problem.groups;
  const int64_t blocks = pass == Im2colPass::kGradWeight ? plan.splits * sizes.channel_blocks
                                                         : std::min(sizes.items, places);
  return common_facts(clocks,
                      {pass == Im2colPass::kForward ? plan.segment : 1, plan.tile_h, plan.tile_w},
                      items, blocks * request.problem.groups, places, 1, 1, plan.splits)
      .add("columns", sizes.columns)
      .add("padded_columns", plan.tiles * 8)
      .add("channel_warps", pass == Im2colPass::kGradWeight ? plan.channel_warps : 0)
      .add("resident_blocks", plan.blocks)
      .add("shared_bytes", sizes.shared_bytes)
      .add("packed_bytes", 0)
      .add("workspace_bytes", sizes.workspace_bytes)
      .text();
}

}  // namespace convt3d

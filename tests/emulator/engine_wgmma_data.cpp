#include "cuda/kernels/wgmma_data.h"
#include "cuda/plan_wgmma.h"
#include "engine.h"

namespace convt3d::emulator {
namespace {

std::string text_of(const WgmmaDataPlan& plan, const WgmmaDataSizes& sizes) {
  char text[400];
  std::snprintf(text, sizeof(text),
                "columns %d, w_planes %d, h_planes %d, merged_taps %d, blocks %d, %d warpgroups, "
                "%s %d, %dx%d, "
                "samples %d, segment "
                "%d, parts %d, "
                "chunk_units %d, stage_units %d, stage_parts %d%s, box_slots %d, weight_slots %d, "
                "fill_run %d by %s, %s, %d items",
                plan.columns, plan.w_planes, wgmma_h_planes(plan), plan.merged_taps, plan.blocks,
                plan.warpgroups, plan.flattened ? "flattened" : "beside", plan.beside, plan.tile_h,
                plan.tile_w, plan.samples, plan.segment, plan.column_parts, plan.chunk_units,
                plan.stage_units, plan.stage_parts, sizes.pairs ? " in pairs" : "", plan.box_slots,
                plan.weight_slots, plan.fill_run,
                plan.fill_by == FillBy::kPlanes        ? "planes"
                : plan.fill_by == FillBy::kTensorLines ? "lines of the tensor"
                                                       : "lines of a box",
                sizes.resident ? "resident" : "streamed", static_cast<int>(sizes.items));
  return text;
}

std::vector<Run> runs(const Trial& trial) {
  Alternatives<WgmmaDataPlan> alternatives;
  const auto best =
      plan_wgmma_data(trial.problem, trial.pass(), trial.type, trial.first, trial.result,
                      trial.allow_tf32, trial.device, true, &alternatives);
  const bool channels_last = trial.result.stride[1] < trial.result.stride[4];
  return runs_of(best, alternatives, [&](const WgmmaDataPlan& plan) {
    const WgmmaDataSizes sizes = wgmma_data_sizes(trial.problem, trial.pass(), channels_last, plan);
    return Run{text_of(plan, sizes), [&trial, plan, sizes] {
                 Scratch scratch(sizes.packed_bytes);
                 return launch_wgmma_data(trial.problem, trial.pass(), trial.type, plan,
                                          trial.first, trial.second, trial.bias, trial.result,
                                          scratch.data(), trial.device.multiprocessors, nullptr);
               }};
  });
}

}  // namespace

Engine engine() {
  return {.operations = {Operation::kForward, Operation::kGradInput},
          .types = {DataType::kBFloat16, DataType::kFloat16, DataType::kFloat32},
          .tf32 = true,
          .ieee = false,
          .layouts = {Layout::kContiguous, Layout::kChannelsLast},
          .family = {},
          .runs = runs};
}

}  // namespace convt3d::emulator

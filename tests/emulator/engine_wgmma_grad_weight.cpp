#include "cuda/kernels/wgmma_grad_weight.h"
#include "cuda/plan_wgmma_grad_weight.h"
#include "engine.h"

namespace convt3d::emulator {
namespace {

std::string text_of(const WgmmaGradWeightPlan& plan, const WgmmaGradWeightSizes& sizes) {
  char text[400];
  std::snprintf(text, sizeof(text),
                "%s moves as %s, merged %d, columns %d, tap_groups %d, tiles %d, %s, %s %dx%d, "
                "samples %d, stages %d, splits %d, %d jobs, fill %d",
                plan.input_moves ? "input" : "grad_output", plan.moving_rows ? "rows" : "columns",
                plan.merged, plan.columns, plan.tap_groups, plan.tiles,
                plan.split_positions ? "positions split" : "tiles split",
                plan.flattened ? "flattened" : "lines", plan.tile_h, plan.tile_w, plan.samples,
                plan.stages, plan.splits, static_cast<int>(sizes.jobs),
                static_cast<int>(plan.fill));
  return text;
}

std::vector<Run> runs(const Trial& trial) {
  Alternatives<WgmmaGradWeightPlan> alternatives;
  const auto best = plan_wgmma_grad_weight(trial.problem, trial.type, trial.first, trial.second,
                                           trial.device, true, &alternatives);
  return runs_of(best, alternatives, [&](const WgmmaGradWeightPlan& plan) {
    const WgmmaGradWeightSizes sizes = wgmma_grad_weight_sizes(trial.problem, plan);
    return Run{text_of(plan, sizes), [&trial, plan, sizes] {
                 Scratch workspace(sizes.workspace_bytes);
                 return launch_wgmma_grad_weight(trial.problem, trial.type, plan, trial.first,
                                                 trial.second, trial.result, workspace.data(),
                                                 nullptr);
               }};
  });
}

}  // namespace

Engine engine() {
  return {.operations = {Operation::kGradWeight},
          .types = {DataType::kBFloat16, DataType::kFloat16},
          .tf32 = false,
          .ieee = false,
          .layouts = {Layout::kContiguous, Layout::kContiguous, Layout::kChannelsLast},
          .runs = runs};
}

}  // namespace convt3d::emulator

#include "cuda/kernels/gathered_grad_weight.h"
#include "cuda/plan_gathered_grad_weight.h"
#include "engine.h"

namespace convt3d::emulator {
namespace {

std::string text_of(const GatheredGradWeightPlan& plan, const GatheredGradWeightSizes& sizes) {
  char text[300];
  std::snprintf(
      text, sizeof(text),
      "%scolumns %d, tiles %d, slice %d, row_blocks %d, samples %d, tile %dx%dx%d, rows of %d%s, "
      "fill %d and %d, stages %d, splits %d, %d jobs",
      plan.mirrored ? "mirrored, " : "", plan.columns, plan.tiles, plan.slice, plan.row_blocks,
      plan.samples, plan.tile[0], plan.tile[1], plan.tile[2], plan.row_positions(),
      plan.whole_lines ? " over lines" : "", static_cast<int>(plan.output_fill),
      static_cast<int>(plan.input_fill), plan.stages, plan.splits, static_cast<int>(sizes.jobs));
  return text;
}

std::vector<Run> runs(const Trial& trial) {
  Alternatives<GatheredGradWeightPlan> alternatives;
  const auto best = plan_gathered_grad_weight(trial.problem, trial.type, trial.first, trial.second,
                                              true, trial.device, true, &alternatives);
  return runs_of(best, alternatives, [&](const GatheredGradWeightPlan& plan) {
    const GatheredGradWeightSizes sizes = gathered_grad_weight_sizes(trial.problem, plan);
    return Run{text_of(plan, sizes), [&trial, plan, sizes] {
                 Scratch workspace(sizes.workspace_bytes);
                 return launch_gathered_grad_weight(trial.problem, trial.type, plan, trial.first,
                                                    trial.second, trial.result, workspace.data(),
                                                    nullptr);
               }};
  });
}

}  // namespace

Engine engine() {
  return {.operations = {Operation::kGradWeight},
          .types = {DataType::kBFloat16, DataType::kFloat16, DataType::kFloat32},
          .tf32 = true,
          .ieee = false,
          .layouts = {Layout::kContiguous, Layout::kChannelsLast},
          .family = {.lines = true, .products = 3e6},
          .runs = runs};
}

}  // namespace convt3d::emulator

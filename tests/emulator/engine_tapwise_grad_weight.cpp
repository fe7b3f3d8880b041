#include "cuda/kernels/tapwise_grad_weight.h"
#include "cuda/plan_tapwise_grad_weight.h"
#include "engine.h"

namespace convt3d::emulator {
namespace {

std::string text_of(const TapwiseGradWeightPlan& plan, const TapwiseGradWeightSizes& sizes) {
  char text[200];
  std::snprintf(text, sizeof(text),
                "columns %d, blocks %d, tile %dx%dx%dx%d, splits %d, stages %d, %d items",
                plan.columns, plan.blocks, plan.tile[0], plan.tile[1], plan.tile[2], plan.tile[3],
                plan.splits, plan.stages, static_cast<int>(sizes.items));
  return text;
}

std::vector<Run> runs(const Trial& trial) {
  Alternatives<TapwiseGradWeightPlan> alternatives;
  const auto best = plan_tapwise_grad_weight(trial.problem, trial.type, trial.first, trial.second,
                                             trial.result, trial.device, true, &alternatives);
  return runs_of(best, alternatives, [&](const TapwiseGradWeightPlan& plan) {
    const TapwiseGradWeightSizes sizes = tapwise_grad_weight_sizes(trial.problem, plan);
    return Run{text_of(plan, sizes), [&trial, plan, sizes] {
                 Scratch scratch(sizes.workspace_bytes);
                 return launch_tapwise_grad_weight(trial.problem, trial.type, plan, trial.first,
                                                   trial.second, trial.result, scratch.data(),
                                                   trial.device.multiprocessors, nullptr);
               }};
  });
}

}  // namespace

Engine engine() {
  return {.operations = {Operation::kGradWeight},
          .types = {DataType::kBFloat16, DataType::kFloat16},
          .tf32 = false,
          .ieee = false,
          .layouts = {Layout::kChannelsLast},
          .family = {.wide = true, .products = 2e7},
          .runs = runs};
}

}  // namespace convt3d::emulator

#include "cuda/kernels/tapwise_data.h"
#include "cuda/plan_tapwise.h"
#include "engine.h"

namespace convt3d::emulator {
namespace {

std::string text_of(const TapwisePlan& plan, const TapwiseSizes& sizes) {
  char text[200];
  std::snprintf(text, sizeof(text),
                "columns %d, blocks %d, tile %dx%dx%dx%d, segments %d%s, stages %d, %d items",
                plan.columns, plan.blocks, plan.tile[0], plan.tile[1], plan.tile[2], plan.tile[3],
                plan.segments, plan.split ? " split" : "", plan.stages,
                static_cast<int>(sizes.items));
  return text;
}

std::vector<Run> runs(const Trial& trial) {
  Alternatives<TapwisePlan> alternatives;
  const auto best =
      plan_tapwise_data(trial.problem, trial.pass(), trial.type, trial.first, trial.second,
                        trial.result, trial.allow_tf32, trial.device, true, &alternatives);
  return runs_of(best, alternatives, [&](const TapwisePlan& plan) {
    const TapwiseSizes sizes = tapwise_sizes(trial.problem, trial.pass(), plan);
    return Run{text_of(plan, sizes), [&trial, plan, sizes] {
                 Scratch scratch(sizes.workspace_bytes);
                 return launch_tapwise_data(trial.problem, trial.pass(), trial.type, plan,
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
          .layouts = {Layout::kChannelsLast},
          .family = {.wide = true, .products = 2e7},
          .runs = runs};
}

}  // namespace convt3d::emulator

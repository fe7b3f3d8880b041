#include "cuda/kernels/gathered_data.h"
#include "cuda/plan_gathered_data.h"
#include "engine.h"

namespace convt3d::emulator {
namespace {

std::string text_of(const GatheredDataPlan& plan, const GatheredDataSizes& sizes) {
  char text[200];
  std::snprintf(text, sizeof(text),
                "%scolumns %d, blocks %d, tile %dx%dx%d, box_slots %d, stages %d, lines %dx%dx%d, "
                "%d items",
                plan.exact ? "exact, " : "", plan.columns, plan.blocks, plan.tile[0], plan.tile[1],
                plan.tile[2], plan.box_slots, plan.stages, sizes.lines_d, sizes.lines_h,
                sizes.pitch, static_cast<int>(sizes.items));
  return text;
}

std::vector<Run> runs(const Trial& trial) {
  Alternatives<GatheredDataPlan> alternatives;
  const auto best =
      plan_gathered_data(trial.problem, trial.pass(), trial.type, trial.first, trial.result,
                         trial.allow_tf32, trial.device, true, &alternatives);
  return runs_of(best, alternatives, [&](const GatheredDataPlan& plan) {
    const GatheredDataSizes sizes = gathered_data_sizes(trial.problem, trial.pass(), plan);
    return Run{text_of(plan, sizes), [&trial, plan, sizes] {
                 Scratch scratch(sizes.packed_bytes);
                 return launch_gathered_data(trial.problem, trial.pass(), trial.type, plan,
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
          .ieee = true,
          .layouts = {Layout::kContiguous},
          .family = {.lines = true},
          .runs = runs};
}

}  // namespace convt3d::emulator

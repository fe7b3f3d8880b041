#include "cuda/kernels/gemm_data.h"
#include "engine.h"

namespace convt3d::emulator {
namespace {

std::string text_of(const GemmDataPlan& plan) {
  char text[300];
  std::snprintf(text, sizeof(text),
                "tile %dx%dx%d, plane blocks %dx%dx%d, row_fragments %d, column_groups %d, "
                "channels_per_tile %d, chunk_units %d, columns_per_block %d, %s fill",
                plan.axes[0].tile, plan.axes[1].tile, plan.axes[2].tile, plan.axes[0].plane_block,
                plan.axes[1].plane_block, plan.axes[2].plane_block, plan.row_fragments,
                plan.column_groups, plan.channels_per_tile, plan.chunk_units,
                plan.columns_per_block, plan.asynchronous_fill ? "asynchronous" : "element");
  return text;
}

std::vector<Run> runs(const Trial& trial) {
  Alternatives<GemmDataPlan> alternatives;
  const auto best = plan_gemm_data(trial.problem, trial.pass(), trial.type, trial.first,
                                   trial.result, trial.device, &alternatives);
  return runs_of(best, alternatives, [&](const GemmDataPlan& plan) {
    return Run{text_of(plan), [&trial, plan] {
                 Scratch scratch(
                     gemm_data_sizes(trial.problem, trial.pass(), trial.type, plan).scratch_bytes);
                 return launch_gemm_data(trial.problem, trial.pass(), trial.type, plan, trial.first,
                                         trial.second, trial.bias, trial.result, trial.allow_tf32,
                                         scratch.data(), nullptr);
               }};
  });
}

}  // namespace

Engine engine() {
  return {.operations = {Operation::kForward, Operation::kGradInput},
          .types = kRealTypes,
          .tf32 = true,
          .ieee = true,
          .layouts = {Layout::kContiguous, Layout::kChannelsLast},
          .family = {.products = 3e6},
          .runs = runs};
}

}  // namespace convt3d::emulator

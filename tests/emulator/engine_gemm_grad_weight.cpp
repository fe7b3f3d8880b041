#include "cuda/kernels/gemm_grad_weight.h"
#include "cuda/plan_grad_weight.h"
#include "engine.h"

namespace convt3d::emulator {
namespace {

std::string text_of(const GemmGradWeightPlan& plan) {
  constexpr const char* kFills[] = {"asynchronous", "elements", "pairs", "quads"};
  char text[300];
  std::snprintf(text, sizeof(text),
                "tile %dx%dx%d, %s, fragments %d x %d, taps %d, tap_warps %d, position_warps %d, "
                "still %s, moving %s, %s, stages %d, splits %d",
                plan.axes[0].tile, plan.axes[1].tile, plan.axes[2].tile,
                plan.mirrored ? "mirrored" : "not mirrored", plan.still_fragments,
                plan.moving_fragments, plan.taps, plan.tap_warps, plan.position_warps,
                kFills[static_cast<int>(plan.still_fill)],
                kFills[static_cast<int>(plan.moving_fill)],
                plan.warp_roles ? "warp roles" : "all fill", plan.stages, plan.splits);
  return text;
}

std::vector<Run> runs(const Trial& trial) {
  Alternatives<GemmGradWeightPlan> alternatives;
  const auto best = plan_gemm_grad_weight(trial.problem, trial.type, trial.first, trial.second,
                                          trial.device, &alternatives);
  return runs_of(best, alternatives, [&](const GemmGradWeightPlan& plan) {
    return Run{text_of(plan), [&trial, plan] {
                 Scratch workspace(
                     gemm_grad_weight_sizes(trial.problem, trial.type, plan).workspace_bytes);
                 return launch_gemm_grad_weight(trial.problem, trial.type, plan, trial.first,
                                                trial.second, trial.result, trial.allow_tf32,
                                                workspace.data(), nullptr);
               }};
  });
}

}  // namespace

Engine engine() {
  return {.operations = {Operation::kGradWeight},
          .types = kRealTypes,
          .tf32 = true,
          .ieee = true,
          .layouts = {Layout::kContiguous, Layout::kChannelsLast},
          .family = {.products = 3e6},
          .runs = runs};
}

}  // namespace convt3d::emulator

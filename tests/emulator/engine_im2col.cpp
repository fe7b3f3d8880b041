#include "cuda/kernels/im2col.h"
#include "cuda/plan_im2col.h"
#include "engine.h"

namespace convt3d::emulator {
namespace {

std::string text_of(const Im2colPlan& plan) {
  char text[200];
  std::snprintf(text, sizeof(text),
                "tile %dx%dx%d, tiles of columns %d, channel_warps %d, splits %d, blocks %d",
                plan.segment, plan.tile_h, plan.tile_w, plan.tiles, plan.channel_warps, plan.splits,
                plan.blocks);
  return text;
}

std::vector<Run> runs(const Trial& trial) {
  const Im2colPass pass = trial.operation == Operation::kForward     ? Im2colPass::kForward
                          : trial.operation == Operation::kGradInput ? Im2colPass::kGradInput
                                                                     : Im2colPass::kGradWeight;
  const TensorPointer& input = pass == Im2colPass::kForward     ? trial.first
                               : pass == Im2colPass::kGradInput ? trial.result
                                                                : trial.second;
  const TensorPointer& output = pass == Im2colPass::kForward ? trial.result : trial.first;
  Alternatives<Im2colPlan> alternatives;
  const auto best = plan_im2col(trial.problem, pass, trial.type, input, output, trial.allow_tf32,
                                trial.device, true, &alternatives);
  return runs_of(best, alternatives, [&trial, pass](const Im2colPlan& plan) {
    return Run{
        text_of(plan), [&trial, pass, plan] {
          if (pass != Im2colPass::kGradWeight)
            return launch_im2col_data(trial.problem, trial.pass(), trial.type, plan, trial.first,
                                      trial.second, trial.bias, trial.result, trial.allow_tf32,
                                      trial.device.multiprocessors, nullptr);
          Scratch workspace(im2col_sizes(trial.problem, pass, trial.type, trial.allow_tf32, plan)
                                .workspace_bytes);
          return launch_im2col_grad_weight(trial.problem, trial.type, plan, trial.first,
                                           trial.second, trial.result, trial.allow_tf32,
                                           workspace.data(), nullptr);
        }};
  });
}

}  // namespace

Engine engine() {
  return {.operations = {Operation::kForward, Operation::kGradInput, Operation::kGradWeight},
          .types = {DataType::kBFloat16, DataType::kFloat16, DataType::kFloat32},
          .tf32 = true,
          .ieee = true,
          .layouts = {Layout::kContiguous, Layout::kChannelsLast},
          .family = {.heads = true, .aligned = true, .products = 3e6},
          .runs = runs};
}

}  // namespace convt3d::emulator

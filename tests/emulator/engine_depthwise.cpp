#include "cuda/kernels/depthwise.h"
#include "cuda/plan_depthwise.h"
#include "engine.h"

namespace convt3d::emulator {
namespace {

std::string text_of(const DepthwisePlan& plan) {
  return "shape " + std::to_string(static_cast<int>(plan.shape)) + ", most_lanes " +
         std::to_string(plan.most_lanes);
}

std::vector<Run> runs(const Trial& trial) {
  if (trial.operation == Operation::kGradWeight) {
    const auto plan = plan_depthwise_grad_weight(trial.problem, trial.type);
    if (!plan) return {};
    return {{text_of(*plan), [&trial, plan = *plan] {
               Scratch workspace(depthwise_grad_weight_workspace(trial.problem, trial.type, plan,
                                                                 trial.first, trial.second));
               return launch_depthwise_grad_weight(trial.problem, trial.type, plan, trial.first,
                                                   trial.second, trial.result, workspace.data(),
                                                   nullptr);
             }}};
  }
  const auto plan = plan_depthwise_data(trial.problem, trial.pass(), trial.type);
  if (!plan) return {};
  return {{text_of(*plan), [&trial, plan = *plan] {
             return launch_depthwise_data(trial.problem, trial.pass(), trial.type, plan,
                                          trial.first, trial.second, trial.bias, trial.result,
                                          nullptr);
           }}};
}

}  // namespace

Engine engine() {
  return {.operations = {Operation::kForward, Operation::kGradInput, Operation::kGradWeight},
          .types = {DataType::kBFloat16, DataType::kFloat16, DataType::kFloat32},
          .tf32 = false,
          .ieee = true,
          .layouts = {Layout::kContiguous, Layout::kChannelsLast},
          .family = {.depthwise = true, .products = 1e6},
          .runs = runs};
}

}  // namespace convt3d::emulator

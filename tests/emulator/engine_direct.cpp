#include "cuda/kernels/direct.h"
#include "engine.h"

namespace convt3d::emulator {
namespace {

std::vector<Run> runs(const Trial& trial) {
  return {{"", [&trial] {
             switch (trial.operation) {
               case Operation::kForward:
                 return launch_direct_forward(trial.problem, trial.type, trial.first, trial.second,
                                              trial.bias, trial.result, nullptr);
               case Operation::kGradInput:
                 return launch_direct_grad_input(trial.problem, trial.type, trial.first,
                                                 trial.second, trial.result, nullptr);
               default:
                 return launch_direct_grad_weight(trial.problem, trial.type, trial.first,
                                                  trial.second, trial.result, nullptr);
             }
           }}};
}

}  // namespace

Engine engine() {
  return {.operations = {Operation::kForward, Operation::kGradInput, Operation::kGradWeight},
          .types = kRealTypes,
          .tf32 = false,
          .ieee = true,
          .layouts = {Layout::kContiguous, Layout::kChannelsLast},
          .family = {.products = 3e5},
          .runs = runs};
}

}  // namespace convt3d::emulator

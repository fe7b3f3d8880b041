// What a program of this folder tests: one engine, through its plans and its launch function.
#pragma once

#include <cuda_runtime_api.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "block.h"
#include "cuda/plan.h"
#include "problem.h"
#include "tensor.h"

namespace convt3d::emulator {

struct Trial {
  Problem problem;
  Operation operation;
  DataType type;
  bool allow_tf32;
  Device device;
  TensorPointer first, second;  // the operation's operands
  VectorPointer bias;
  TensorPointer result;

  Pass pass() const { return operation == Operation::kForward ? Pass::kForward : Pass::kGradInput; }
};

// Memory that a launch asks for besides its tensors: poisoned, guarded.
class Scratch {
 public:
  explicit Scratch(int64_t bytes)
      : memory_(DataType::kFloat32, {(bytes + 3) / 4, 1, 1, 1, 1}, Layout::kContiguous, {}) {}
  void* data() { return memory_.pointer().data; }
  ~Scratch() {
    if (!memory_.is_surrounded_by_poison()) fail("a write outside the workspace");
  }

 private:
  HostTensor memory_;
};

struct Run {
  std::string plan;
  std::function<cudaError_t()> launch;
};

// The best plan's run, then those of the others. run_of(plan) makes one.
template <typename Plan, typename RunOf>
std::vector<Run> runs_of(const Planned<Plan>& best, const Alternatives<Plan>& others,
                         const RunOf& run_of) {
  if (!best) return {};
  std::vector<Run> result{run_of(*best)};
  for (const auto& [kind, other] : others.all()) result.push_back(run_of(other.plan));
  return result;
}

inline const std::vector<DataType> kRealTypes = {DataType::kBFloat16, DataType::kFloat16,
                                                 DataType::kFloat32, DataType::kFloat64};

// What the engine of this program takes.
struct Engine {
  std::vector<Operation> operations;
  std::vector<DataType> types;
  bool tf32, ieee;  // float32 products of TF32 values, or of float32
  std::vector<Layout> layouts;
  Family family;
  // The best plan first; none: refused.
  std::vector<Run> (*runs)(const Trial& trial);
};
Engine engine();

}  // namespace convt3d::emulator

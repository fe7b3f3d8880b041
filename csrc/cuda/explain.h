// What would run for a problem, and why: the plans that a call would use, as text.
#pragma once

#include <string>

#include "kernels/tensors.h"
#include "plan.h"

namespace convt3d {

enum class Operator { kForward, kGradInput, kGradWeight };

// Dense operands, both of them contiguous or both channels_last_3d.
struct PlanRequest {
  Problem problem;
  Operator kind;
  DataType type;
  bool channels_last;
  bool allow_tf32;
  Device device;
  bool alternatives;  // list them
};

// A JSON list with an entry per engine, in the order in which they are asked:
//   {"engine": ..., "chosen": ..., "refusal": null or why it is not asked or cannot,
//    "plan": null or its facts, "alternatives": [facts, the best plan of every kind]}
std::string explain(const PlanRequest& request);

}  // namespace convt3d

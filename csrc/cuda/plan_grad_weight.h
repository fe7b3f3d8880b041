// Whether grad_weight runs on tensor cores (gemm_grad_weight), and with which tiles. Deterministic:
// a cost model, no timing.
#pragma once

#include "kernels/gemm_grad_weight.h"
#include "plan.h"

namespace convt3d {

// The split over positions follows from the problem and the device alone. Cached per problem and
// fill; thread-safe.
Planned<GemmGradWeightPlan> plan_gemm_grad_weight(const Problem& problem, DataType type,
                                                  const TensorPointer& grad_output,
                                                  const TensorPointer& input, const Device& device);

}  // namespace convt3d

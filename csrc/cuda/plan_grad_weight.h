// Whether grad_weight runs on tensor cores, and with which tiles. Deterministic: a cost model, no
// timing.
#pragma once

#include <optional>

#include "kernels/gemm_grad_weight.h"
#include "plan.h"

namespace convt3d {

// None where the direct kernel is to run. The split over positions follows from the problem and
// the device alone. `warp_roles`: see has_warp_roles. Cached per problem and fill; thread-safe.
std::optional<GemmGradWeightPlan> plan_grad_weight(const Problem& problem, DataType type,
                                                   TileFill grad_output_fill, TileFill input_fill,
                                                   bool warp_roles, const Device& device);

}  // namespace convt3d

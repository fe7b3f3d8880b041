// Whether grad_weight runs on Hopper's tensor cores (wgmma_grad_weight), and with which tiles.
// Deterministic: a cost model, no timing.
#pragma once

#include "kernels/wgmma_grad_weight_sizes.h"
#include "plan.h"

namespace convt3d {

// `even_if_slow`: where the portable kernel is taken to be faster, too. `alternatives`: also search
// anew and collect what else is possible. Cached per problem; thread-safe.
Planned<WgmmaGradWeightPlan> plan_wgmma_grad_weight(
    const Problem& problem, DataType type, const TensorPointer& grad_output,
    const TensorPointer& input, const Device& device, bool even_if_slow = false,
    Alternatives<WgmmaGradWeightPlan>* alternatives = nullptr);

}  // namespace convt3d

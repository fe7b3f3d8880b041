// Whether grad_weight of float32 runs as TF32 on Hopper's tensor cores (tf32_grad_weight), and with
// which tiles. Deterministic: a cost model, no timing.
#pragma once

#include "kernels/tf32_grad_weight_sizes.h"
#include "plan.h"

namespace convt3d {

// `even_if_slow`: where the portable kernel is taken to be faster, too. `alternatives`: also search
// anew and collect what else is possible. Cached per problem; thread-safe.
Planned<Tf32GradWeightPlan> plan_tf32_grad_weight(
    const Problem& problem, DataType type, const TensorPointer& grad_output,
    const TensorPointer& input, bool allow_tf32, const Device& device, bool even_if_slow = false,
    Alternatives<Tf32GradWeightPlan>* alternatives = nullptr);

}  // namespace convt3d

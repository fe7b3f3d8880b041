// Whether grad_weight runs on Hopper's tensor cores with its left operand gathered into registers
// (gathered_grad_weight), and with which tiles: of float32 as TF32, and of 16 bits where w is
// fastest. Deterministic: a cost model, no timing.
#pragma once

#include "kernels/gathered_grad_weight_sizes.h"
#include "plan.h"

namespace convt3d {

// `even_if_slow`: where another kernel is taken to be faster, too. `alternatives`: also search
// anew and collect what else is possible. Cached per problem; thread-safe.
Planned<GatheredGradWeightPlan> plan_gathered_grad_weight(
    const Problem& problem, DataType type, const TensorPointer& grad_output,
    const TensorPointer& input, bool allow_tf32, const Device& device, bool even_if_slow = false,
    Alternatives<GatheredGradWeightPlan>* alternatives = nullptr);

}  // namespace convt3d

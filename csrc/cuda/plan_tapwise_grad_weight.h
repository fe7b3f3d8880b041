// Plans for the tapwise kernel of grad_weight.
#pragma once

#include "kernels/tapwise_grad_weight_sizes.h"
#include "plan.h"

namespace convt3d {

// `even_if_slow`: also where another kernel is predicted faster. `alternatives`: also search anew
// and collect what else is possible. Cached otherwise; thread-safe.
Planned<TapwiseGradWeightPlan> plan_tapwise_grad_weight(
    const Problem& problem, DataType type, const TensorPointer& grad_output,
    const TensorPointer& input, const TensorPointer& grad_weight, const Device& device,
    bool even_if_slow, Alternatives<TapwiseGradWeightPlan>* alternatives = nullptr);

}  // namespace convt3d

// Whether grad_weight runs on tensor cores (gemm_grad_weight), and with which tiles. Deterministic:
// a cost model, no timing.
#pragma once

#include "kernels/gemm_grad_weight_sizes.h"
#include "plan.h"

namespace convt3d {

// Blocks that shared memory, registers and threads let run together on a multiprocessor.
int resident_blocks(DataType type, const GemmGradWeightPlan& plan, const GemmGradWeightSizes& sizes,
                    const Device& device);

// The split over positions follows from the problem and the device alone. Cached per problem and
// fill; thread-safe. `alternatives`: also search anew and collect what else is possible.
Planned<GemmGradWeightPlan> plan_gemm_grad_weight(
    const Problem& problem, DataType type, const TensorPointer& grad_output,
    const TensorPointer& input, const Device& device,
    Alternatives<GemmGradWeightPlan>* alternatives = nullptr);

}  // namespace convt3d

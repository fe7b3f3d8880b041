// Plans for the gathered data kernel.
#pragma once

#include "kernels/gathered_data_sizes.h"
#include "plan.h"

namespace convt3d {

// Which problems the kernel takes, and in which order it sums, does not depend on the batch.
// `even_if_slow`: also where another kernel is predicted faster. `alternatives`: also search anew
// and collect what else is possible. Cached otherwise; thread-safe.
Planned<GatheredDataPlan> plan_gathered_data(
    const Problem& problem, Pass pass, DataType type, const TensorPointer& operand,
    const TensorPointer& result, bool allow_tf32, const Device& device, bool even_if_slow,
    Alternatives<GatheredDataPlan>* alternatives = nullptr);

}  // namespace convt3d

// Which problems of few channels per group the depthwise kernels take.
#pragma once

#include "kernels/depthwise_plan.h"
#include "plan.h"

namespace convt3d {

// forward and grad_input. Follows from the problem alone, whatever its batch; the kernels have no
// cost model: clocks are 0.
Planned<DepthwisePlan> plan_depthwise_data(const Problem& problem, Pass pass, DataType type);

// grad_weight: the shapes with compile-time taps only.
Planned<DepthwisePlan> plan_depthwise_grad_weight(const Problem& problem, DataType type);

}  // namespace convt3d

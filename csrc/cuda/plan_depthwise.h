// Which problems of few channels per group the depthwise kernels take.
#pragma once

#include <optional>

#include "kernels/depthwise.h"

namespace convt3d {

// forward and grad_input; nullopt: the kernel does not take this problem. Follows from the problem
// alone, whatever its batch.
std::optional<DepthwisePlan> plan_depthwise_data(const Problem& problem, Pass pass, DataType type);

// grad_weight: the shapes with compile-time taps only.
std::optional<DepthwisePlan> plan_depthwise_grad_weight(const Problem& problem, DataType type);

}  // namespace convt3d

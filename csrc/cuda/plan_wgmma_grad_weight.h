// Plans for the WGMMA grad_weight kernel.
#pragma once

#include <optional>

#include "kernels/wgmma_grad_weight.h"
#include "plan.h"

namespace convt3d {

// nullopt: the kernel does not take this problem. Deterministic: a cost model, no timing. Cached
// per problem; thread-safe.
std::optional<WgmmaGradWeightPlan> plan_wgmma_grad_weight(const Problem& problem, DataType type,
                                                          const TensorPointer& grad_output,
                                                          const TensorPointer& input,
                                                          const Device& device);

}  // namespace convt3d

// Plans for the WGMMA data kernel.
#pragma once

#include <optional>

#include "kernels/wgmma_data.h"
#include "plan.h"

namespace convt3d {

// nullopt: the kernel does not take this problem. Which problems it takes, and in which order it
// sums, does not depend on the batch. float32 only with `allow_tf32`.
std::optional<WgmmaDataPlan> plan_wgmma_data(const Problem& problem, Pass pass, DataType type,
                                             const TensorPointer& operand,
                                             const TensorPointer& result, bool allow_tf32,
                                             const Device& device);

}  // namespace convt3d

// Plans for the tapwise kernel of forward and grad_input.
#pragma once

#include <vector>

#include "kernels/tapwise_data_sizes.h"
#include "plan.h"

namespace convt3d {

// Even splits of an extent into tiles of at most `most`, the widest first.
std::vector<int> even_tiles(int64_t extent, int64_t most);

// Which problems the kernel takes, and in which order it sums, does not depend on the batch.
// float32 only with `allow_tf32`. `even_if_slow`: also where another kernel is predicted faster.
// `alternatives`: also search anew and collect what else is possible. Cached otherwise;
// thread-safe.
Planned<TapwisePlan> plan_tapwise_data(const Problem& problem, Pass pass, DataType type,
                                       const TensorPointer& operand, const TensorPointer& weight,
                                       const TensorPointer& result, bool allow_tf32,
                                       const Device& device, bool even_if_slow,
                                       Alternatives<TapwisePlan>* alternatives = nullptr);

}  // namespace convt3d

// Which problems the im2col kernels take (few output channels), and with which tiles.
#pragma once

#include "kernels/im2col_plan.h"
#include "plan.h"

namespace convt3d {

// `input` is the tensor of many channels, the input or its gradient; `output` that of few.
// `forced`: also where another engine would be faster (grad_weight: gathered_grad_weight).
// Deterministic: a cost model, no timing. What is summed in which order follows from the problem
// alone (grad_weight: and the device).
Planned<Im2colPlan> plan_im2col(const Problem& problem, Im2colPass pass, DataType type,
                                const TensorPointer& input, const TensorPointer& output,
                                bool allow_tf32, const Device& device, bool forced,
                                Alternatives<Im2colPlan>* alternatives = nullptr);

}  // namespace convt3d

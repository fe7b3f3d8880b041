// Plans as JSON objects, for explain.cpp: what an engine would run, in the words of
// docs/performance.md.
#pragma once

#include <string>
#include <vector>

#include "explain.h"
#include "kernels/gathered_data_sizes.h"
#include "kernels/gathered_grad_weight_sizes.h"
#include "kernels/gemm_data_sizes.h"
#include "kernels/gemm_grad_weight_sizes.h"
#include "kernels/im2col_plan.h"
#include "kernels/tapwise_data_sizes.h"
#include "kernels/tapwise_grad_weight_sizes.h"
#include "kernels/wgmma_data_sizes.h"
#include "kernels/wgmma_grad_weight_sizes.h"

namespace convt3d {

std::string quoted(const char* text);
std::string list_of(const std::vector<std::string>& items);

// Of a request for forward or grad_input; of any.
Pass pass_of(const PlanRequest& request);
Im2colPass im2col_pass_of(const PlanRequest& request);

// `clocks`: predicted. That of WgmmaDataPlan stands in the plan.
std::string facts_of(const PlanRequest& request, bool result_channels_last,
                     const WgmmaDataPlan& plan);
std::string facts_of(const PlanRequest& request, const TapwisePlan& plan, double clocks);
std::string facts_of(const PlanRequest& request, const TapwiseGradWeightPlan& plan, double clocks);
std::string facts_of(const PlanRequest& request, const GatheredDataPlan& plan, double clocks);
std::string facts_of(const PlanRequest& request, const GemmDataPlan& plan, double clocks);
std::string facts_of(const PlanRequest& request, const GemmGradWeightPlan& plan, double clocks);
std::string facts_of(const PlanRequest& request, const WgmmaGradWeightPlan& plan, double clocks);
std::string facts_of(const PlanRequest& request, const GatheredGradWeightPlan& plan, double clocks);
std::string facts_of(const PlanRequest& request, const Im2colPlan& plan, double clocks);

}  // namespace convt3d

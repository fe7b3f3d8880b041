#include "explain.h"

#include <optional>
#include <string>
#include <vector>

#include "explain_facts.h"
#include "plan_depthwise.h"
#include "plan_gathered_data.h"
#include "plan_gathered_grad_weight.h"
#include "plan_grad_weight.h"
#include "plan_im2col.h"
#include "plan_tapwise.h"
#include "plan_tapwise_grad_weight.h"
#include "plan_wgmma.h"
#include "plan_wgmma_grad_weight.h"

namespace convt3d {
namespace {

struct Verdict {
  const char* refusal = nullptr;  // nullptr: takes the call
  std::optional<std::string> plan;
  std::vector<std::string> alternatives;
};

struct Operands {
  TensorPointer operand, weight, result;  // forward, grad_input
  TensorPointer grad_output, input;       // grad_weight
};

Operands operands_of(const PlanRequest& request) {
  const Problem& problem = request.problem;
  const Sizes input = problem.input_size(), output = problem.output_size();
  const Sizes& operand = request.kind == Operator::kForward ? input : output;
  const Sizes& result = request.kind == Operator::kForward ? output : input;
  const auto suggests = [&](const Sizes& size) {
    return suggests_channels_last_3d(size, dense_strides(size, request.channels_last));
  };
  return {dense_tensor(operand, request.channels_last),
          dense_tensor(problem.weight_size(), request.channels_last),
          dense_tensor(result, suggests(operand) || suggests(problem.weight_size())),
          dense_tensor(output, request.channels_last), dense_tensor(input, request.channels_last)};
}

Verdict explain_wgmma_data(const PlanRequest& request, const Operands& operands) {
  const bool channels_last = operands.result.stride[1] < operands.result.stride[4];
  const auto plan = [&](bool even_if_slow, Alternatives<WgmmaDataPlan>* alternatives = nullptr) {
    return plan_wgmma_data(request.problem, pass_of(request), request.type, operands.operand,
                           operands.result, request.allow_tf32, request.device, even_if_slow,
                           alternatives);
  };
  Verdict verdict;
  const auto worthwhile = plan(false);
  verdict.refusal = worthwhile.refusal();
  const auto possible = worthwhile ? worthwhile : plan(true);
  if (possible) verdict.plan = facts_of(request, channels_last, *possible);
  if (request.alternatives && possible) {
    Alternatives<WgmmaDataPlan> found;
    plan(true, &found);
    for (const auto& [kind, alternative] : found.all()) {
      WgmmaDataPlan costed = alternative.plan;
      costed.clocks = alternative.clocks;
      verdict.alternatives.push_back(facts_of(request, channels_last, costed));
    }
  }
  return verdict;
}

// The engines whose plan says everything.
template <typename Plan, typename Search>
Verdict verdict_of(const PlanRequest& request, Search&& search) {
  Verdict verdict;
  const Planned<Plan> planned = search(static_cast<Alternatives<Plan>*>(nullptr));
  verdict.refusal = planned.refusal();
  if (planned) verdict.plan = facts_of(request, *planned, planned.clocks());
  if (request.alternatives && planned) {
    Alternatives<Plan> found;
    search(&found);
    for (const auto& [kind, alternative] : found.all())
      verdict.alternatives.push_back(facts_of(request, alternative.plan, alternative.clocks));
  }
  return verdict;
}

// The engines that also say what they would run where they are not the fastest.
// `search(even_if_slow, alternatives)`.
template <typename Plan, typename Search>
Verdict verdict_even_if_slow(const PlanRequest& request, Search&& search) {
  const auto worthwhile = search(false, nullptr);
  Verdict verdict = verdict_of<Plan>(
      request, [&](Alternatives<Plan>* alternatives) { return search(true, alternatives); });
  verdict.refusal = worthwhile.refusal();
  return verdict;
}

Verdict explain_gathered_grad_weight(const PlanRequest& request, const Operands& operands) {
  return verdict_even_if_slow<GatheredGradWeightPlan>(
      request, [&](bool even_if_slow, Alternatives<GatheredGradWeightPlan>* alternatives) {
        return plan_gathered_grad_weight(request.problem, request.type, operands.grad_output,
                                         operands.input, request.allow_tf32, request.device,
                                         even_if_slow, alternatives);
      });
}

Verdict explain_tapwise_grad_weight(const PlanRequest& request, const Operands& operands) {
  return verdict_even_if_slow<TapwiseGradWeightPlan>(
      request, [&](bool even_if_slow, Alternatives<TapwiseGradWeightPlan>* alternatives) {
        return plan_tapwise_grad_weight(request.problem, request.type, operands.grad_output,
                                        operands.input, operands.weight, request.device,
                                        even_if_slow, alternatives);
      });
}

Verdict explain_wgmma_grad_weight(const PlanRequest& request, const Operands& operands) {
  return verdict_even_if_slow<WgmmaGradWeightPlan>(
      request, [&](bool even_if_slow, Alternatives<WgmmaGradWeightPlan>* alternatives) {
        return plan_wgmma_grad_weight(request.problem, request.type, operands.grad_output,
                                      operands.input, request.device, even_if_slow, alternatives);
      });
}

Verdict explain_im2col(const PlanRequest& request, const Operands& operands) {
  const TensorPointer& input = request.kind == Operator::kForward     ? operands.operand
                               : request.kind == Operator::kGradInput ? operands.result
                                                                      : operands.input;
  const TensorPointer& output = request.kind == Operator::kForward     ? operands.result
                                : request.kind == Operator::kGradInput ? operands.operand
                                                                       : operands.grad_output;
  return verdict_even_if_slow<Im2colPlan>(
      request, [&](bool forced, Alternatives<Im2colPlan>* alternatives) {
        return plan_im2col(request.problem, im2col_pass_of(request), request.type, input, output,
                           request.allow_tf32, request.device, forced, alternatives);
      });
}

Verdict explain_tapwise_data(const PlanRequest& request, const Operands& operands) {
  return verdict_even_if_slow<TapwisePlan>(
      request, [&](bool even_if_slow, Alternatives<TapwisePlan>* alternatives) {
        return plan_tapwise_data(request.problem, pass_of(request), request.type, operands.operand,
                                 operands.weight, operands.result, request.allow_tf32,
                                 request.device, even_if_slow, alternatives);
      });
}

Verdict explain_gathered_data(const PlanRequest& request, const Operands& operands) {
  return verdict_even_if_slow<GatheredDataPlan>(
      request, [&](bool even_if_slow, Alternatives<GatheredDataPlan>* alternatives) {
        return plan_gathered_data(request.problem, pass_of(request), request.type, operands.operand,
                                  operands.result, request.allow_tf32, request.device, even_if_slow,
                                  alternatives);
      });
}

Verdict explain_gemm_data(const PlanRequest& request, const Operands& operands) {
  return verdict_of<GemmDataPlan>(request, [&](Alternatives<GemmDataPlan>* alternatives) {
    return plan_gemm_data(request.problem, pass_of(request), request.type, operands.operand,
                          operands.result, request.device, alternatives);
  });
}

Verdict explain_gemm_grad_weight(const PlanRequest& request, const Operands& operands) {
  return verdict_of<GemmGradWeightPlan>(
      request, [&](Alternatives<GemmGradWeightPlan>* alternatives) {
        return plan_gemm_grad_weight(request.problem, request.type, operands.grad_output,
                                     operands.input, request.device, alternatives);
      });
}

// Has no cost model.
Verdict explain_depthwise(const PlanRequest& request, const Operands&) {
  Verdict verdict;
  verdict.refusal =
      request.kind == Operator::kGradWeight
          ? plan_depthwise_grad_weight(request.problem, request.type).refusal()
          : plan_depthwise_data(request.problem, pass_of(request), request.type).refusal();
  return verdict;
}

// Takes everything; has no cost model.
Verdict explain_direct(const PlanRequest&, const Operands&) { return {}; }

struct Engine {
  const char* name;
  Verdict (*explain)(const PlanRequest& request, const Operands& operands);
};

// In the order of the tables of engines.cpp.
constexpr Engine kDataEngines[] = {
    {"depthwise", explain_depthwise},  {"im2col", explain_im2col},
    {"tapwise", explain_tapwise_data}, {"gathered", explain_gathered_data},
    {"wgmma", explain_wgmma_data},     {"gemm", explain_gemm_data},
    {"direct", explain_direct}};
constexpr Engine kGradWeightEngines[] = {{"depthwise", explain_depthwise},
                                         {"im2col", explain_im2col},
                                         {"tapwise", explain_tapwise_grad_weight},
                                         {"gathered", explain_gathered_grad_weight},
                                         {"wgmma", explain_wgmma_grad_weight},
                                         {"gemm", explain_gemm_grad_weight},
                                         {"direct", explain_direct}};

}  // namespace

std::string explain(const PlanRequest& request) {
  const bool data = request.kind != Operator::kGradWeight;
  const std::vector<Engine> engines =
      data ? std::vector<Engine>(std::begin(kDataEngines), std::end(kDataEngines))
           : std::vector<Engine>(std::begin(kGradWeightEngines), std::end(kGradWeightEngines));
  const Operands operands = operands_of(request);
  std::vector<std::string> entries;
  bool chosen = false;
  for (const Engine& engine : engines) {
    const Verdict verdict = engine.explain(request, operands);
    const bool takes = verdict.refusal == nullptr;
    entries.push_back("{\"engine\": " + quoted(engine.name) +
                      ", \"chosen\": " + (takes && !chosen ? "true" : "false") +
                      ", \"refusal\": " + (takes ? "null" : quoted(verdict.refusal)) +
                      ", \"plan\": " + verdict.plan.value_or("null") +
                      ", \"alternatives\": " + list_of(verdict.alternatives) + '}');
    chosen = chosen || takes;
  }
  return list_of(entries);
}

}  // namespace convt3d

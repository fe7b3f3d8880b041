#include "engines.h"

#include <torch/csrc/stable/macros.h>

#include <cstddef>
#include <stdexcept>
#include <string>

#include "kernels/depthwise.h"
#include "kernels/gathered_data.h"
#include "kernels/gathered_grad_weight.h"
#include "kernels/gemm_data.h"
#include "kernels/gemm_grad_weight.h"
#include "kernels/im2col.h"
#include "kernels/tapwise_data.h"
#include "kernels/tapwise_grad_weight.h"
#include "kernels/wgmma_data.h"
#include "kernels/wgmma_grad_weight.h"
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

// Each of these enqueues the call and returns nullptr, or returns why it cannot. `forced`: the
// caller wants this engine even where another one would be faster.

const char* run_depthwise_data(const DataCall& call, bool) {
  const auto plan = plan_depthwise_data(call.problem, call.pass, call.type);
  if (!plan) return plan.refusal();
  STD_CUDA_CHECK(launch_depthwise_data(call.problem, call.pass, call.type, *plan, call.operand,
                                       call.weight, call.bias, call.result, call.stream));
  return nullptr;
}

const char* run_im2col_data(const DataCall& call, bool forced) {
  const bool forward = call.pass == Pass::kForward;
  const auto plan =
      plan_im2col(call.problem, forward ? Im2colPass::kForward : Im2colPass::kGradInput, call.type,
                  forward ? call.operand : call.result, forward ? call.result : call.operand,
                  call.allow_tf32, call.device, forced);
  if (!plan) return plan.refusal();
  STD_CUDA_CHECK(launch_im2col_data(call.problem, call.pass, call.type, *plan, call.operand,
                                    call.weight, call.bias, call.result, call.allow_tf32,
                                    call.device.multiprocessors, call.stream));
  return nullptr;
}

const char* run_tapwise_data(const DataCall& call, bool forced) {
  const auto plan = plan_tapwise_data(call.problem, call.pass, call.type, call.operand, call.weight,
                                      call.result, call.allow_tf32, call.device, forced);
  if (!plan) return plan.refusal();
  const TapwiseSizes sizes = tapwise_sizes(call.problem, call.pass, *plan);
  const Tensor workspace = allocate_bytes(sizes.workspace_bytes, call.like);
  STD_CUDA_CHECK(launch_tapwise_data(call.problem, call.pass, call.type, *plan, call.operand,
                                     call.weight, call.bias, call.result, workspace.data_ptr(),
                                     call.device.multiprocessors, call.stream));
  return nullptr;
}

const char* run_gathered_data(const DataCall& call, bool forced) {
  const auto plan = plan_gathered_data(call.problem, call.pass, call.type, call.operand,
                                       call.result, call.allow_tf32, call.device, forced);
  if (!plan) return plan.refusal();
  const GatheredDataSizes sizes = gathered_data_sizes(call.problem, call.pass, *plan);
  const Tensor scratch = allocate_bytes(sizes.packed_bytes, call.like);
  STD_CUDA_CHECK(launch_gathered_data(call.problem, call.pass, call.type, *plan, call.operand,
                                      call.weight, call.bias, call.result, scratch.data_ptr(),
                                      call.device.multiprocessors, call.stream));
  return nullptr;
}

const char* run_wgmma_data(const DataCall& call, bool forced) {
  const auto plan = plan_wgmma_data(call.problem, call.pass, call.type, call.operand, call.result,
                                    call.allow_tf32, call.device, forced);
  if (!plan) return plan.refusal();
  const bool channels_last = call.result.stride[1] < call.result.stride[4];
  const WgmmaDataSizes sizes = wgmma_data_sizes(call.problem, call.pass, channels_last, *plan);
  const Tensor scratch = allocate_bytes(sizes.packed_bytes, call.like);
  STD_CUDA_CHECK(launch_wgmma_data(call.problem, call.pass, call.type, *plan, call.operand,
                                   call.weight, call.bias, call.result, scratch.data_ptr(),
                                   call.device.multiprocessors, call.stream));
  return nullptr;
}

const char* run_gemm_data(const DataCall& call, bool) {
  const auto plan =
      plan_gemm_data(call.problem, call.pass, call.type, call.operand, call.result, call.device);
  if (!plan) return plan.refusal();
  const GemmDataSizes sizes = gemm_data_sizes(call.problem, call.pass, call.type, *plan);
  const Tensor scratch = allocate_bytes(sizes.scratch_bytes, call.like);
  STD_CUDA_CHECK(launch_gemm_data(call.problem, call.pass, call.type, *plan, call.operand,
                                  call.weight, call.bias, call.result, call.allow_tf32,
                                  scratch.data_ptr(), call.stream));
  return nullptr;
}

const char* run_direct_data(const DataCall& call, bool) {
  if (call.pass == Pass::kForward) {
    STD_CUDA_CHECK(launch_direct_forward(call.problem, call.type, call.operand, call.weight,
                                         call.bias, call.result, call.stream));
  } else {
    STD_CUDA_CHECK(launch_direct_grad_input(call.problem, call.type, call.operand, call.weight,
                                            call.result, call.stream));
  }
  return nullptr;
}

const char* run_depthwise_grad_weight(const GradWeightCall& call, bool) {
  const auto plan = plan_depthwise_grad_weight(call.problem, call.type);
  if (!plan) return plan.refusal();
  const Tensor workspace = allocate_bytes(
      depthwise_grad_weight_workspace(call.problem, call.type, *plan, call.grad_output, call.input),
      call.like);
  STD_CUDA_CHECK(launch_depthwise_grad_weight(call.problem, call.type, *plan, call.grad_output,
                                              call.input, call.result, workspace.data_ptr(),
                                              call.stream));
  return nullptr;
}

const char* run_im2col_grad_weight(const GradWeightCall& call, bool forced) {
  const auto plan = plan_im2col(call.problem, Im2colPass::kGradWeight, call.type, call.input,
                                call.grad_output, call.allow_tf32, call.device, forced);
  if (!plan) return plan.refusal();
  const Im2colSizes sizes =
      im2col_sizes(call.problem, Im2colPass::kGradWeight, call.type, call.allow_tf32, *plan);
  const Tensor workspace = allocate_bytes(sizes.workspace_bytes, call.like);
  STD_CUDA_CHECK(launch_im2col_grad_weight(call.problem, call.type, *plan, call.grad_output,
                                           call.input, call.result, call.allow_tf32,
                                           workspace.data_ptr(), call.stream));
  return nullptr;
}

const char* run_tapwise_grad_weight(const GradWeightCall& call, bool forced) {
  const auto plan = plan_tapwise_grad_weight(call.problem, call.type, call.grad_output, call.input,
                                             call.result, call.device, forced);
  if (!plan) return plan.refusal();
  const TapwiseGradWeightSizes sizes = tapwise_grad_weight_sizes(call.problem, *plan);
  const Tensor workspace = allocate_bytes(sizes.workspace_bytes, call.like);
  STD_CUDA_CHECK(launch_tapwise_grad_weight(call.problem, call.type, *plan, call.grad_output,
                                            call.input, call.result, workspace.data_ptr(),
                                            call.device.multiprocessors, call.stream));
  return nullptr;
}

const char* run_gathered_grad_weight(const GradWeightCall& call, bool forced) {
  const auto plan = plan_gathered_grad_weight(call.problem, call.type, call.grad_output, call.input,
                                              call.allow_tf32, call.device, forced);
  if (!plan) return plan.refusal();
  const GatheredGradWeightSizes sizes = gathered_grad_weight_sizes(call.problem, *plan);
  const Tensor workspace = allocate_bytes(sizes.workspace_bytes, call.like);
  STD_CUDA_CHECK(launch_gathered_grad_weight(call.problem, call.type, *plan, call.grad_output,
                                             call.input, call.result, workspace.data_ptr(),
                                             call.stream));
  return nullptr;
}

const char* run_wgmma_grad_weight(const GradWeightCall& call, bool forced) {
  const auto plan = plan_wgmma_grad_weight(call.problem, call.type, call.grad_output, call.input,
                                           call.device, forced);
  if (!plan) return plan.refusal();
  const WgmmaGradWeightSizes sizes = wgmma_grad_weight_sizes(call.problem, *plan);
  const Tensor workspace = allocate_bytes(sizes.workspace_bytes, call.like);
  STD_CUDA_CHECK(launch_wgmma_grad_weight(call.problem, call.type, *plan, call.grad_output,
                                          call.input, call.result, workspace.data_ptr(),
                                          call.stream));
  return nullptr;
}

const char* run_gemm_grad_weight(const GradWeightCall& call, bool) {
  const auto plan =
      plan_gemm_grad_weight(call.problem, call.type, call.grad_output, call.input, call.device);
  if (!plan) return plan.refusal();
  const GemmGradWeightSizes sizes = gemm_grad_weight_sizes(call.problem, call.type, *plan);
  const Tensor workspace = allocate_bytes(sizes.workspace_bytes, call.like);
  STD_CUDA_CHECK(launch_gemm_grad_weight(call.problem, call.type, *plan, call.grad_output,
                                         call.input, call.result, call.allow_tf32,
                                         workspace.data_ptr(), call.stream));
  return nullptr;
}

const char* run_direct_grad_weight(const GradWeightCall& call, bool) {
  STD_CUDA_CHECK(launch_direct_grad_weight(call.problem, call.type, call.grad_output, call.input,
                                           call.result, call.stream));
  return nullptr;
}

// ---- The tables --------------------------------------------------------------------------------
template <typename Call>
struct Engine {
  std::string_view name;
  const char* (*run)(const Call& call, bool forced);
};

// Fastest first; the last one takes everything.
constexpr Engine<DataCall> kDataEngines[] = {
    {"depthwise", run_depthwise_data},  // few channels per group
    {"im2col", run_im2col_data},        // few output channels
    {"tapwise", run_tapwise_data},      // many channels or small images, channels-last, Hopper
    {"gathered", run_gathered_data},    // contiguous, Hopper, the operand from registers
    {"wgmma", run_wgmma_data},          // Hopper's matrix units, where they pay
    {"gemm", run_gemm_data},            // any tensor cores
    {"direct", run_direct_data},        // any shape and dtype
};
constexpr Engine<GradWeightCall> kGradWeightEngines[] = {
    {"depthwise", run_depthwise_grad_weight}, {"im2col", run_im2col_grad_weight},
    {"tapwise", run_tapwise_grad_weight},    // Hopper's, as that of the other passes
    {"gathered", run_gathered_grad_weight},  // Hopper's, one operand from registers
    {"wgmma", run_wgmma_grad_weight},         {"gemm", run_gemm_grad_weight},
    {"direct", run_direct_grad_weight},
};

template <typename Call, std::size_t kCount>
void require(const Engine<Call> (&engines)[kCount], std::string_view wanted) {
  bool known = wanted == kAutomatic;
  std::string names(kAutomatic);
  for (const Engine<Call>& engine : engines) {
    known = known || wanted == engine.name;
    names.append(", ").append(engine.name);
  }
  if (!known)
    throw std::runtime_error("convt3d has no engine '" + std::string(wanted) +
                             "' for this pass; there are " + names);
}

template <typename Call, std::size_t kCount>
void run_first(const Engine<Call> (&engines)[kCount], const Call& call, std::string_view wanted) {
  for (const Engine<Call>& engine : engines) {
    const bool forced = wanted == engine.name;
    if (!forced && wanted != kAutomatic) continue;
    const char* refusal = engine.run(call, forced);
    if (refusal == nullptr) return;
    if (forced)
      throw std::runtime_error("engine '" + std::string(wanted) +
                               "' cannot run this problem, because " + refusal);
  }
}

}  // namespace

void require_data_engine(std::string_view engine) { require(kDataEngines, engine); }
void require_grad_weight_engine(std::string_view engine) { require(kGradWeightEngines, engine); }

void run(const DataCall& call, std::string_view engine) { run_first(kDataEngines, call, engine); }
void run(const GradWeightCall& call, std::string_view engine) {
  run_first(kGradWeightEngines, call, engine);
}

}  // namespace convt3d

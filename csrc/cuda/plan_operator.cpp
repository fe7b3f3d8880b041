// The operator behind `python -m convt3d plan`: the plans of CUDA calls, made on any machine.
#include <torch/csrc/stable/library.h>

#include <stdexcept>
#include <string>
#include <utility>

#include "../geometry.h"
#include "explain.h"

namespace convt3d {
namespace {

template <typename Value, std::size_t kCount>
Value named(const std::pair<const char*, Value> (&choices)[kCount], const std::string& name) {
  std::string names;
  for (const auto& [known, value] : choices) {
    if (name == known) return value;
    names += (names.empty() ? "" : ", ") + std::string(known);
  }
  throw std::runtime_error("'" + name + "' is none of " + names);
}

constexpr std::pair<const char*, Operator> kOperators[] = {{"forward", Operator::kForward},
                                                           {"grad_input", Operator::kGradInput},
                                                           {"grad_weight", Operator::kGradWeight}};
constexpr std::pair<const char*, DataType> kTypes[] = {
    {"float16", DataType::kFloat16},      {"bfloat16", DataType::kBFloat16},
    {"float32", DataType::kFloat32},      {"float64", DataType::kFloat64},
    {"complex32", DataType::kComplex32},  {"complex64", DataType::kComplex64},
    {"complex128", DataType::kComplex128}};

// `device`: multiprocessors, shared memory per block and per multiprocessor (bytes), has WGMMA.
std::string plan(const std::string& name, const std::string& dtype, const Sizes& input,
                 const Sizes& weight, const Sizes& stride, const Sizes& padding,
                 const Sizes& output_padding, int64_t groups, const Sizes& dilation,
                 bool channels_last, bool allow_tf32, const Sizes& device, bool alternatives) {
  if (device.size() != 4)
    throw std::runtime_error("a device is four numbers, not " + std::to_string(device.size()));
  // The operators return before they plan: their results are empty.
  if (name != "grad_weight" && !input.empty() && input[0] == 0)
    throw std::runtime_error("there is nothing to plan for " + name + " of an empty batch");
  const auto limit = [&](int index) { return static_cast<int>(device[index]); };
  return explain({.problem = forward_problem(input, weight, std::nullopt,
                                             {stride, padding, output_padding, groups, dilation}),
                  .kind = named(kOperators, name),
                  .type = named(kTypes, dtype),
                  .channels_last = channels_last,
                  .allow_tf32 = allow_tf32,
                  .device = {limit(0), limit(1), limit(2), limit(3) != 0},
                  .alternatives = alternatives});
}

}  // namespace
}  // namespace convt3d

// No tensor says where to run: one function for every dispatch key.
STABLE_TORCH_LIBRARY_IMPL(convt3d, CompositeExplicitAutograd, m) {
  m.impl("_plan", TORCH_BOX(&convt3d::plan));
}

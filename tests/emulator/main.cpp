// Random problems in one engine on the emulated device, against the definition in float64.
//
//   wgmma_data [--seed S] [--count N] [--plans P] [--type float16|bfloat16|float32]
//              [--pass forward|grad_input|grad_weight] [--layout contiguous|channels_last]
//              [--products N] [--problem "batch=1 in=8 ..."] [--verbose]
//
// Problem i is that of seed S + i; a failure names its seed: --seed S --count 1 repeats it.
// --plans: of each problem the best plan and up to P - 1 others.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <optional>

#include "engine.h"

namespace convt3d::emulator {
namespace {

struct Options {
  uint64_t seed = 0;
  int count = 100, plans = 3;
  std::optional<DataType> type;
  std::optional<Operation> operation;
  std::optional<Layout> layout;
  double products = 0;
  std::string problem;
  bool verbose = false;
};

const std::map<std::string, DataType> kTypes = {{"float16", DataType::kFloat16},
                                                {"bfloat16", DataType::kBFloat16},
                                                {"float32", DataType::kFloat32},
                                                {"float64", DataType::kFloat64}};
const std::map<std::string, Operation> kOperations = {{"forward", Operation::kForward},
                                                      {"grad_input", Operation::kGradInput},
                                                      {"grad_weight", Operation::kGradWeight}};
const std::map<std::string, Layout> kLayouts = {{"contiguous", Layout::kContiguous},
                                                {"channels_last", Layout::kChannelsLast}};

template <typename Value>
Value value_of(const std::map<std::string, Value>& names, const std::string& name) {
  const auto found = names.find(name);
  if (found == names.end()) fail("there is no '%s'", name.c_str());
  return found->second;
}
template <typename Value>
std::string name_of(const std::map<std::string, Value>& names, Value value) {
  for (const auto& [name, other] : names)
    if (other == value) return name;
  return "";
}

Options parse(int count, char** words) {
  Options options;
  for (int i = 1; i < count; ++i) {
    const std::string name = words[i];
    if (name == "--verbose") {
      options.verbose = true;
      continue;
    }
    if (i + 1 == count) fail("%s: no value", name.c_str());
    const char* const value = words[++i];
    if (name == "--seed")
      options.seed = std::strtoull(value, nullptr, 10);
    else if (name == "--count")
      options.count = std::atoi(value);
    else if (name == "--plans")
      options.plans = std::atoi(value);
    else if (name == "--type")
      options.type = value_of(kTypes, value);
    else if (name == "--pass")
      options.operation = value_of(kOperations, value);
    else if (name == "--layout")
      options.layout = value_of(kLayouts, value);
    else if (name == "--products")
      options.products = std::atof(value);
    else if (name == "--problem")
      options.problem = value;
    else
      fail("there is no option %s", name.c_str());
  }
  return options;
}

struct Counts {
  int problems = 0, refused = 0, runs = 0;
};

// One problem in some of its plans.
void run_seed(const Engine& engine, const Options& options, uint64_t seed, Counts& counts) {
  std::mt19937_64 random(seed);
  const auto pick = [&random](const auto& values) { return values[random() % values.size()]; };
  const auto chance = [&random](int of) { return random() % static_cast<uint64_t>(of) == 0; };
  Family family = engine.family;
  if (options.products > 0) family.products = options.products;
  const Problem drawn = random_problem(random, family);
  Trial trial{};
  trial.problem = options.problem.empty() ? drawn : problem_of(options.problem);
  // Drawn before they are overridden, so that a seed means the same with and without options.
  const auto operation = pick(engine.operations);
  const auto type = pick(engine.types);
  const auto layout = pick(engine.layouts);
  trial.operation = options.operation.value_or(operation);
  trial.type = options.type.value_or(type);
  const Layout chosen = options.layout.value_or(layout);
  trial.allow_tf32 = trial.type == DataType::kFloat32 && engine.tf32 && (!engine.ieee || chance(2));
  // Few multiprocessors: blocks then walk over many items. Little memory: operands in chunks.
  const int multiprocessors[] = {2, 7, 132}, shared[] = {227, 227, 120, 64};
  trial.device = {multiprocessors[random() % 3], shared[random() % 4] * 1024, 228 * 1024, true};

  const Problem& problem = trial.problem;
  const Sizes sizes[3] = {problem.input_size(), problem.output_size(), problem.weight_size()};
  const bool forward = trial.operation == Operation::kForward;
  const bool grad_weight = trial.operation == Operation::kGradWeight;
  // Dense, with padding that keeps rows aligned, or with any.
  const auto padding = [&]() -> Padding {
    Padding result;
    if (chance(2)) return result;
    const int unit = family.aligned || chance(2) ? 8 : 1;
    for (int& extra : result.extra) extra = chance(2) ? unit * static_cast<int>(random() % 3) : 0;
    result.offset = chance(2) ? unit * static_cast<int>(random() % 4) : 0;
    return result;
  };
  const auto other = [&] { return chance(4) ? Layout::kChannelsLast : Layout::kContiguous; };
  HostTensor first(trial.type, forward ? sizes[0] : sizes[1], chosen, padding());
  HostTensor second(trial.type, grad_weight ? sizes[0] : sizes[2], grad_weight ? chosen : other(),
                    padding());
  HostTensor result(trial.type,
                    grad_weight ? sizes[2]
                    : forward   ? sizes[1]
                                : sizes[0],
                    grad_weight ? other() : chosen, {});
  HostTensor bias(trial.type, {problem.out_channels, 1, 1, 1, 1}, Layout::kContiguous, {});
  first.fill_random(random);
  second.fill_random(random);
  bias.fill_random(random);
  const bool has_bias = forward && chance(2);
  trial.first = first.pointer();
  trial.second = second.pointer();
  trial.result = result.pointer();
  if (has_bias) trial.bias = {bias.pointer().data, bias.pointer().stride[0]};

  const std::string context =
      "  seed " + std::to_string(seed) + " " + name_of(kOperations, trial.operation) + " " +
      name_of(kTypes, trial.type) + " " + name_of(kLayouts, chosen) +
      (trial.allow_tf32 ? " tf32" : "") + (has_bias ? " bias" : "") + ", " +
      std::to_string(trial.device.multiprocessors) + " multiprocessors of " +
      std::to_string(trial.device.shared_per_block) + " bytes\n  " + text_of(problem) + "\n  ";
  set_context(context);
  std::vector<Run> runs = engine.runs(trial);
  ++counts.problems;
  if (runs.empty()) {
    ++counts.refused;
    return;
  }
  if (runs.size() > 1) std::shuffle(runs.begin() + 1, runs.end(), random);
  const auto wanted = std::min(runs.size(), static_cast<size_t>(options.plans));
  const Expected expected = definition(problem, trial.operation, first, second,
                                       has_bias ? &bias : nullptr, trial.allow_tf32);
  for (size_t i = 0; i < wanted; ++i) {
    set_context(context + runs[i].plan);
    set_schedule(seed);
    if (options.verbose) std::printf("%s%s\n", context.c_str(), runs[i].plan.c_str());
    result.poison();
    const cudaError_t status = runs[i].launch();
    if (status != cudaSuccess) fail("the launch returns %d", static_cast<int>(status));
    const std::string wrong = difference(result, expected, trial.type);
    if (!wrong.empty()) fail("%s", wrong.c_str());
    if (!result.is_surrounded_by_poison()) fail("a write outside the result");
    ++counts.runs;
  }
}

}  // namespace
}  // namespace convt3d::emulator

int main(int count, char** words) {
  using namespace convt3d::emulator;
  const Options options = parse(count, words);
  Counts counts;
  for (int i = 0; i < options.count; ++i)
    run_seed(engine(), options, options.seed + static_cast<uint64_t>(i), counts);
  std::printf("%d problems agree in %d plans, %d refused\n", counts.problems - counts.refused,
              counts.runs, counts.refused);
}

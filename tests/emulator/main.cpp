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
#include <limits>
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

void launch(const Run& run, HostTensor& result, uint64_t seed) {
  set_schedule(seed);
  result.poison();
  const cudaError_t status = run.launch();
  if (status != cudaSuccess) fail("the launch returns %d", static_cast<int>(status));
  if (!result.is_surrounded_by_poison()) fail("a write outside the result");
}

// The last sample has the same bits where it is the only one.
void check_alone(const Engine& engine, const Trial& trial, const HostTensor& result, Layout layout,
                 const std::string& context, uint64_t seed) {
  Trial alone = trial;
  alone.problem.batch = 1;
  alone.first.data = static_cast<char*>(trial.first.data) +
                     (trial.problem.batch - 1) * trial.first.stride[0] * element_bytes(trial.type);
  Sizes size = result.size();
  size[0] = 1;
  HostTensor sample(trial.type, size, layout, {});
  alone.result = sample.pointer();
  const std::vector<Run> runs = engine.runs(alone);
  if (runs.empty()) fail("the last sample alone is refused");
  set_context(context + "the last sample alone: " + runs[0].plan);
  launch(runs[0], sample, seed);
  const int64_t before = result.elements() - sample.elements();
  for (int64_t i = 0; i < sample.elements(); ++i)
    if (sample.at(i) != result.at(before + i))
      fail("element %d of the last sample depends on the batch", static_cast<int>(i));
}

// The results of the other samples have the same bits where one sample's operand is not finite.
void check_apart(const Run& run, HostTensor& operand, HostTensor& result, uint64_t seed) {
  const int64_t samples = result.size()[0], other = static_cast<int64_t>(seed) % samples;
  std::vector<double> values, results;
  for (int64_t i = 0; i < result.elements(); ++i) results.push_back(result.at(i));
  const int64_t size = operand.elements() / samples;
  for (int64_t i = 0; i < size; ++i) {
    values.push_back(operand.at(other * size + i));
    operand.set(other * size + i, std::numeric_limits<double>::quiet_NaN());
  }
  launch(run, result, seed);
  for (int64_t i = 0; i < result.elements(); ++i)
    if (i / (result.elements() / samples) != other && result.at(i) != results[i])
      fail("element %d depends on what is not finite in sample %d", static_cast<int>(i),
           static_cast<int>(other));
  for (int64_t i = 0; i < size; ++i) operand.set(other * size + i, values[i]);
}

// A problem's facts besides its sizes.
struct Drawn {
  Trial trial;
  Layout layout;
};
Drawn draw(const Engine& engine, const Options& options, std::mt19937_64& random) {
  const auto pick = [&random](const auto& values) { return values[random() % values.size()]; };
  Family family = engine.family;
  if (options.products > 0) family.products = options.products;
  // Drawn before they are overridden, so that a seed means the same with and without options.
  Drawn drawn{};
  Trial& trial = drawn.trial;
  trial.problem = random_problem(random, family);
  trial.operation = pick(engine.operations);
  trial.type = pick(engine.types);
  drawn.layout = pick(engine.layouts);
  const bool prefers_tf32 = random() % 2 == 0;
  // Few multiprocessors: blocks then walk over many items. Little memory: operands in chunks.
  const int multiprocessors[] = {2, 7, 132}, shared[] = {227, 227, 120, 64};
  trial.device.multiprocessors = multiprocessors[random() % 3];
  trial.device.shared_per_block = shared[random() % 4] * 1024;
  trial.device.shared_per_multiprocessor = 228 * 1024;
  trial.device.has_wgmma = true;
  if (!options.problem.empty()) trial.problem = problem_of(options.problem);
  trial.operation = options.operation.value_or(trial.operation);
  trial.type = options.type.value_or(trial.type);
  drawn.layout = options.layout.value_or(drawn.layout);
  trial.allow_tf32 =
      trial.type == DataType::kFloat32 && engine.tf32 && (!engine.ieee || prefers_tf32);
  return drawn;
}

// Dense, with padding that keeps rows aligned, or with any.
Padding random_padding(const Engine& engine, std::mt19937_64& random) {
  const auto coin = [&random] { return random() % 2 == 0; };
  Padding result;
  if (coin()) return result;
  const Family& family = engine.family;
  const int unit = family.aligned || family.lines || family.wide || coin() ? 8 : 1;
  for (int& extra : result.extra) extra = coin() ? unit * static_cast<int>(random() % 3) : 0;
  result.offset = coin() ? unit * static_cast<int>(random() % 4) : 0;
  return result;
}

// One problem in some of its plans.
void run_seed(const Engine& engine, const Options& options, uint64_t seed, Counts& counts) {
  std::mt19937_64 random(seed);
  Drawn drawn = draw(engine, options, random);
  Trial& trial = drawn.trial;
  const Problem& problem = trial.problem;
  const bool forward = trial.operation == Operation::kForward;
  const bool grad_weight = trial.operation == Operation::kGradWeight;
  const Sizes input = problem.input_size(), output = problem.output_size();
  const Layout weight_layout =
      engine.family.wide || random() % 4 == 0 ? Layout::kChannelsLast : Layout::kContiguous;
  HostTensor first(trial.type, forward ? input : output, drawn.layout,
                   random_padding(engine, random));
  HostTensor second(trial.type, grad_weight ? input : problem.weight_size(),
                    grad_weight ? drawn.layout : weight_layout, random_padding(engine, random));
  HostTensor result(trial.type,
                    grad_weight ? problem.weight_size()
                    : forward   ? output
                                : input,
                    grad_weight ? weight_layout : drawn.layout, {});
  HostTensor bias(trial.type, {problem.out_channels, 1, 1, 1, 1}, Layout::kContiguous, {});
  first.fill_random(random);
  second.fill_random(random);
  bias.fill_random(random);
  const bool has_bias = forward && random() % 2 == 0;
  trial.first = first.pointer();
  trial.second = second.pointer();
  trial.result = result.pointer();
  if (has_bias) trial.bias = {bias.pointer().data, bias.pointer().stride[0]};

  const std::string context =
      "  seed " + std::to_string(seed) + " " + name_of(kOperations, trial.operation) + " " +
      name_of(kTypes, trial.type) + " " + name_of(kLayouts, drawn.layout) +
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
    if (options.verbose) std::printf("%s%s\n", context.c_str(), runs[i].plan.c_str());
    launch(runs[i], result, seed);
    const std::string wrong = difference(result, expected, trial.type);
    if (!wrong.empty()) fail("%s", wrong.c_str());
    if (i == 0 && !grad_weight && problem.batch > 1) {
      check_alone(engine, trial, result, drawn.layout, context, seed);
      set_context(context + runs[i].plan);
      check_apart(runs[i], first, result, seed);
    }
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

// Plans are searched for once per problem.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <map>
#include <mutex>
#include <vector>

#include "../geometry.h"
#include "planned.h"

namespace convt3d {

// What a plan depends on: the problem, and a few facts about tensors and device.
class PlanKey {
 public:
  PlanKey(const Problem& problem, std::initializer_list<int64_t> facts) {
    constexpr size_t kOfProblem = 4 + 3 * 7;
    values_.reserve(kOfProblem + facts.size());
    add({problem.batch, problem.in_channels, problem.out_channels, problem.groups});
    for (const Axis& axis : problem.axes)
      add({axis.input, axis.output, axis.kernel, axis.stride, axis.padding, axis.output_padding,
           axis.dilation});
    add(facts);
  }
  bool operator<(const PlanKey& other) const { return values_ < other.values_; }

 private:
  void add(std::initializer_list<int64_t> values) {
    for (int64_t value : values) values_.push_back(value);
  }

  std::vector<int64_t> values_;
};

// Thread-safe.
template <typename Plan>
class PlanCache {
 public:
  template <typename Search>
  Planned<Plan> find(const PlanKey& key, Search&& search) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto found = plans_.find(key);
    if (found != plans_.end()) return found->second;
    return plans_.emplace(key, search()).first->second;
  }

 private:
  std::mutex mutex_;
  std::map<PlanKey, Planned<Plan>> plans_;
};

}  // namespace convt3d

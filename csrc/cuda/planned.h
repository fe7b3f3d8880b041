// What a search for a plan comes to: a plan and its predicted time, or why there is none.
#pragma once

#include <array>
#include <limits>
#include <map>
#include <optional>

namespace convt3d {

// Completes the sentence "this engine cannot run the problem, because ...".
struct Refusal {
  const char* reason;
};

template <typename Plan>
class Planned {
 public:
  Planned(Refusal refusal) : reason_(refusal.reason) {}
  Planned(const Plan& plan, double clocks) : plan_(plan), clocks_(clocks) {}

  explicit operator bool() const { return plan_.has_value(); }
  const Plan& operator*() const { return *plan_; }
  const Plan* operator->() const { return &*plan_; }
  // Predicted, of one multiprocessor, from the kernel's start to its end.
  double clocks() const { return clocks_; }
  const char* refusal() const { return reason_; }

 private:
  std::optional<Plan> plan_;
  double clocks_ = 0;
  const char* reason_ = nullptr;
};

// The best plan of each kind that a search came across; a kind is what tells the kernel's instances
// and the shapes of their tiles apart.
template <typename Plan>
class Alternatives {
 public:
  using Kind = std::array<int, 7>;
  struct Alternative {
    Plan plan;
    double clocks;
  };

  // What a plan of this kind has to beat.
  double clocks_of(const Kind& kind) const {
    const auto found = best_.find(kind);
    return found == best_.end() ? std::numeric_limits<double>::infinity() : found->second.clocks;
  }
  void offer(const Kind& kind, const Plan& plan, double clocks) {
    if (clocks < clocks_of(kind)) best_.insert_or_assign(kind, Alternative{plan, clocks});
  }
  const std::map<Kind, Alternative>& all() const { return best_; }

 private:
  std::map<Kind, Alternative> best_;
};

}  // namespace convt3d

// What a search for a plan comes to: a plan and its predicted time, or why there is none.
#pragma once

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

}  // namespace convt3d

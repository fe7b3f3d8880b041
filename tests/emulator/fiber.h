// One fiber per emulated thread: a stack of its own, left and entered by a function call.
#pragma once

#include <cstddef>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace convt3d::emulator {

class Fiber {
 public:
  using Entry = void (*)();

  Fiber() = default;
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  // Prepares the fiber to run `entry`, which never returns, on `stack`.
  void prepare(char* stack, size_t bytes, Entry entry);
  // Leaves `from`, the running fiber, for this one.
  void enter(Fiber& from);

 private:
#if defined(__x86_64__)
  void* stack_pointer_ = nullptr;
#else
  ucontext_t context_;
#endif
};

}  // namespace convt3d::emulator

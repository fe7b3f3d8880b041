#include "fiber.h"

#include <cstdint>

namespace convt3d::emulator {

#if defined(__x86_64__)

// What a function call must preserve (System V ABI); floating-point modes never change here.
asm(R"(
.text
.type convt3d_switch_stack, @function
convt3d_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
)");
extern "C" void convt3d_switch_stack(void** left, void* entered);

void Fiber::prepare(char* stack, size_t bytes, Entry entry) {
  auto top = reinterpret_cast<uintptr_t>(stack + bytes) & ~uintptr_t{15};
  // As at a function's start: the return address, of which there is none, 8 bytes below a boundary.
  auto* place = reinterpret_cast<void**>(top) - 1;
  place[0] = nullptr;
  *--place = reinterpret_cast<void*>(entry);
  for (int saved = 0; saved < 6; ++saved) *--place = nullptr;
  stack_pointer_ = place;
}

void Fiber::enter(Fiber& from) { convt3d_switch_stack(&from.stack_pointer_, stack_pointer_); }

#else

void Fiber::prepare(char* stack, size_t bytes, Entry entry) {
  getcontext(&context_);
  context_.uc_stack.ss_sp = stack;
  context_.uc_stack.ss_size = bytes;
  context_.uc_link = nullptr;
  makecontext(&context_, entry, 0);
}

void Fiber::enter(Fiber& from) { swapcontext(&from.context_, &context_); }

#endif

}  // namespace convt3d::emulator

// One block of threads at a time, each thread a fiber of one scheduler. The order in which warps
// run is random, from a seed: what needs a barrier must have one.
#pragma once

#include <cstdint>
#include <functional>
#include <source_location>
#include <string>

namespace convt3d::emulator {

using Where = std::source_location;

constexpr int kWarpThreads = 32;
constexpr int kMostThreads = 1024;
constexpr uint32_t kWholeWarp = 0xffffffffu;

// Prints the message and where the running thread stands, and ends the program with status 1.
[[noreturn]] void fail(const char* format, ...) __attribute__((format(printf, 1, 2)));
[[noreturn]] void fail_at(const Where& where, const char* format, ...)
    __attribute__((format(printf, 2, 3)));

// What failures print first: the problem under test.
void set_context(const std::string& text);

// Seeds the order of warps and of asynchronous copies.
void set_schedule(uint64_t seed);
uint64_t random_number();

// Runs all blocks of a grid, one after the other. `kernel` is called once per thread.
struct Grid {
  unsigned blocks[3];
  int threads;
  int shared_bytes;
};
void run_grid(const Grid& grid, const std::function<void()>& kernel);

// ---- For the running thread ------------------------------------------------------------------
int this_thread();
inline int this_lane() { return this_thread() % kWarpThreads; }
inline int this_warp() { return this_thread() / kWarpThreads; }

// All lanes of `mask` meet; the last to come runs `compute` on what they brought.
using Operands = void* [kWarpThreads];
void meet_lanes(const char* what, uint32_t mask, void* operand,
                const std::function<void(const Operands&)>& compute, const Where& where);

// `threads` threads meet at one of the 16 barriers; 0: all that have not ended, at the same place.
void meet_block(int barrier, int threads, const Where& where);

// Waits until `done`, which is asked again after every call of wake() with the same address.
void wait_at(uint32_t address, uint32_t parity, const std::function<bool()>& done,
             const Where& where);
void wake(uint32_t address);

// Takes effect at some time before the block ends: at once, or later.
void complete_later(std::function<void()> effect);

// Whether this block's asynchronous products and copies of threads take effect as late as their
// waits allow, or as early as possible.
bool effects_are_late();

// Whether a warp has ended with products or copies that it has not waited for.
using ExitCheck = void (*)(int thread);
void add_exit_check(ExitCheck check);

}  // namespace convt3d::emulator

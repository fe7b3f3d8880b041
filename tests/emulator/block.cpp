#include "block.h"

#include <cuda_runtime_api.h>
#include <sys/mman.h>

#include <bit>
#include <csignal>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <random>
#include <utility>
#include <vector>

#include "fiber.h"
#include "shared_memory.h"

// What kernels read.
uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace convt3d::emulator {
namespace {

constexpr size_t kStackBytes = 256 * 1024;
constexpr int kBarriers = 16;

enum class State { kReady, kLanes, kBarrier, kShared, kEnded };

struct Thread {
  Fiber fiber;
  State state = State::kEnded;
  Where where;
  const char* what = "";
  uint32_t address = 0, parity = 0;  // or barrier and threads
};

struct Warp {
  uint32_t ready = 0, arrived = 0, mask = 0;
  const char* what = "";
  Operands operands;
};

struct Barrier {
  int threads = 0, arrived = 0;
  Where where;  // of the first to arrive
};

struct Block {
  std::vector<Thread> threads{kMostThreads};
  Warp warps[kMostThreads / kWarpThreads];
  Barrier barriers[kBarriers];
  Fiber scheduler;
  char* stacks = nullptr;
  int count = 0, alive = 0, current = -1;
  bool late = false;
  const std::function<void()>* kernel = nullptr;
  std::vector<std::function<void()>> pending;
  std::vector<ExitCheck> exit_checks;
  std::string context;
  std::mt19937_64 random{0};
};

Block& block() {
  static Block* const instance = new Block;
  return *instance;
}

Thread& running() { return block().threads[block().current]; }

void set_ready(int thread) {
  block().threads[thread].state = State::kReady;
  block().warps[thread / kWarpThreads].ready |= 1u << thread % kWarpThreads;
}

// The running thread leaves its turn; someone will call set_ready().
void suspend(State state) {
  Block& b = block();
  Thread& thread = running();
  thread.state = state;
  b.scheduler.enter(thread.fiber);
}

void release_barrier(int id) {
  Block& b = block();
  for (int i = 0; i < b.count; ++i)
    if (b.threads[i].state == State::kBarrier && b.threads[i].address == static_cast<uint32_t>(id))
      set_ready(i);
  b.barriers[id] = {};
}

// Threads that have ended are not waited for by barriers of the whole block.
bool is_complete(const Barrier& barrier) {
  return barrier.arrived > 0 &&
         barrier.arrived == (barrier.threads == 0 ? block().alive : barrier.threads);
}

void run_thread() {
  Block& b = block();
  for (;;) {
    (*b.kernel)();
    for (ExitCheck check : b.exit_checks) check(b.current);
    --b.alive;
    for (int id = 0; id < kBarriers; ++id)
      if (b.barriers[id].threads == 0 && is_complete(b.barriers[id])) release_barrier(id);
    suspend(State::kEnded);
  }
}

std::string describe(const Thread& thread) {
  char text[512];
  const char* file = std::strrchr(thread.where.file_name(), '/');
  const auto line = static_cast<unsigned>(thread.where.line());
  file = file == nullptr ? thread.where.file_name() : file + 1;
  switch (thread.state) {
    case State::kLanes:
      std::snprintf(text, sizeof(text), "%s at %s:%u", thread.what, file, line);
      break;
    case State::kBarrier: {
      const Barrier& barrier = block().barriers[thread.address];
      std::snprintf(text, sizeof(text), "barrier %u at %s:%u, %d of %d threads there",
                    thread.address, file, line, barrier.arrived,
                    barrier.threads == 0 ? block().alive : barrier.threads);
      break;
    }
    case State::kShared:
      std::snprintf(text, sizeof(text), "mbarrier 0x%x, parity %u, at %s:%u: %s", thread.address,
                    thread.parity, file, line, describe_barrier(thread.address).c_str());
      break;
    case State::kEnded:
      return "ended";
    case State::kReady:
      return "ready";
  }
  return text;
}

// Where every warp stands.
void print_warps() {
  const Block& b = block();
  std::map<std::string, std::string> warps;
  for (int first = 0; first < b.count; first += kWarpThreads) {
    std::map<std::string, uint32_t> lanes;
    for (int i = first; i < first + kWarpThreads && i < b.count; ++i)
      lanes[describe(b.threads[i])] |= 1u << i % kWarpThreads;
    for (const auto& [text, mask] : lanes) {
      char name[40];
      std::snprintf(name, sizeof(name), mask == kWholeWarp ? " %d" : " %d (lanes %08x)",
                    first / kWarpThreads, mask);
      warps[text] += name;
    }
  }
  for (const auto& [text, names] : warps)
    std::printf("  %s: warps%s\n", text.c_str(), names.c_str());
}

[[noreturn]] void end_failed() {
  Block& b = block();
  if (b.current >= 0)
    std::printf("  thread %d of block (%u, %u, %u)\n", b.current, blockIdx.x, blockIdx.y,
                blockIdx.z);
  std::printf("%s\n", b.context.c_str());
  std::fflush(stdout);
  std::_Exit(1);
}

void print_failure(const char* format, va_list arguments) {
  std::printf("FAILED: ");
  std::vprintf(format, arguments);
  std::printf("\n");
}

void on_fault(int, siginfo_t* info, void*) {
  std::printf("FAILED: access to memory that does not exist, at %p\n", info->si_addr);
  end_failed();
}

void prepare_stacks() {
  Block& b = block();
  if (b.stacks != nullptr) return;
  // Only touched pages take memory.
  b.stacks = static_cast<char*>(mmap(nullptr, kMostThreads * kStackBytes, PROT_READ | PROT_WRITE,
                                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  if (b.stacks == MAP_FAILED) fail("no memory for stacks");
  for (int i = 0; i < kMostThreads; ++i)
    b.threads[i].fiber.prepare(b.stacks + i * kStackBytes, kStackBytes, run_thread);
  static char fault_stack[64 * 1024];
  const stack_t stack{fault_stack, 0, sizeof(fault_stack)};
  sigaltstack(&stack, nullptr);
  struct sigaction action{};
  action.sa_sigaction = on_fault;
  action.sa_flags = SA_ONSTACK | SA_SIGINFO;
  for (int signal : {SIGSEGV, SIGBUS, SIGFPE}) sigaction(signal, &action, nullptr);
}

void complete_one() {
  auto& pending = block().pending;
  std::swap(pending[random_number() % pending.size()], pending.back());
  const std::function<void()> effect = std::move(pending.back());
  pending.pop_back();
  effect();
}

void run_block() {
  Block& b = block();
  b.alive = b.count;
  b.late = random_number() % 2 == 0;
  const int warps = (b.count + kWarpThreads - 1) / kWarpThreads;
  for (int i = 0; i < b.count; ++i) set_ready(i);
  const unsigned x = blockDim.x, y = blockDim.y;
  while (b.alive > 0) {
    int ready[kMostThreads / kWarpThreads], count = 0;
    for (int w = 0; w < warps; ++w)
      if (b.warps[w].ready != 0) ready[count++] = w;
    if (!b.pending.empty() && (count == 0 || random_number() % 4 == 0)) {
      complete_one();
      continue;
    }
    if (count == 0) {
      std::printf("FAILED: DEADLOCK in block (%u, %u, %u)\n", blockIdx.x, blockIdx.y, blockIdx.z);
      print_warps();
      end_failed();
    }
    const int warp = ready[random_number() % count];
    const bool last_first = random_number() % 2 == 0;
    for (uint32_t lanes = std::exchange(b.warps[warp].ready, 0); lanes != 0;) {
      const int lane = last_first ? 31 - std::countl_zero(lanes) : std::countr_zero(lanes);
      lanes &= ~(1u << lane);
      b.current = warp * kWarpThreads + lane;
      const auto thread = static_cast<unsigned>(b.current);
      threadIdx = {thread % x, thread / x % y, thread / x / y};
      running().fiber.enter(b.scheduler);
    }
    b.current = -1;
  }
  if (!b.pending.empty()) fail("a block ends before its asynchronous copies");
}

}  // namespace

void fail(const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  print_failure(format, arguments);
  va_end(arguments);
  end_failed();
}

void fail_at(const Where& where, const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  print_failure(format, arguments);
  va_end(arguments);
  std::printf("  at %s:%u\n", where.file_name(), static_cast<unsigned>(where.line()));
  end_failed();
}

void set_context(const std::string& text) { block().context = text; }
void set_schedule(uint64_t seed) { block().random.seed(seed); }
uint64_t random_number() { return block().random(); }
int this_thread() { return block().current; }
bool effects_are_late() { return block().late; }
void add_exit_check(ExitCheck check) { block().exit_checks.push_back(check); }

void meet_lanes(const char* what, uint32_t mask, void* operand,
                const std::function<void(const Operands&)>& compute, const Where& where) {
  Block& b = block();
  Warp& warp = b.warps[b.current / kWarpThreads];
  const int first = b.current / kWarpThreads * kWarpThreads, lane = b.current % kWarpThreads;
  if ((mask >> lane & 1) == 0) fail_at(where, "%s: the lane is not in its mask %08x", what, mask);
  if (warp.arrived == 0) {
    warp.mask = mask;
    warp.what = what;
  } else if (warp.mask != mask || (warp.what != what && std::strcmp(warp.what, what) != 0)) {
    fail_at(where, "lanes of a warp diverge: %s of mask %08x, others wait in %s of mask %08x", what,
            mask, warp.what, warp.mask);
  }
  warp.operands[lane] = operand;
  warp.arrived |= 1u << lane;
  running().where = where;
  running().what = what;
  if (warp.arrived != warp.mask) return suspend(State::kLanes);
  compute(warp.operands);
  warp.arrived = 0;
  for (int i = 0; i < kWarpThreads; ++i)
    if (i != lane && mask >> i & 1) set_ready(first + i);
}

void meet_block(int id, int threads, const Where& where) {
  if (id < 0 || id >= kBarriers) fail_at(where, "barrier %d does not exist", id);
  if (threads % kWarpThreads != 0) fail_at(where, "barrier %d of %d threads", id, threads);
  Barrier& barrier = block().barriers[id];
  if (barrier.arrived > 0 && barrier.threads != threads)
    fail_at(where, "barrier %d is waited for by %d and by %d threads", id, barrier.threads,
            threads);
  if (barrier.arrived == 0) barrier.where = where;
  if (threads == 0 && barrier.where.line() != where.line())
    fail_at(where, "__syncthreads in a branch: others are at line %u", barrier.where.line());
  barrier.threads = threads;
  ++barrier.arrived;
  if (is_complete(barrier)) return release_barrier(id);
  running().where = where;
  running().address = static_cast<uint32_t>(id);
  suspend(State::kBarrier);
}

void wait_at(uint32_t address, uint32_t parity, const std::function<bool()>& done,
             const Where& where) {
  Thread& thread = running();
  thread.where = where;
  thread.address = address;
  thread.parity = parity;
  while (!done()) suspend(State::kShared);
}

void wake(uint32_t address) {
  Block& b = block();
  for (int i = 0; i < b.count; ++i)
    if (b.threads[i].state == State::kShared && b.threads[i].address == address) set_ready(i);
}

void complete_later(std::function<void()> effect) {
  if (random_number() % 4 == 0)
    effect();
  else
    block().pending.push_back(std::move(effect));
}

void run_grid(const Grid& grid, const std::function<void()>& kernel) {
  Block& b = block();
  if (grid.threads < 1 || grid.threads > kMostThreads) fail("a block of %d threads", grid.threads);
  prepare_stacks();
  b.count = grid.threads;
  b.kernel = &kernel;
  for (blockIdx.z = 0; blockIdx.z < grid.blocks[2]; ++blockIdx.z)
    for (blockIdx.y = 0; blockIdx.y < grid.blocks[1]; ++blockIdx.y)
      for (blockIdx.x = 0; blockIdx.x < grid.blocks[0]; ++blockIdx.x) {
        poison_shared_memory(grid.shared_bytes);
        run_block();
        check_shared_memory();
      }
}

}  // namespace convt3d::emulator

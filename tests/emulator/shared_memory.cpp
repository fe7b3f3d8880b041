#include "shared_memory.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <vector>

namespace convt3d {

// The names by which kernels declare their dynamic shared memory: all the same memory.
// thread_local stands for __shared__, see cuda_language.h.
constexpr size_t kBufferBytes = emulator::kSharedBytes + emulator::kGuardBytes;
alignas(1024) thread_local char base[kBufferBytes];
extern thread_local char shared[kBufferBytes] __attribute__((alias("_ZN7convt3d4baseE")));
extern thread_local float weights[kBufferBytes / 4]
    __attribute__((alias("_ZN7convt3d4baseE"), aligned(1024)));

namespace emulator {
namespace {

constexpr unsigned char kPoison = 0xff;  // a NaN of every floating-point type
constexpr char kUnknown = 0x4e;          // 25 as float16, 8.65e8 as bfloat16 and as float32
int dynamic_bytes = 0;
uint64_t blocks = 0;  // that have begun

struct Store {
  int thread = -1;  // whose fence is missing
  uint64_t block = 0;
};
Store stores[kSharedBytes / 16];
std::vector<uint32_t> unfenced[kMostThreads];

Store& store_at(uint32_t address) { return stores[(address - kFirstAddress) / 16]; }

// Its name in PTX is opaque; the limits of the counts are those that PTX documents.
struct Mbarrier {
  uint64_t valid : 2;
  uint64_t phase : 1;
  uint64_t expected : 20;  // arrivals of a phase
  uint64_t pending : 20;   // of this one
  int64_t bytes : 21;      // still to come in this one
};
static_assert(sizeof(Mbarrier) == 8);
constexpr unsigned kValid = 2;  // neither zeros nor poison
constexpr int64_t kMostCount = (1 << 20) - 1;

Mbarrier* find(uint32_t address) {
  auto* const barrier = reinterpret_cast<Mbarrier*>(memory_at(address, 8, 8, "an mbarrier"));
  if (barrier->valid != kValid) fail("0x%x is no mbarrier", address);
  return barrier;
}

void finish_phase(Mbarrier* barrier, uint32_t address) {
  if (barrier->pending != 0 || barrier->bytes != 0) return;
  barrier->phase ^= 1;
  barrier->pending = barrier->expected;
  wake(address);
}

}  // namespace

void poison_shared_memory(int bytes) {
  if (bytes > kSharedBytes) fail("%d bytes of shared memory", bytes);
  std::memset(base, kPoison, std::max(bytes, dynamic_bytes) + kGuardBytes);
  dynamic_bytes = bytes;
  ++blocks;
  for (std::vector<uint32_t>& addresses : unfenced) addresses.clear();
}

void check_shared_memory() {
  for (int at = dynamic_bytes; at < dynamic_bytes + kGuardBytes; ++at)
    if (static_cast<unsigned char>(base[at]) != kPoison)
      fail("byte %d of %d bytes of shared memory has been written", at, dynamic_bytes);
}

uint32_t address_of(const void* pointer) {
  const char* const byte = static_cast<const char*>(pointer);
  if (byte < base || byte > base + dynamic_bytes)
    fail("%p is no address in dynamic shared memory", pointer);
  return kFirstAddress + static_cast<uint32_t>(byte - base);
}

char* memory_at(uint32_t address, size_t bytes, size_t alignment, const char* what) {
  const auto end = static_cast<size_t>(dynamic_bytes);
  if (address < kFirstAddress || address - kFirstAddress + bytes > end)
    fail("%s: %zu bytes at 0x%x are outside shared memory (0x%x to 0x%zx)", what, bytes, address,
         kFirstAddress, kFirstAddress + end);
  if (address % alignment != 0)
    fail("%s: 0x%x is not on a boundary of %zu bytes", what, address, alignment);
  return base + (address - kFirstAddress);
}

// ---- Visibility --------------------------------------------------------------------------------
void store_unit(uint32_t address, const void* source, int thread) {
  std::memcpy(memory_at(address, 16, 16, "a store"), source, 16);
  store_at(address) = {thread, blocks};
  unfenced[thread].push_back(address);
}

void store_word(uint32_t address, uint32_t value, int thread) {
  std::memcpy(memory_at(address, 4, 4, "a store"), &value, 4);
  const uint32_t unit = address & ~15u;
  store_at(unit) = {thread, blocks};
  unfenced[thread].push_back(unit);
}

void fence_stores() {
  std::vector<uint32_t>& addresses = unfenced[this_thread()];
  for (uint32_t address : addresses)
    if (store_at(address).thread == this_thread()) store_at(address).thread = -1;
  addresses.clear();
}

const char* operand_unit(uint32_t address) {
  const char* const unit = memory_at(address, 16, 16, "an operand of wgmma");
  // Rows that only meet zeros, or whose results nobody stores, may be read while they change.
  static const std::vector<char> unknown(16, kUnknown);
  const Store& store = store_at(address);
  return store.thread >= 0 && store.block == blocks ? unknown.data() : unit;
}

// ---- mbarrier ----------------------------------------------------------------------------------
void init_barrier(uint32_t address, int arrivals, const Where& where) {
  if (arrivals < 1 || arrivals > kMostCount) fail_at(where, "mbarrier of %d arrivals", arrivals);
  const auto count = static_cast<uint64_t>(arrivals);
  const Mbarrier barrier{kValid, 0, count, count, 0};
  std::memcpy(memory_at(address, 8, 8, "an mbarrier"), &barrier, sizeof(barrier));
}

void arrive_at_barrier(uint32_t address, int64_t expected_bytes, const Where& where) {
  Mbarrier* const barrier = find(address);
  if (barrier->pending == 0)
    fail_at(where, "mbarrier 0x%x: more than %d arrivals in a phase", address,
            static_cast<int>(barrier->expected));
  if (expected_bytes < 0 || barrier->bytes + expected_bytes > kMostCount)
    fail_at(where, "mbarrier 0x%x: %lld bytes are expected", address,
            static_cast<long long>(barrier->bytes + expected_bytes));
  barrier->bytes += expected_bytes;
  --barrier->pending;
  finish_phase(barrier, address);
}

void complete_bytes(uint32_t address, int64_t bytes) {
  Mbarrier* const barrier = find(address);
  if (barrier->bytes - bytes < -kMostCount) fail("mbarrier 0x%x: too many bytes", address);
  barrier->bytes -= bytes;
  finish_phase(barrier, address);
}

bool has_completed(uint32_t address, uint32_t parity) {
  if (parity > 1) fail("mbarrier 0x%x: parity %u", address, parity);
  return find(address)->phase != parity;
}

void wait_barrier(uint32_t address, uint32_t parity, const Where& where) {
  if (has_completed(address, parity)) return;
  wait_at(address, parity, [=] { return has_completed(address, parity); }, where);
}

std::string describe_barrier(uint32_t address) {
  const Mbarrier* const barrier = find(address);
  char text[160];
  std::snprintf(text, sizeof(text),
                "in a phase of parity %d, %d of %d arrivals and %d bytes to come",
                static_cast<int>(barrier->phase), static_cast<int>(barrier->pending),
                static_cast<int>(barrier->expected), static_cast<int>(barrier->bytes));
  return text;
}

}  // namespace emulator
}  // namespace convt3d

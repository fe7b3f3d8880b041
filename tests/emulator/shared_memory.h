// Shared memory: 32-bit addresses, bounds, and the barriers that lie in it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "block.h"

namespace convt3d::emulator {

constexpr int kSharedBytes = 227 * 1024;
constexpr int kGuardBytes = 1024;         // behind a block's memory
constexpr uint32_t kFirstAddress = 1024;  // where a kernel's own memory begins

// Fills the dynamic memory of a block with NaNs; check: that nothing behind it has been written.
void poison_shared_memory(int dynamic_bytes);
void check_shared_memory();

uint32_t address_of(const void* pointer);
// The memory of `bytes` bytes at an address, all of it inside, on a boundary of `alignment`.
char* memory_at(uint32_t address, size_t bytes, size_t alignment, const char* what);

// ---- Visibility ------------------------------------------------------------------------------
// A thread's store of 16 bytes or 4, which the matrix units see only after the thread's fence.
// (Stores through pointers are not known.)
void store_unit(uint32_t address, const void* source, int thread);
void store_word(uint32_t address, uint32_t value, int thread);
void fence_stores();
// What the matrix units see: without the fence, something finite and wrong.
const char* operand_unit(uint32_t address);

// ---- mbarrier --------------------------------------------------------------------------------
void init_barrier(uint32_t address, int arrivals, const Where& where);
// One arrival, after which the phase also waits for these bytes.
void arrive_at_barrier(uint32_t address, int64_t expected_bytes, const Where& where);
void complete_bytes(uint32_t address, int64_t bytes);
// Whether the phase of this parity has completed.
bool has_completed(uint32_t address, uint32_t parity);
void wait_barrier(uint32_t address, uint32_t parity, const Where& where);
std::string describe_barrier(uint32_t address);

}  // namespace convt3d::emulator

// Products of a warp, and the copies and loads that go with them.
#include <array>
#include <cstring>
#include <vector>

#include "instructions.h"
#include "shared_memory.h"

namespace convt3d::emulator {
namespace {

// ---- cp.async ----------------------------------------------------------------------------------
struct Copy {
  uint32_t destination;
  const void* source;  // nullptr: zeros
  int bytes;
  uint64_t group;
};
struct ThreadCopies {
  std::vector<Copy> copies;
  uint64_t groups = 0;
};
ThreadCopies all_copies[kMostThreads];

void execute(const Copy& copy) {
  const auto bytes = static_cast<size_t>(copy.bytes);
  char* const target = memory_at(copy.destination, bytes, bytes, "cp.async");
  if (copy.source != nullptr)
    std::memcpy(target, copy.source, bytes);
  else
    std::memset(target, 0, bytes);
}

// What nobody waits for may never arrive.
void check_exit(int thread) { all_copies[thread].copies.clear(); }

// ---- mma ---------------------------------------------------------------------------------------
struct TileOperand {
  float* sums;
  const uint32_t* left;
  std::array<uint32_t, 2> right;
};

void multiply(Element element, const Operands& lanes) {
  const int in_word = 4 / bytes_of(element);
  float left[16][16], right[16][8];  // (row, depth), (depth, column)
  for (int lane = 0; lane < kWarpThreads; ++lane) {
    const auto& operand = *static_cast<const TileOperand*>(lanes[lane]);
    for (int half = 0; half < 2; ++half)  // of the depth
    {
      const int depth = half * 4 * in_word + lane % 4 * in_word;
      const auto load = [element](const uint32_t& word, float* values) {
        load_values(element, reinterpret_cast<const char*>(&word), 4, values);
      };
      load(operand.left[2 * half], &left[lane / 4][depth]);
      load(operand.left[2 * half + 1], &left[lane / 4 + 8][depth]);
      float values[2];
      load(operand.right[half], values);
      for (int e = 0; e < in_word; ++e) right[depth + e][lane / 4] = values[e];
    }
  }
  for (int row = 0; row < 16; ++row) {
    float sums[8] = {};
    for (int depth = 0; depth < 8 * in_word; ++depth)
      for (int column = 0; column < 8; ++column)
        sums[column] += left[row][depth] * right[depth][column];
    for (int column = 0; column < 8; ++column)
      static_cast<const TileOperand*>(lanes[row % 8 * 4 + column / 2])
          ->sums[row / 8 * 2 + column % 2] += sums[column];
  }
}

struct DoubleTileOperand {
  double* sums;
  const double* left;
  double right;
};

void multiply_doubles(const Operands& lanes) {
  for (int lane = 0; lane < kWarpThreads; ++lane) {
    double* const sums = static_cast<const DoubleTileOperand*>(lanes[lane])->sums;
    for (int e = 0; e < 4; ++e) {
      const int row = lane / 4, column = lane % 4 * 2 + e % 2;
      for (int depth = 0; depth < 4; ++depth)
        sums[e] += static_cast<const DoubleTileOperand*>(lanes[row * 4 + depth])->left[e / 2] *
                   static_cast<const DoubleTileOperand*>(lanes[column * 4 + depth])->right;
    }
  }
}

}  // namespace

void copy_async(uint32_t destination, const void* source, int bytes, bool valid) {
  static const bool registered = (add_exit_check(check_exit), true);
  (void)registered;
  if (reinterpret_cast<uintptr_t>(source) % static_cast<uintptr_t>(bytes) != 0)
    fail("cp.async of %d bytes from %p", bytes, source);
  memory_at(destination, static_cast<size_t>(bytes), static_cast<size_t>(bytes), "cp.async");
  ThreadCopies& thread = all_copies[this_thread()];
  const Copy copy{destination, valid ? source : nullptr, bytes, thread.groups};
  if (effects_are_late())
    thread.copies.push_back(copy);
  else
    execute(copy);
}

void copy_async_commit() { ++all_copies[this_thread()].groups; }

void copy_async_wait(int pending) {
  ThreadCopies& thread = all_copies[this_thread()];
  size_t done = 0;
  for (; done < thread.copies.size() &&
         thread.copies[done].group + static_cast<uint64_t>(pending) < thread.groups;
       ++done)
    execute(thread.copies[done]);
  thread.copies.erase(thread.copies.begin(),
                      thread.copies.begin() + static_cast<std::ptrdiff_t>(done));
}

void load_matrices(uint32_t* fragment, int matrices, bool transposed, uint32_t address,
                   const Where& where) {
  struct Operand {
    uint32_t* fragment;
    uint32_t address;
  } operand{fragment, address};
  meet_lanes(
      transposed ? "ldmatrix.trans" : "ldmatrix", kWholeWarp, &operand,
      [=](const Operands& lanes) {
        for (int m = 0; m < matrices; ++m) {
          uint16_t elements[8][8];
          for (int row = 0; row < 8; ++row)
            std::memcpy(elements[row],
                        memory_at(static_cast<const Operand*>(lanes[8 * m + row])->address, 16, 16,
                                  "ldmatrix"),
                        16);
          for (int lane = 0; lane < kWarpThreads; ++lane) {
            const int slow = lane / 4, fast = lane % 4 * 2;
            const uint32_t low = transposed ? elements[fast][slow] : elements[slow][fast];
            const uint32_t high = transposed ? elements[fast + 1][slow] : elements[slow][fast + 1];
            static_cast<const Operand*>(lanes[lane])->fragment[m] = high << 16 | low;
          }
        }
      },
      where);
}

void multiply_tile(Element element, float (&sums)[4], const uint32_t (&left)[4],
                   std::array<uint32_t, 2> right, const Where& where) {
  TileOperand operand{sums, left, right};
  meet_lanes(
      "mma", kWholeWarp, &operand, [=](const Operands& lanes) { multiply(element, lanes); }, where);
}

void multiply_tile(double (&sums)[4], const double (&left)[2], double right, const Where& where) {
  DoubleTileOperand operand{sums, left, right};
  meet_lanes("mma", kWholeWarp, &operand, multiply_doubles, where);
}

}  // namespace convt3d::emulator

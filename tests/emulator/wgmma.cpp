// Products of warpgroups. A warp computes its quarter of the rows when all its lanes have issued a
// product, or only when it waits for it (effects_are_late): then an operand that is overwritten too
// early is seen.
#include <algorithm>
#include <cstring>
#include <deque>
#include <vector>

#include "copy_engine.h"
#include "instructions.h"
#include "shared_memory.h"

namespace convt3d::emulator {
namespace {

constexpr int kDepthBytes = 32, kUnit = 16;
constexpr int kMostColumns = 256, kMostDepth = 16;

struct Issued {
  WgmmaProduct product;
  uint64_t group;
  float* sums[kWarpThreads];
  const uint32_t* fragments[kWarpThreads];  // read when the product is computed, as by the hardware
  uint32_t lanes = 0;
  bool done = false;
};

struct WarpQueue {
  std::deque<Issued> issued;
  uint64_t first = 0;  // number of the front
  uint64_t next[kWarpThreads] = {}, groups[kWarpThreads] = {};
};
WarpQueue queues[kMostThreads / kWarpThreads];

// The fields of a descriptor.
struct Matrix {
  uint32_t start, leading, stride;
  int width;  // bytes of the swizzle; 16: none

  explicit Matrix(uint64_t descriptor)
      : start(static_cast<uint32_t>(descriptor & 0x3fff) << 4),
        leading(static_cast<uint32_t>(descriptor >> 16 & 0x3fff) << 4),
        stride(static_cast<uint32_t>(descriptor >> 32 & 0x3fff) << 4),
        width(16) {
    if ((descriptor >> 49 & 7) != 0) fail("wgmma: base offsets are not emulated");
    constexpr int kWidths[] = {16, 128, 64, 32};
    width = kWidths[descriptor >> 62];
  }
  const char* unit(uint32_t offset) const { return operand_unit(swizzled(start + offset, width)); }
};

// Rows [first, first + count) as out[depth][row].
void load(uint64_t descriptor, bool transposed, Element element, int first, int count,
          float (*out)[kMostColumns]) {
  const Matrix matrix(descriptor);
  const int bytes = bytes_of(element), elements = kUnit / bytes;
  const auto width = static_cast<uint32_t>(matrix.width);
  if (transposed) {
    if (bytes != 2) fail("wgmma: only 16-bit operands can be transposed");
    if (width == 16) fail("wgmma: transposed operands without swizzle are not emulated");
    for (int depth = 0; depth < kDepthBytes / bytes; ++depth)
      for (int row = 0; row < count; row += elements) {
        const auto at = static_cast<uint32_t>((first + row) * bytes);
        const char* const unit = matrix.unit(at / width * matrix.leading + at % width +
                                             static_cast<uint32_t>(depth / 8) * matrix.stride +
                                             static_cast<uint32_t>(depth % 8) * width);
        load_values(element, unit, kUnit, out[depth] + row);
      }
    return;
  }
  for (int row = 0; row < count; ++row)
    for (uint32_t half = 0; half < 2; ++half) {
      const auto r = static_cast<uint32_t>(first + row);
      const uint32_t along = width == 16 ? half * matrix.leading : half * kUnit;
      const char* const unit = matrix.unit(r / 8 * matrix.stride + r % 8 * width + along);
      float values[8];
      load_values(element, unit, kUnit, values);
      for (int i = 0; i < elements; ++i)
        out[static_cast<int>(half) * elements + i][row] = values[i];
    }
}

// A gathered left operand from the registers of a warp.
void load_fragments(const Issued& issued, float (*out)[kMostColumns]) {
  const int values = 4 / bytes_of(issued.product.element);  // of a register
  for (int lane = 0; lane < kWarpThreads; ++lane)
    for (int i = 0; i < 4; ++i) {
      float loaded[2];
      load_values(issued.product.element, reinterpret_cast<const char*>(issued.fragments[lane] + i),
                  4, loaded);
      for (int j = 0; j < values; ++j)
        out[(lane % 4 + 4 * (i / 2)) * values + j][lane / 4 + 8 * (i % 2)] = loaded[j];
    }
}

void execute(Issued& issued, int warp) {
  static float left[kMostDepth][kMostColumns], right[kMostDepth][kMostColumns];
  const WgmmaProduct& product = issued.product;
  const int depths = kDepthBytes / bytes_of(product.element), columns = product.columns;
  if (product.gathered)
    load_fragments(issued, left);
  else
    load(product.left, product.left_transposed, product.element, warp % 4 * 16, 16, left);
  load(product.right, product.right_transposed, product.element, 0, columns, right);
  for (int row = 0; row < 16; ++row) {
    float sums[kMostColumns] = {};
    for (int depth = 0; depth < depths; ++depth)
      for (int column = 0; column < columns; ++column)
        sums[column] += left[depth][row] * right[depth][column];
    for (int column = 0; column < columns; ++column) {
      float& sum =
          issued.sums[row % 8 * 4 + column % 8 / 2][column / 8 * 4 + row / 8 * 2 + column % 2];
      sum = product.accumulate ? sum + sums[column] : sums[column];
    }
  }
  issued.done = true;
}

void check_exit(int thread) {
  if (!queues[thread / kWarpThreads].issued.empty())
    fail("a warp ends with products that it has not waited for");
}

}  // namespace

void wgmma(const WgmmaProduct& product, float* sums, const Where& where, const uint32_t* fragment) {
  static const bool registered = (add_exit_check(check_exit), true);
  (void)registered;
  WarpQueue& queue = queues[this_warp()];
  const int lane = this_lane();
  const uint64_t at = queue.next[lane]++ - queue.first;
  if (at == queue.issued.size()) queue.issued.push_back({product, queue.groups[lane], {}, {}});
  Issued& issued = queue.issued[at];
  if (!(issued.product == product) || issued.group != queue.groups[lane])
    fail_at(where, "wgmma: the lanes of a warp issue different products");
  issued.sums[lane] = sums;
  issued.fragments[lane] = fragment;
  issued.lanes |= 1u << lane;
  if (issued.lanes == kWholeWarp && !effects_are_late()) execute(issued, this_warp());
}

void wgmma_commit() { ++queues[this_warp()].groups[this_lane()]; }

void wgmma_wait(int pending, const Where& where) {
  const int warp = this_warp();
  meet_lanes(
      "wgmma_wait", kWholeWarp, nullptr,
      [&](const Operands&) {
        WarpQueue& queue = queues[warp];
        const uint64_t groups = queue.groups[0];
        for (int lane = 1; lane < kWarpThreads; ++lane)
          if (queue.groups[lane] != groups || queue.next[lane] != queue.next[0])
            fail_at(where, "wgmma: the lanes of a warp have issued different numbers of products");
        while (!queue.issued.empty() &&
               queue.issued.front().group + static_cast<uint64_t>(pending) < groups) {
          if (!queue.issued.front().done) execute(queue.issued.front(), warp);
          queue.issued.pop_front();
          ++queue.first;
        }
      },
      where);
}

}  // namespace convt3d::emulator

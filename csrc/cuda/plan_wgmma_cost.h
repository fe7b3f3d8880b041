// The cost model of the WGMMA data kernel, in clocks of one multiprocessor of an H200, and what
// that of grad_weight shares with it. It orders the plans of one kernel; docs/performance.md
// compares its predictions with measurements.
#pragma once

#include <cmath>

#include "kernels/wgmma_data_sizes.h"

namespace convt3d {

constexpr double kMemoryBytes = 17;  // of tensors, per clock and multiprocessor

// What goes on at once takes the norm of so many powers.
constexpr double kOverlap = 3;
inline double overlapped(double one, double other) {
  return std::pow(std::pow(one, kOverlap) + std::pow(other, kOverlap), 1 / kOverlap);
}

constexpr double element_bytes(const WgmmaDataPlan& plan) { return 16. / plan.unit_elements; }

// The products of one part of a weight stage, for one warpgroup.
double part_clocks(const WgmmaDataPlan& plan);

// Of a work item, whatever its segment and the number of items.
struct ItemClocks {
  double begin;  // before the first position along d
  double step;   // of each, on average
  double most;   // the same of the column tiles with most taps, which the others wait for
};
ItemClocks item_clocks(const WgmmaDataPlan& plan, const WgmmaDataSizes& sizes,
                       bool result_channels_last);

// The whole pass, of items of so many positions along d.
double clocks_of(const ItemClocks& item, int segment, int64_t items, int multiprocessors);

}  // namespace convt3d

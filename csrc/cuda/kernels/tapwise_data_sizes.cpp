#include "tapwise_data_sizes.h"

#include <limits>

namespace convt3d {

TapwiseSizes tapwise_sizes(const Problem& problem, Pass pass, const TapwisePlan& plan) {
  const bool forward = pass == Pass::kForward;
  const int64_t operand_channels =
      forward ? problem.in_channels_per_group() : problem.out_channels_per_group();
  const int64_t result_channels =
      forward ? problem.out_channels_per_group() : problem.in_channels_per_group();
  const auto ceil_div = [](int64_t a, int64_t b) { return static_cast<int>((a + b - 1) / b); };
  TapwiseSizes sizes{};
  sizes.chunks = ceil_div(operand_channels, kTapwiseUnits * plan.unit_elements);
  sizes.channel_tiles = ceil_div(result_channels, plan.columns);
  sizes.planes = sizes.box_rows = 1;
  int64_t tiles = 1;
  for (int a = 0; a < 4; ++a) {
    const int64_t extent = a == 0 ? problem.batch : plan.axes[a - 1].positions;
    tiles *= sizes.tiles[a] = ceil_div(extent, plan.tile[a]);
    sizes.box_rows *= plan.tile[a];
    if (a > 0) sizes.planes *= plan.axes[a - 1].planes;
  }
  sizes.operand_bytes = tapwise_rows(plan) * kTapwiseRowBytes;
  sizes.weight_bytes = plan.columns * kTapwiseRowBytes;
  sizes.stage_bytes = sizes.operand_bytes + sizes.weight_bytes;
  sizes.barriers_at = plan.stages * sizes.stage_bytes;
  sizes.shared_bytes = sizes.barriers_at + plan.stages * 2 * 8;
  const int64_t results = tiles * problem.groups * sizes.channel_tiles * sizes.planes;
  sizes.items = results * (plan.split ? plan.segments : 1);
  if (plan.split) {
    constexpr int64_t kMost = std::numeric_limits<int>::max(), kUnits = 4;
    const int64_t counters = (results * kTapwiseWarps + kUnits - 1) / kUnits * kUnits;
    sizes.counters = static_cast<int>(counters < kMost ? counters : kMost);
    sizes.workspace_bytes =
        4 * counters + int64_t{4} * sizes.items * tapwise_rows(plan) * plan.columns;
  }
  return sizes;
}

}  // namespace convt3d

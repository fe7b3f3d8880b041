#include "tapwise_grad_weight_sizes.h"

#include <algorithm>

namespace convt3d {

TapwiseGradWeightSizes tapwise_grad_weight_sizes(const Problem& problem,
                                                 const TapwiseGradWeightPlan& plan) {
  const auto ceil_div = [](int64_t a, int64_t b) { return static_cast<int>((a + b - 1) / b); };
  int taps = 1;
  for (const WindowAxis& axis : plan.axes) taps *= axis.taps();
  TapwiseGradWeightSizes sizes{};
  sizes.box_rows = plan.tile[0] * plan.tile[1] * plan.tile[2] * plan.tile[3];
  sizes.channel_chunks = ceil_div(problem.out_channels_per_group(), kChunkChannels);
  sizes.row_tiles = ceil_div(problem.in_channels_per_group(), kChunkChannels * row_chunks(plan));
  sizes.column_tiles = ceil_div(int64_t{taps} * sizes.channel_chunks, column_chunks(plan));
  sizes.sample_tiles = ceil_div(problem.batch, plan.tile[0]);
  sizes.stage_bytes = (row_chunks(plan) + column_chunks(plan)) * kChunkBytes;
  sizes.barriers_at = plan.stages * sizes.stage_bytes;
  sizes.shared_bytes = sizes.barriers_at + plan.stages * 2 * 8;
  sizes.tiles = problem.groups * sizes.row_tiles * sizes.column_tiles;
  sizes.items = sizes.tiles * plan.splits;
  if (plan.splits > 1)
    sizes.workspace_bytes =
        4 * sizes.items * row_chunks(plan) * column_chunks(plan) * kChunkChannels * kChunkChannels;
  return sizes;
}

TapOrder tap_order(const WindowAxis& axis) {
  TapOrder order{};
  const auto count = [&](int16_t place) {
    const PositionRange range = positions_of_tap(axis, place);
    return range.last - range.first;
  };
  for (int i = 0; i < axis.taps(); ++i) order.place[i] = static_cast<int16_t>(i);
  std::stable_sort(order.place, order.place + axis.taps(),
                   [&](int16_t one, int16_t other) { return count(one) > count(other); });
  for (int i = 0; i < axis.taps(); ++i) order.positions[i] = positions_of_tap(axis, order.place[i]);
  return order;
}

}  // namespace convt3d

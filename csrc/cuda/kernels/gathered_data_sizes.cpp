#include "gathered_data_sizes.h"

#include <algorithm>
#include <limits>
#include <utility>

namespace convt3d {
namespace {

constexpr int kUnitBytes = 16, kBanks = 32, kBankBytes = 4;

// The most lanes of a warp that meet in a bank: eight neighbours along w of every other of eight
// channels.
int conflicts(const GatheredDataPlan& plan, int64_t plane_bytes) {
  int64_t words[kBanks][kBanks];
  int counts[kBanks] = {};
  int most = 1;
  for (int lane = 0; lane < 32; ++lane) {
    const int row = lane / 4, w = row % plan.tile[2];
    const int64_t at =
        lane % 4 * 2 * plane_bytes + w * plan.axes[2].operand_step * plan.element_bytes;
    const int64_t word = at / kBankBytes + (int64_t{row / plan.tile[2]} << 40);
    int64_t* const met = words[word % kBanks];
    int& count = counts[word % kBanks];
    if (std::find(met, met + count, word) == met + count) met[count++] = word;
    most = std::max(most, count);
  }
  return most;
}

}  // namespace

GatheredDataSizes gathered_data_sizes(const Problem& problem, Pass pass,
                                      const GatheredDataPlan& plan) {
  const bool forward = pass == Pass::kForward;
  const int64_t operand_channels =
      forward ? problem.in_channels_per_group() : problem.out_channels_per_group();
  const int64_t result_channels =
      forward ? problem.out_channels_per_group() : problem.in_channels_per_group();
  const auto ceil_div = [](int64_t a, int64_t b) { return static_cast<int>((a + b - 1) / b); };
  const int unit = kUnitBytes / plan.element_bytes;
  const int step_channels = kGatheredStepBytes / plan.element_bytes;
  GatheredDataSizes sizes{};
  sizes.chunks = ceil_div(operand_channels, step_channels);
  sizes.channel_tiles = ceil_div(result_channels, plan.columns);
  sizes.planes = 1;
  int64_t tiles = problem.batch;
  int taps = 1;
  for (int a = 0; a < 3; ++a) {
    const WindowAxis& axis = plan.axes[a];
    tiles *= sizes.tiles[a] = ceil_div(axis.positions, plan.tile[a]);
    sizes.planes *= axis.planes;
    int most = 0;
    for (int plane = 0; plane < axis.planes; ++plane) most = std::max(most, axis.taps_of(plane));
    taps *= most;
  }
  const WindowAxis& w = plan.axes[2];
  sizes.shift = ((w.origin % unit) + unit) % unit;
  sizes.lines_d = plan.axes[0].span(plan.tile[0]);
  sizes.lines_h = plan.axes[1].span(plan.tile[1]);
  sizes.pitch = ceil_div(sizes.shift + w.span(plan.tile[2]), unit) * unit;
  // Lines or units more, where that spreads the channels over the banks.
  sizes.load_conflicts = sizes.plane_bytes = std::numeric_limits<int>::max();
  const GatheredDataSizes least = sizes;
  for (int more = 0; more < 8; ++more) {
    const int lines_d = least.lines_d + (more >> 2), lines_h = least.lines_h + (more >> 1 & 1);
    const int pitch = least.pitch + (more & 1) * unit;
    // Too large to be taken is as good as any size that is.
    constexpr int64_t kMost = int64_t{1} << 28;
    const int plane_bytes = static_cast<int>(
        std::min(std::min(int64_t{lines_d} * lines_h, kMost) * pitch * plan.element_bytes, kMost));
    const int found = conflicts(plan, plane_bytes);
    if (std::pair(found, plane_bytes) >= std::pair(sizes.load_conflicts, sizes.plane_bytes))
      continue;
    sizes.load_conflicts = found;
    sizes.lines_d = lines_d;
    sizes.lines_h = lines_h;
    sizes.pitch = pitch;
    sizes.plane_bytes = plane_bytes;
  }
  constexpr int64_t kMost = std::numeric_limits<int>::max();
  sizes.box_bytes =
      static_cast<int>(std::min<int64_t>(int64_t{step_channels} * sizes.plane_bytes, kMost));
  sizes.step_bytes = (plan.exact ? 2 : 1) * plan.columns * kGatheredStepBytes;
  sizes.stage_bytes = kGatheredStageSteps * sizes.step_bytes;
  const int64_t stages =
      (int64_t{taps} * sizes.chunks + kGatheredStageSteps - 1) / kGatheredStageSteps;
  sizes.plane_stages = static_cast<int>(std::min(stages, kMost));
  constexpr int kAlignment = 128;  // of what the copy engine writes
  const int64_t boxes = int64_t{plan.box_slots} * sizes.box_bytes;
  const int64_t stages_at = (boxes + kAlignment - 1) / kAlignment * kAlignment;
  const int64_t taps_at = stages_at + int64_t{plan.stages} * sizes.stage_bytes;
  const int64_t list = int64_t{4} * plan.axes[0].taps() * plan.axes[1].taps() * plan.axes[2].taps();
  const int64_t barriers_at = taps_at + (list + 7) / 8 * 8;
  sizes.stages_at = static_cast<int>(std::min(stages_at, kMost));
  sizes.taps_at = static_cast<int>(std::min(taps_at, kMost));
  sizes.barriers_at = static_cast<int>(std::min(barriers_at, kMost));
  sizes.shared_bytes =
      static_cast<int>(std::min(barriers_at + (plan.box_slots + plan.stages) * 2 * 8, kMost));
  const int64_t results = problem.groups * sizes.channel_tiles * sizes.planes;
  sizes.items = tiles * results;
  sizes.packed_bytes = results * sizes.plane_stages * sizes.stage_bytes;
  return sizes;
}

}  // namespace convt3d

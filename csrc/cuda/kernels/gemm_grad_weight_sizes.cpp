#include "gemm_grad_weight_sizes.h"

#include <algorithm>
#include <limits>

namespace convt3d {
namespace {

// Bytes from one row to the next such that the rows of a fragment fall into different banks: an
// odd number of 16-byte units for ldmatrix; 8 or 24 words modulo 32 for 32-bit loads, whose
// fragments are four rows of eight words, and for 64-bit loads, of which half a warp reads four
// rows of eight words at a time.
int pitch_of(int channels, DataType type) {
  if (type == DataType::kFloat64) return channels * 8 + 32;
  if (type == DataType::kFloat32) return (channels % 16 == 8 ? channels : channels + 8) * 4;
  return (channels / 8 | 1) * 16;
}

int64_t ceil_of(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace

TileFill widest_fill(const TensorPointer& operand, const std::array<int64_t, 5>& size,
                     int64_t channels_per_group, DataType type) {
  const int64_t bytes = element_bytes(type);
  const auto address = reinterpret_cast<uintptr_t>(operand.data);
  // Whether `elements` neighbours along `fast` start on a multiple of their size everywhere.
  const auto aligned = [&](int fast, int64_t elements) {
    bool result = operand.stride[fast] == 1 && address % (elements * bytes) == 0;
    for (int dim = 0; dim < 5; ++dim)
      result = result && (dim == fast || size[dim] == 1 || operand.stride[dim] % elements == 0);
    return result;
  };
  if (aligned(1, 16 / bytes) && channels_per_group * bytes % 16 == 0) return TileFill::kAsync;
  if (size[4] % 4 == 0 && 4 * bytes <= 16 && aligned(4, 4)) return TileFill::kQuads;
  if (size[4] % 2 == 0 && aligned(4, 2)) return TileFill::kPairs;
  return TileFill::kElements;
}

bool grad_weight_offsets_fit(const GemmGradWeightPlan& plan, DataType type,
                             const TensorPointer& grad_output, const TensorPointer& input) {
  const TensorPointer& still = plan.mirrored ? grad_output : input;
  const TensorPointer& moving = plan.mirrored ? input : grad_output;
  int64_t still_span = 0, moving_span = 0;
  for (int a = 0; a < 3; ++a) {
    const ContractionAxis& axis = plan.axes[a];
    still_span += (axis.tile + 4) * still.stride[2 + a];
    moving_span += (axis.extent_of_tile() + 4) * moving.stride[2 + a];
  }
  const int64_t most = std::numeric_limits<int>::max() / element_bytes(type);  // counted in bytes
  return still_span <= most && moving_span <= most;
}

GemmGradWeightSizes gemm_grad_weight_sizes(const Problem& problem, DataType type,
                                           const GemmGradWeightPlan& plan) {
  GemmGradWeightSizes sizes{};
  sizes.still_channels = static_cast<int>(plan.mirrored ? problem.out_channels_per_group()
                                                        : problem.in_channels_per_group());
  sizes.moving_channels = static_cast<int>(plan.mirrored ? problem.in_channels_per_group()
                                                         : problem.out_channels_per_group());
  const int still_slice = 16 * plan.still_fragments, moving_slice = 8 * plan.moving_fragments;
  sizes.still_slices = static_cast<int>(ceil_of(sizes.still_channels, still_slice));
  sizes.moving_slices = static_cast<int>(ceil_of(sizes.moving_channels, moving_slice));
  sizes.jobs = problem.groups * sizes.still_slices * sizes.moving_slices;
  sizes.tiles = problem.batch;
  int64_t positions = 1, rows = 1;
  for (const ContractionAxis& axis : plan.axes) {
    sizes.jobs *= axis.groups();
    sizes.tiles *= axis.tiles();
    positions *= axis.tile;
    rows *= axis.rows();
  }
  const ContractionAxis &d = plan.axes[0], &h = plan.axes[1], &w = plan.axes[2];
  const int still_vector = vector_of(plan.still_fill), moving_vector = vector_of(plan.moving_fill);
  const int64_t still_rows = ceil_of(positions, 16) * 16;
  const int64_t still_items_per_line = ceil_of(w.tile, still_vector);
  const int64_t moving_items_per_line =
      moving_vector == 1 ? w.rows()
                         : ceil_of(w.extent_of_tile() + moving_vector - 1, moving_vector);
  const int64_t still_items = static_cast<int64_t>(d.tile) * h.tile * still_items_per_line;
  const int64_t moving_items = static_cast<int64_t>(d.rows()) * h.rows() * moving_items_per_line;
  sizes.still_pitch = pitch_of(still_slice, type);
  sizes.moving_pitch = pitch_of(moving_slice, type);
  const int64_t moving_at = still_rows * sizes.still_pitch;
  const int64_t stage_bytes = moving_at + rows * sizes.moving_pitch;
  const int64_t still_items_at = plan.stages * stage_bytes;
  const int64_t moving_items_at =
      still_items_at + ceil_of(still_items * (still_vector == 1 ? 8 : 16), 16) * 16;
  const int64_t axis_tables_at =
      moving_items_at + ceil_of(moving_items * (moving_vector == 1 ? 8 : 16), 16) * 16;
  const int64_t position_rows_at =
      axis_tables_at + (d.rows() + h.rows() + moving_items_per_line * moving_vector) * 4;
  const int64_t tap_offsets_at = position_rows_at + still_rows * 4;
  const int64_t shared_bytes = std::max<int64_t>(
      tap_offsets_at + plan.tap_warps * plan.taps * 4,
      plan.tap_warps * plan.position_warps * kStagedFragments * fragment_bytes(type));
  sizes.shared_bytes = std::numeric_limits<int>::max();
  if (shared_bytes < 1 << 20 && rows < 65535) {
    sizes.still_rows = static_cast<int>(still_rows);
    sizes.moving_rows = static_cast<int>(rows);
    sizes.still_items = static_cast<int>(still_items);
    sizes.moving_items = static_cast<int>(moving_items);
    sizes.moving_at = static_cast<int>(moving_at);
    sizes.stage_bytes = static_cast<int>(stage_bytes);
    sizes.still_items_at = static_cast<int>(still_items_at);
    sizes.moving_items_at = static_cast<int>(moving_items_at);
    sizes.still_items_per_line = static_cast<int>(still_items_per_line);
    sizes.moving_items_per_line = static_cast<int>(moving_items_per_line);
    sizes.axis_tables_at = static_cast<int>(axis_tables_at);
    sizes.position_rows_at = static_cast<int>(position_rows_at);
    sizes.tap_offsets_at = static_cast<int>(tap_offsets_at);
    sizes.shared_bytes = static_cast<int>(shared_bytes);
  }
  sizes.slots = static_cast<int64_t>(plan.splits) * plan.position_warps;
  if (sizes.slots > 1)
    sizes.workspace_bytes = sizes.slots * sizes.jobs * plan.tap_warps * plan.taps *
                            plan.still_fragments * plan.moving_fragments * fragment_bytes(type);
  return sizes;
}

}  // namespace convt3d

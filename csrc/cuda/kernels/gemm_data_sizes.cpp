#include "gemm_data_sizes.h"

#include <algorithm>
#include <limits>

namespace convt3d {
namespace {

constexpr int kRowLocationBytes = 8;  // of an operand row, while the tile is filled

int round_up(int value, int multiple) { return (value + multiple - 1) / multiple * multiple; }

int most_entries(const TileAxis& axis) {
  int most = 0;
  for (int block = 0; block < axis.plane_blocks(); ++block)
    most = std::max(most, entry_count(axis, block * axis.plane_block));
  return most;
}

}  // namespace

int staging_pitch(bool channels_last, const GemmDataSizes& sizes, DataType type) {
  return channels_last ? sizes.column_width + kUnitBytes / element_bytes(type)
                       : sizes.block_rows + 8 / element_bytes(type);
}

bool loads_in_vectors(const TensorPointer& tensor, int64_t channels_per_group, DataType type) {
  const int64_t bytes = element_bytes(type);
  bool aligned = tensor.stride[1] == 1 &&
                 reinterpret_cast<uintptr_t>(tensor.data) % kUnitBytes == 0 &&
                 channels_per_group * bytes % kUnitBytes == 0;
  for (int dim : {0, 2, 3, 4}) aligned = aligned && tensor.stride[dim] * bytes % kUnitBytes == 0;
  return aligned;
}

bool tile_offsets_fit(const GemmDataPlan& plan, const TensorPointer& operand,
                      const TensorPointer& result) {
  int64_t operand_span = 0, result_span = 0;
  for (int a = 0; a < 3; ++a) {
    const TileAxis& axis = plan.axes[a];
    const int64_t step = axis.pass == Pass::kForward ? 1 : axis.stride;
    operand_span += (axis.halo() + 1) * step * operand.stride[2 + a];
    result_span +=
        (axis.tile + 1) * (axis.pass == Pass::kForward ? axis.stride : 1) * result.stride[2 + a];
  }
  constexpr int64_t kMost = std::numeric_limits<int>::max();
  return operand_span <= kMost && result_span <= kMost;
}

GemmDataSizes gemm_data_sizes(const Problem& problem, Pass pass, DataType type,
                              const GemmDataPlan& plan) {
  const bool forward = pass == Pass::kForward;
  const int64_t operand_channels =
      forward ? problem.in_channels_per_group() : problem.out_channels_per_group();
  const int64_t result_channels =
      forward ? problem.out_channels_per_group() : problem.in_channels_per_group();
  const int unit_elements = kUnitBytes / element_bytes(type);
  const int parts = type == DataType::kFloat32 ? 2 : 1;

  GemmDataSizes sizes{};
  sizes.block_rows = kGemmWarps * plan.row_fragments * 16;
  sizes.column_width = 16 * plan.column_groups;
  sizes.units = static_cast<int>((operand_channels + unit_elements - 1) / unit_elements);
  sizes.channel_chunks = (sizes.units + plan.chunk_units - 1) / plan.chunk_units;
  sizes.channel_tiles =
      static_cast<int>((result_channels + plan.channels_per_tile - 1) / plan.channels_per_tile);
  int plane_blocks = 1;
  int64_t rows = 1, entries = 1, places = 1;
  for (const TileAxis& axis : plan.axes) {
    plane_blocks *= axis.plane_blocks();
    rows *= axis.operand_rows();
    places *= axis.tile * axis.result_block();
    entries *= most_entries(axis);
  }
  sizes.column_tiles = sizes.channel_tiles * (forward ? plane_blocks : 1);
  sizes.chunks = sizes.channel_chunks * (forward ? 1 : plane_blocks);
  sizes.steps = round_up(static_cast<int>((entries * plan.chunk_units + 1) / 2), kStageSteps);
  sizes.row_pitch = (plan.chunk_units | 1) * kUnitBytes;
  const int64_t ring_at = rows * sizes.row_pitch;
  const int step_bytes = kHeaderBytes + parts * 2 * sizes.column_width * kUnitBytes;
  const int64_t staging_at = ring_at + kStages * kStageSteps * step_bytes;
  // Staging fits either memory order of the result; locations of rows share its room.
  const int staging_elements = std::max(staging_pitch(false, sizes, type) * sizes.column_width,
                                        staging_pitch(true, sizes, type) * sizes.block_rows);
  const int64_t shared_bytes =
      staging_at +
      std::max<int64_t>(element_bytes(type) * staging_elements, rows * kRowLocationBytes);
  // A tile this large fits no GPU: only the total has to say so.
  const bool fits = shared_bytes < std::numeric_limits<int>::max();
  const auto narrow = [&](int64_t value) { return fits ? static_cast<int>(value) : 0; };
  sizes.operand_rows = narrow(rows);
  sizes.places = narrow(places);
  sizes.ring_at = narrow(ring_at);
  sizes.staging_at = narrow(staging_at);
  sizes.shared_bytes = fits ? static_cast<int>(shared_bytes) : std::numeric_limits<int>::max();
  sizes.packed_bytes = problem.groups * sizes.column_tiles * sizes.chunks *
                       static_cast<int64_t>(sizes.steps) * step_bytes;
  sizes.scratch_bytes = sizes.packed_bytes + sizes.column_tiles * sizeof(ColumnTile) +
                        sizes.chunks * sizeof(Chunk) + sizes.operand_rows * sizeof(RowPlace) +
                        sizes.places * sizeof(ResultPlace) +
                        (sizes.column_tiles * sizes.chunks + sizes.block_rows) * sizeof(int);
  return sizes;
}

}  // namespace convt3d

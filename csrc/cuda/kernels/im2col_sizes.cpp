#include <algorithm>

#include "im2col_plan.h"

namespace convt3d {

Im2colSizes im2col_sizes(const Problem& problem, Im2colPass pass, DataType type, bool allow_tf32,
                         const Im2colPlan& plan) {
  const auto ceil_div = [](int64_t a, int64_t b) { return static_cast<int>((a + b - 1) / b); };
  Im2colSizes sizes{};
  const int bytes = element_bytes(type);
  const int out_channels = static_cast<int>(problem.out_channels_per_group());
  const WindowAxis &d = plan.axes[0], &h = plan.axes[1], &w = plan.axes[2];
  sizes.columns = out_channels * plan.kernel[0] * plan.kernel[1] * plan.kernel[2];
  sizes.channels = static_cast<int>(problem.in_channels_per_group());
  const int chunk = 64 / bytes;
  // Float32 products of TF32 values need both halves of a weight.
  const int parts = type == DataType::kFloat32 && !allow_tf32 ? 2 : 1;
  int64_t shared = 0;
  const auto place = [&shared](int64_t size) {
    shared = (shared + 15) / 16 * 16 + size;
    return static_cast<int>(size);
  };
  if (pass == Im2colPass::kForward) {
    sizes.depth_chunks = ceil_div(sizes.channels, chunk);
    sizes.tiles_h = ceil_div(h.positions, plan.tile_h);
    sizes.tiles_w = ceil_div(w.positions, plan.tile_w);
    sizes.segments = ceil_div(d.positions, plan.segment);
    const int rows = widest_input(h, plan.tile_h, 1) * widest_input(w, plan.tile_w, 4);
    // A quarter of a warp's 16-byte stores of neighbouring columns meets all banks.
    sizes.column_pitch = (rows + kIm2colRows - 1) / kIm2colRows * kIm2colRows + 4;
    sizes.outputs = out_channels * plan.stride[1] * plan.tile_h * plan.stride[2] * plan.tile_w;
    sizes.weight_bytes = place(int64_t{2} * sizes.depth_chunks * plan.tiles * 32 * 8 * parts);
    sizes.tile_bytes = place(int64_t{4} * sizes.columns * sizes.column_pitch);
    const int touched = touched_planes(plan);
    sizes.ring_bytes = place(touched > plan.stride[0] ? int64_t{4} * touched * sizes.outputs : 0);
  } else {
    sizes.tiles_h = ceil_div(h.operand_extent, plan.tile_h);
    sizes.tiles_w = ceil_div(w.operand_extent, plan.tile_w);
    sizes.segments = d.operand_extent;
    const GatheredTile tile = gathered_tile(plan);
    if (pass == Im2colPass::kGradInput) {
      const int64_t steps = plan.tiles * 8 * bytes / 32;
      sizes.weight_bytes =
          place(ceil_div(sizes.channels, kIm2colRows) * 4 * steps * 32 * 8 * parts);
    } else {
      const int channels = kIm2colRows * plan.channel_warps;
      sizes.channel_blocks = ceil_div(sizes.channels, channels);
      sizes.workspace_bytes = int64_t{4} * plan.splits * problem.groups * sizes.channel_blocks *
                              channels * plan.tiles * 8;
    }
    sizes.tile_bytes = place(int64_t{bytes} * tile.elements(out_channels, plan.kernel[0]));
    if (pass == Im2colPass::kGradWeight) {
      // At the end, the sums of warps that share channels.
      const int64_t shelf = plan.channel_warps < kIm2colWarps
                                ? int64_t{4} * kIm2colRows * plan.channel_warps * plan.tiles * 8
                                : 0;
      sizes.matrix_bytes =
          place(std::max(shelf, int64_t{bytes} * round_to_steps(plan.tile_h * plan.tile_w) *
                                    matrix_pitch(plan.tiles, bytes)));
    }
    sizes.line_bytes =
        place(int64_t{kGatheredLineBytes} * out_channels * plan.kernel[0] * tile.lines);
    sizes.table_bytes = place(int64_t{4} * plan.tiles * 8);
  }
  sizes.shared_bytes = static_cast<int>(shared < (1 << 30) ? shared : 1 << 30);
  sizes.items =
      problem.batch * sizes.segments * static_cast<int64_t>(sizes.tiles_h) * sizes.tiles_w;
  return sizes;
}

}  // namespace convt3d

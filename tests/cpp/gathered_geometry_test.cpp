// The index arithmetic of the gathering grad_weight kernel (gathered_grad_weight_sizes.h) against
// the definition, over small axes. Exits with 1 and the first few differences, or prints how many
// axes agreed.
#include <array>
#include <cstdio>
#include <map>
#include <set>
#include <vector>

#include "../../csrc/cuda/kernels/gathered_grad_weight_sizes.h"

namespace {

using namespace convt3d;

int failures = 0;

void fail(const GatherAxis& axis, const char* what) {
  if (++failures > 10) return;
  std::printf("%s: kernel %d stride %d padding %d dilation %d\n", what, axis.kernel, axis.stride,
              axis.padding, axis.dilation);
}

// Rows and positions of the gathering grad_weight kernel: what stands where they say, in a box
// filled as its kernel does, is grad_output at stride * position - padding + dilation * tap.
void check_gathered(const GatherAxis& axis, const GatheredGradWeightPlan& plan, int first_row,
                    int last_row) {
  const GatherAxis axes[3] = {{9, 9, 2, 1, 1, 2}, {9, 9, 2, 2, 0, 1}, axis};
  const TapRange taps = taps_of_rows(axes, plan.slice, first_row, last_row);
  const GatherBox box = gather_box(axes, plan, taps);
  using Element = std::array<int, 5>;  // sample, channel, d, h, w
  std::map<int, std::vector<Element>> words;
  const auto element = [&](int n, int c, int d, int h, int x) {
    return Element{n, c, d + axes[0].dilation * taps.first - axes[0].padding, h - axes[1].padding,
                   x - box.lead - axes[2].padding};
  };
  for (int d = 0; d < box.span[0]; ++d)
    for (int n = 0; n < plan.samples; ++n)
      for (int h = 0; h < box.span[1]; ++h)
        for (int c = 0; c < plan.slice; ++c) {
          const int at =
              d * box.plane_pitch + (n * box.span[1] + h) * box.line_pitch + c * box.channel_pitch;
          const int columns = box.lead + box.span[2];
          if (plan.word_positions == 1) {
            for (int x = 0; x < columns; ++x) {
              auto& word = words[at + x * box.column_pitch];
              if (!word.empty()) fail(axis, "two elements of a box in one word");
              word = {element(n, c, d, h, x)};
            }
            continue;
          }
          for (int copy = 0; copy < 2 * axis.stride; ++copy)
            for (int m = 0; (box.copy_mask >> copy & 1) != 0 && m < box.channel_pitch; ++m) {
              const int x = axis.stride * (2 * m + copy % 2) + copy / 2;
              if (x < columns)
                words[at + box.place_of_copy(copy) * box.copy_pitch() + m] = {
                    element(n, c, d, h, x), element(n, c, d, h, x + axis.stride)};
            }
        }
  const int positions = plan.samples * plan.tile[0] * plan.tile[1] * plan.tile[2];
  for (int row = first_row; row <= last_row; ++row)
    for (int index = 0; index < positions; index += plan.word_positions) {
      const int at = row_offset(axes, plan, box, taps, row) +
                     position_offset(axes, box, plan, position_at(plan, index));
      std::vector<Element> wanted;
      for (int i = 0; i < plan.word_positions; ++i) {
        const GatherPosition p = position_at(plan, index + i);
        const int tap = row / plan.slice, place[3] = {p.d, p.h, p.w};
        const int tap_of[3] = {tap / axes[2].kernel / axes[1].kernel,
                               tap / axes[2].kernel % axes[1].kernel, tap % axes[2].kernel};
        Element e{p.sample, row % plan.slice};
        for (int b = 0; b < 3; ++b)
          e[2 + b] = axes[b].stride * place[b] - axes[b].padding + axes[b].dilation * tap_of[b];
        wanted.push_back(e);
      }
      const auto found = words.find(at);
      if (found == words.end() || found->second != wanted) return fail(axis, "a gathered row");
    }
}

// The units of the right operand: each its own, and those of eight neighbouring columns in
// different banks.
void check_columns(int row_words, int columns) {
  GatheredGradWeightPlan plan{};
  plan.row_words = row_words;
  plan.columns = columns;
  std::set<int> units;
  for (int column = 0; column < columns; ++column)
    for (int position = 0; position < 3 * row_words; position += 4)
      units.insert(column_offset(plan, column, position));
  if (static_cast<int>(units.size()) != columns * 3 * row_words / 4 || *units.begin() != 0 ||
      *units.rbegin() != (columns * 3 * row_words / 4 - 1) * 16)
    fail({}, "units of the right operand");
}

void check_gathered(const GatherAxis& axis) {
  for (int mode = 0; mode < 5; ++mode) {
    GatheredGradWeightPlan plan{};
    plan.word_positions = mode == 4 ? 2 : 1;
    plan.output_channels_last = mode == 0;
    plan.output_run = mode == 0 ? 1 : mode == 4 ? 8 : 1 << (mode - 1);
    plan.output_fill = mode == 4                ? GatherFill::kShifted
                       : mode == 0 || mode == 3 ? GatherFill::kCopyEngine
                                                : GatherFill::kElements;
    plan.input_fill = mode == 4 ? GatherFill::kCopyEngine : GatherFill::kElements;
    plan.columns = 16;
    plan.slice = 2;
    plan.samples = 2;
    plan.tile[0] = 2;
    plan.tile[1] = 3;
    for (int width : mode == 4 ? std::array{16, 32} : std::array{1, 5}) {
      plan.tile[2] = width;
      plan.row_words = 8;
      const int rows = 4 * axis.kernel * plan.slice;
      check_gathered(axis, plan, 0, rows - 1);
      check_gathered(axis, plan, rows / 2, rows - 1);
    }
  }
}

}  // namespace

int main() {
  for (int row_words : {8, 16, 32})
    for (int columns : {16, 32, 48, 64, 96, 128}) check_columns(row_words, columns);
  int count = 0;
  for (int stride = 1; stride <= 5; ++stride)
    for (int dilation = 1; dilation <= 3; ++dilation)
      for (int kernel = 1; kernel <= 5; ++kernel)
        for (int padding = 0; padding <= 9; ++padding, ++count)
          check_gathered({0, 0, kernel, stride, padding, dilation});
  if (failures) {
    std::printf("%d differences\n", failures);
    return 1;
  }
  std::printf("%d axes agree\n", count);
  return 0;
}

// The instances of the TF32 grad_weight kernel: columns x tiles / 2 sums per thread. A plan with
// fewer tiles takes the next larger one of its columns, whose further products are never stored.
#pragma once

namespace convt3d {

struct GatheredGradWeightShape {
  int columns, tiles;
};

constexpr GatheredGradWeightShape kGatheredGradWeightShapes[] = {
    {16, 4}, {16, 8}, {32, 2}, {32, 4}, {32, 7}, {48, 2}, {48, 4},
    {48, 5}, {64, 2}, {64, 4}, {96, 2}, {96, 3}, {128, 2}};

}  // namespace convt3d

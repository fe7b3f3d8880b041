// The instances of the WGMMA grad_weight kernel: columns x tiles / 2 sums per thread, at most 160.
#pragma once

namespace convt3d {

struct WgmmaGradWeightShape {
  int columns, tiles;
};

constexpr WgmmaGradWeightShape kWgmmaGradWeightShapes[] = {
    {32, 1}, {32, 2}, {32, 4}, {32, 6}, {32, 8}, {48, 1},  {48, 2},
    {48, 3}, {48, 4}, {48, 5}, {48, 6}, {64, 1}, {64, 2},  {64, 3},
    {64, 4}, {64, 5}, {96, 1}, {96, 2}, {96, 3}, {128, 1}, {128, 2}};

}  // namespace convt3d

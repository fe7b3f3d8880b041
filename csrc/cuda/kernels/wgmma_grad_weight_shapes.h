// The instances of the WGMMA grad_weight kernel: columns x tiles / 2 sums per thread, at most 160.
// A plan with fewer tiles takes the next larger one of its columns, whose further products repeat
// the last tile. Not all numbers of tiles are worth their compilation: of 1,500 random layers,
// those left out would make 12 more than 3 % faster, by the cost model.
#pragma once

namespace convt3d {

struct WgmmaGradWeightShape {
  int columns, tiles;
};

constexpr WgmmaGradWeightShape kWgmmaGradWeightShapes[] = {
    {32, 2}, {32, 4}, {32, 6}, {32, 8}, {48, 2}, {48, 3},  {48, 5},
    {64, 3}, {64, 4}, {64, 5}, {96, 1}, {96, 3}, {128, 1}, {128, 2}};

}  // namespace convt3d

// Random problems, and problems as text.
#pragma once

#include <random>
#include <string>

#include "geometry.h"

namespace convt3d::emulator {

struct Family {
  bool depthwise = false;  // many groups of few channels
  bool heads = false;      // few output channels; lines of whole quads, in most problems
  bool aligned = false;    // 16-byte units of channels and strides, in most problems
  bool wide = false;       // many channels in 16-byte units; channels-last weights
  bool lines = false;      // of input and output in units of eight elements, in most problems
  double products = 1e7;   // at most
};
Problem random_problem(std::mt19937_64& random, const Family& family);

// "batch=2 in=8 out=8 groups=1 size=4,5,6 kernel=3,3,3 stride=1,1,1 padding=0,0,0
// output_padding=0,0,0 dilation=1,1,1"; what is left out is 1 or 0.
std::string text_of(const Problem& problem);
Problem problem_of(const std::string& text);

}  // namespace convt3d::emulator

// What the plan of the depthwise kernels decides. No CUDA headers.
#pragma once

namespace convt3d {

// Kernels whose taps are compile-time facts (dilation 1, alike on all axes), or loops over taps.
enum class DepthwiseShape {
  kAny,
  kKernel3,         // stride 1, padding 1
  kKernel2Stride2,  // padding 0
  kKernel3Stride2,  // padding 1
  kKernel4Stride2,  // padding 1
  kKernel5Stride2,  // padding 2
};

struct DepthwisePlan {
  DepthwiseShape shape;
  int most_lanes;  // threads of a block side by side along channels, in channels_last
};

constexpr int kDepthwiseVector = 4;               // most channels of a thread
constexpr int kDepthwiseSharedBytes = 48 * 1024;  // for weights

}  // namespace convt3d

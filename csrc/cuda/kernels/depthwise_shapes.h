// The kernels of DepthwiseShape, and what a thread computes in each. No CUDA headers.
//
// A tile is as large as registers allow (sums, one line of operands, its weights), because each
// operand is loaded and converted once per tile.
#pragma once

#include "depthwise_data_thread.h"

namespace convt3d {

template <DepthwiseShape kShape>
struct FixedShape;
template <int kKernelOfShape, int kStrideOfShape, int kPaddingOfShape>
struct FixedShapeOf {
  static constexpr int kKernel = kKernelOfShape, kStride = kStrideOfShape,
                       kPadding = kPaddingOfShape;
};
template <>
struct FixedShape<DepthwiseShape::kKernel3> : FixedShapeOf<3, 1, 1> {};
template <>
struct FixedShape<DepthwiseShape::kKernel2Stride2> : FixedShapeOf<2, 2, 0> {};
template <>
struct FixedShape<DepthwiseShape::kKernel3Stride2> : FixedShapeOf<3, 2, 1> {};
template <>
struct FixedShape<DepthwiseShape::kKernel4Stride2> : FixedShapeOf<4, 2, 1> {};
template <>
struct FixedShape<DepthwiseShape::kKernel5Stride2> : FixedShapeOf<5, 2, 2> {};

template <DepthwiseShape kShape>
struct ShapeTag {
  static constexpr DepthwiseShape value = kShape;
};

// Calls `use` with the ShapeTag of a shape that is not kAny.
template <typename Use>
auto dispatch_shape(DepthwiseShape shape, Use&& use) {
  switch (shape) {
    case DepthwiseShape::kKernel2Stride2:
      return use(ShapeTag<DepthwiseShape::kKernel2Stride2>{});
    case DepthwiseShape::kKernel3Stride2:
      return use(ShapeTag<DepthwiseShape::kKernel3Stride2>{});
    case DepthwiseShape::kKernel4Stride2:
      return use(ShapeTag<DepthwiseShape::kKernel4Stride2>{});
    case DepthwiseShape::kKernel5Stride2:
      return use(ShapeTag<DepthwiseShape::kKernel5Stride2>{});
    default:
      return use(ShapeTag<DepthwiseShape::kKernel3>{});
  }
}

// With stride 1, forward is grad_input with the taps in reverse order: one kernel.
template <DepthwiseShape kShape, Pass kPass, bool kVectors>
struct DataTileOf {
  using Shape = FixedShape<kShape>;
  static constexpr Pass kKernelPass = Shape::kStride == 1 ? Pass::kGradInput : kPass;
  static constexpr bool kForward = kKernelPass == Pass::kForward;
  using Axis = FixedAxis<kKernelPass, Shape::kKernel, Shape::kStride, Shape::kPadding>;
  static constexpr int kTileD = Shape::kStride == 1                             ? kVectors ? 3 : 4
                                : kVectors && (kForward || Shape::kKernel == 5) ? 1
                                                                                : 2;
  static constexpr int kTileW = Shape::kStride == 1              ? kVectors ? 3 : 8
                                : !kVectors                      ? 4
                                : kForward || Shape::kKernel < 5 ? 2
                                                                 : 1;
  using type = ThreadTile<Axis, kTileD, kTileW, kVectors ? kDepthwiseVector : 1>;
};
template <DepthwiseShape kShape, Pass kPass, bool kVectors>
using DataTile = typename DataTileOf<kShape, kPass, kVectors>::type;

}  // namespace convt3d

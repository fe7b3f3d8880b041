#include <torch/csrc/stable/library.h>

#include "../operators.h"

namespace convt3d {
namespace {

Tensor forward(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias,
               Sizes stride, Sizes padding, Sizes output_padding, int64_t groups, Sizes dilation) {
  const Problem problem = check_forward(
      input, weight, bias, {stride, padding, output_padding, groups, dilation});
  return allocate(problem.output_size(), result_is_channels_last(input, weight), input);
}

}  // namespace
}  // namespace convt3d

STABLE_TORCH_LIBRARY_IMPL(convt3d, CPU, m) { m.impl("forward", TORCH_BOX(&convt3d::forward)); }

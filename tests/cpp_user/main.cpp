// Calls convt3d::forward by its name: input (1, 2), weight (3, 5), no bias, along the width.
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/tensor.h>

#include <iostream>

int main() {
  const auto op = c10::Dispatcher::singleton().findSchemaOrThrow("convt3d::forward", "");
  const at::Tensor input = at::tensor({1.f, 2.f}).reshape({1, 1, 1, 1, 2});
  const at::Tensor weight = at::tensor({3.f, 5.f}).reshape({1, 1, 1, 1, 2});
  const std::vector<int64_t> one{1, 1, 1}, zero{0, 0, 0};
  torch::jit::Stack stack{input, weight, c10::IValue(), one, zero, zero, int64_t{1}, one};
  op.callBoxed(stack);
  const at::Tensor output = stack.at(0).toTensor().flatten();
  for (int64_t i = 0; i < output.numel(); ++i) std::cout << output[i].item<float>() << ' ';
  std::cout << '\n';
}

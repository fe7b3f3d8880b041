#include "operators.h"

#include <torch/csrc/inductor/aoti_torch/c/shim.h>

#include <stdexcept>
#include <string>

namespace convt3d {
namespace {

// The names that Tensor.type() shows.
const char* type_name(ScalarType type) {
  switch (type) {
    case ScalarType::Half:
      return "HalfTensor";
    case ScalarType::BFloat16:
      return "BFloat16Tensor";
    case ScalarType::Float:
      return "FloatTensor";
    case ScalarType::Double:
      return "DoubleTensor";
    case ScalarType::ComplexHalf:
      return "ComplexHalfTensor";
    case ScalarType::ComplexFloat:
      return "ComplexFloatTensor";
    case ScalarType::ComplexDouble:
      return "ComplexDoubleTensor";
    case ScalarType::Long:
      return "LongTensor";
    case ScalarType::Int:
      return "IntTensor";
    case ScalarType::Short:
      return "ShortTensor";
    case ScalarType::Char:
      return "CharTensor";
    case ScalarType::Byte:
      return "ByteTensor";
    case ScalarType::Bool:
      return "BoolTensor";
    default:
      return "Tensor of another dtype";
  }
}

bool is_supported(const Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case ScalarType::Half:
    case ScalarType::BFloat16:
    case ScalarType::Float:
    case ScalarType::Double:
    case ScalarType::ComplexHalf:
    case ScalarType::ComplexFloat:
    case ScalarType::ComplexDouble:
      return true;
    case ScalarType::Long:
      return tensor.is_cpu();
    default:
      return false;
  }
}

std::string full_type_name(const Tensor& tensor) {
  return std::string(tensor.is_cuda() ? "torch.cuda." : "torch.") + type_name(tensor.scalar_type());
}

std::string device_name(const Tensor& tensor) {
  return tensor.is_cuda() ? "cuda:" + std::to_string(tensor.get_device_index()) : "cpu";
}

void require_strided(const Tensor& tensor, const char* name) {
  if (tensor.layout() != torch::headeronly::Layout::Strided)
    throw std::runtime_error(std::string("convt3d supports strided (dense) tensors only, but ") +
                             name + " has another layout");
}

void require_supported(const Tensor& tensor, const char* name) {
  if (is_supported(tensor)) return;
  throw std::runtime_error(
      std::string("convt3d supports float16, bfloat16, float32, float64, complex32, complex64 "
                  "and complex128 (on CPU also int64), but ") +
      name + " is a " + full_type_name(tensor));
}

void require_same(const Tensor& first, const char* first_name, const Tensor& second,
                  const char* second_name) {
  if (first.scalar_type() != second.scalar_type() || first.is_cuda() != second.is_cuda())
    throw std::runtime_error(first_name + (" type (" + full_type_name(first)) + ") and " +
                             second_name + " type (" + full_type_name(second) +
                             ") should be the same");
  if (first.get_device_index() != second.get_device_index())
    throw std::runtime_error(
        "Expected all tensors to be on the same device, but found at least two devices, " +
        device_name(first) + " and " + device_name(second) + "!");
}

void check_pair(const Tensor& first, const char* first_name, const Tensor& second,
                const char* second_name) {
  std::string label(first_name);
  label[0] = static_cast<char>(label[0] - 'a' + 'A');
  require_strided(first, first_name);
  require_strided(second, second_name);
  require_supported(first, first_name);
  require_same(first, label.c_str(), second, second_name);
}

}  // namespace

Sizes sizes_of(const Tensor& tensor) {
  const auto sizes = tensor.sizes();
  return Sizes(sizes.begin(), sizes.end());
}

Sizes strides_of(const Tensor& tensor) {
  const auto strides = tensor.strides();
  return Sizes(strides.begin(), strides.end());
}

Problem check_forward(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias,
                      const Arguments& arguments) {
  check_pair(input, "input", weight, "weight");
  std::optional<Sizes> bias_size;
  if (bias) {
    require_strided(*bias, "bias");
    require_same(input, "Input", *bias, "bias");
    bias_size = sizes_of(*bias);
  }
  return forward_problem(sizes_of(input), sizes_of(weight), bias_size, arguments);
}

Problem check_grad_input(const Tensor& grad_output, const Tensor& weight,
                         const Arguments& arguments) {
  check_pair(grad_output, "grad_output", weight, "weight");
  return grad_input_problem(sizes_of(grad_output), sizes_of(weight), arguments);
}

Problem check_grad_weight(const Tensor& grad_output, const Tensor& input,
                          const Arguments& arguments) {
  check_pair(grad_output, "grad_output", input, "input");
  return grad_weight_problem(sizes_of(grad_output), sizes_of(input), arguments);
}

bool result_is_channels_last(const Tensor& a, const Tensor& b) {
  return suggests_channels_last_3d(sizes_of(a), strides_of(a)) ||
         suggests_channels_last_3d(sizes_of(b), strides_of(b));
}

Tensor allocate(const Sizes& size, bool channels_last, const Tensor& like) {
  const Sizes stride = dense_strides(size, channels_last);
  int32_t dtype, device_type;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(like.get(), &dtype));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device_type));
  AtenTensorHandle handle;
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(static_cast<int64_t>(size.size()), size.data(),
                                                  stride.data(), dtype, device_type,
                                                  like.get_device_index(), &handle));
  return Tensor(handle);
}

Tensor allocate_bytes(int64_t bytes, const Tensor& like) {
  const int64_t stride = 1;
  int32_t device_type;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device_type));
  AtenTensorHandle handle;
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(1, &bytes, &stride, aoti_torch_dtype_uint8(),
                                                  device_type, like.get_device_index(), &handle));
  return Tensor(handle);
}

}  // namespace convt3d

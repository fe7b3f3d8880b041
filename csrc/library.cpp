// Schemas of the operators. Backends register their kernels in csrc/cpu and csrc/cuda.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(convt3d, m) {
  m.def(
      "forward(Tensor input, Tensor weight, Tensor? bias=None, int[3] stride=1, "
      "int[3] padding=0, int[3] output_padding=0, int groups=1, int[3] dilation=1) -> Tensor");
  m.def(
      "grad_input(Tensor grad_output, Tensor weight, int[3] stride, int[3] padding, "
      "int[3] output_padding, int groups, int[3] dilation) -> Tensor");
  m.def(
      "grad_weight(Tensor grad_output, Tensor input, int[3] stride, int[3] padding, "
      "int[3] output_padding, int groups, int[3] dilation) -> Tensor");
  // Those three in one engine, by name ("auto": as above), for tests and comparisons: where the
  // engine cannot run a problem, an error says why, and no other engine steps in. CUDA only.
  m.def(
      "_forward(Tensor input, Tensor weight, Tensor? bias, int[3] stride, int[3] padding, "
      "int[3] output_padding, int groups, int[3] dilation, *, str engine) -> Tensor");
  m.def(
      "_grad_input(Tensor grad_output, Tensor weight, int[3] stride, int[3] padding, "
      "int[3] output_padding, int groups, int[3] dilation, *, str engine) -> Tensor");
  m.def(
      "_grad_weight(Tensor grad_output, Tensor input, int[3] stride, int[3] padding, "
      "int[3] output_padding, int groups, int[3] dilation, *, str engine) -> Tensor");
  // What a call would run on a GPU of these limits, as JSON (csrc/cuda/explain.h); needs no GPU.
  m.def(
      "_plan(str operator, str dtype, int[] input, int[] weight, int[3] stride, int[3] padding, "
      "int[3] output_padding, int groups, int[3] dilation, *, bool channels_last, bool tf32, "
      "int[] device, bool alternatives) -> str");
  // The limits of a GPU as `_plan` takes them. CUDA library only.
  m.def("_device_limits(int device) -> int[]");
}

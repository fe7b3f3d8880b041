"""Runs the operators on small problems; started by test_cuda.py under compute-sanitizer."""

from __future__ import annotations

import convt3d  # noqa: F401
import torch
from cases import BY_NAME, OPERATORS, arguments, make_tensors

NAMES = (
    "kernel3_stride2",
    "kernel_is_stride2",
    "stride2_dilation2",
    "asymmetric",
    "groups_of_16",
    "depthwise",
    "depthwise_kernel3",
    "depthwise_kernel3_stride2",
    "depthwise_kernel3_stride2_odd",
    "depthwise_multiplier3",
    "one_channel",
    "wide_channels",
    "long_rows",
    "head_kernel4_stride2",
    "head_groups",
    "head_kernel_is_stride",
    "head_five_channels",
    "unbatched",
    "hopper_stride1",
    "hopper_stride2",
    "hopper_odd_rows",
    "hopper_kernel_is_stride",
    "hopper_chunks",
    "hopper_few_channels",
    "hopper_head",
    "three_warpgroups",
    "two_residues",
    "hopper_samples_narrow",
    "hopper_samples_kernel_is_stride",
    "hopper_samples_tiny",
)
FLOAT64_NAMES = ("asymmetric", "kernel3_stride2", "groups_of_16", "hopper_odd_rows")
DTYPES = (torch.float16, torch.bfloat16, torch.float32)
FORCED = (
    ("forward", "tapwise"),
    ("grad_input", "tapwise"),
    ("forward", "gathered"),
    ("grad_input", "gathered"),
    ("grad_weight", "tapwise"),
    ("grad_weight", "wgmma"),
    ("grad_weight", "gathered"),
)
LAYOUTS = ("contiguous", "channels_last_3d", "sliced")
HAS_WGMMA = torch.cuda.get_device_capability() == (9, 0)


def on_gpu(argument: object) -> object:
    """The same strides in memory that is as large as the tensor needs and no larger."""
    if not isinstance(argument, torch.Tensor):
        return argument
    size, stride = argument.shape, argument.stride()
    return torch.empty_strided(size, stride, dtype=argument.dtype, device="cuda").copy_(argument)


if __name__ == "__main__":
    forced = set()
    for name in NAMES:
        case = BY_NAME[name]
        for dtype in (*DTYPES, *((torch.float64,) if name in FLOAT64_NAMES else ())):
            for layout in LAYOUTS:
                # Made on the CPU: the gaps between sliced elements stay uninitialised on the GPU.
                tensors = make_tensors(case, dtype, "cpu", layout)
                for precision in ("ieee", "tf32") if dtype == torch.float32 else ("ieee",):
                    torch.backends.cudnn.conv.fp32_precision = precision
                    for operator in OPERATORS:
                        operands = [on_gpu(a) for a in arguments(operator, tensors, case)]
                        getattr(torch.ops.convt3d, operator)(*operands)
                    if name.startswith("hopper") and HAS_WGMMA:
                        # Where they are possible, but another kernel is predicted to be faster.
                        for operator, engine in FORCED:
                            operands = [on_gpu(a) for a in arguments(operator, tensors, case)]
                            try:
                                getattr(torch.ops.convt3d, f"_{operator}")(*operands, engine=engine)
                                forced.add((operator, engine, dtype))
                            except RuntimeError as error:
                                if f"engine '{engine}' cannot run this problem" not in str(error):
                                    raise
    torch.cuda.synchronize()
    wanted = {(*one, dtype) for one in FORCED for dtype in DTYPES}
    # Matrix units cannot transpose float32.
    transposing = (("forward", "tapwise"), ("grad_weight", "tapwise"), ("grad_weight", "wgmma"))
    wanted -= {(*one, torch.float32) for one in transposing}
    assert not HAS_WGMMA or forced == wanted, forced
    print("all operators ran")

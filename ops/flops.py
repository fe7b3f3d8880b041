"""What ``torch.utils.flop_counter.FlopCounterMode`` counts for the operators.

All three are the same sum of products, ordered differently (design: one index algebra): every input
position meets every element of the weight's slice for its channel, and a product counts as two
operations. Products that padding crops count as well, as in PyTorch's formulas; theirs for the
weight's gradient overcounts by the factor ``groups``, which this one does not.
"""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch.utils.flop_counter import register_flop_formula


def _count(activation: Any, weight: Any) -> int:
    batch = activation[0] if len(activation) == 5 else 1
    return 2 * batch * prod(activation[-3:]) * prod(weight)


@register_flop_formula(torch.ops.convt3d.forward)
def forward(input: Any, weight: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    """Operations of ``convt3d::forward`` from the sizes of its tensors."""
    return _count(input, weight)


@register_flop_formula(torch.ops.convt3d.grad_input)
def grad_input(grad: Any, weight: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    """Operations of ``convt3d::grad_input``, whose result has the size of the input."""
    return _count(out_shape, weight)


@register_flop_formula(torch.ops.convt3d.grad_weight)
def grad_weight(grad: Any, input: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    """Operations of ``convt3d::grad_weight``, whose result has the size of the weight."""
    return _count(input, out_shape)

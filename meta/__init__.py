"""Shapes, checks and fake (meta) functions of the convt3d operators.

Importing this package registers the fake functions; the operators' schemas must be loaded before
(``import convt3d`` does both).
"""

from convt3d.meta import fake as fake
from convt3d.meta import layouts as layouts
from convt3d.meta.shape import (
    Axis,
    Problem,
    dense_strides,
    forward_problem,
    grad_input_problem,
    grad_weight_problem,
    suggests_channels_last_3d,
)

__all__ = [
    "Axis",
    "Problem",
    "dense_strides",
    "forward_problem",
    "grad_input_problem",
    "grad_weight_problem",
    "suggests_channels_last_3d",
]

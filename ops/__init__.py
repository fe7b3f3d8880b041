"""convt3d: 3-D transposed convolution for PyTorch.

``torch.ops.convt3d.forward`` is the operator; ``convt3d.conv_transpose3d``,
``convt3d.ConvTranspose3d`` and ``convt3d.LazyConvTranspose3d`` stand in for their
``torch.nn`` twins. ``convert``, ``revert`` and ``override`` move existing models and code;
``decompositions`` and ``onnx_translation_table`` serve targets without these libraries.
"""

from convt3d import _library as _library  # loads the operators that the next ones extend
from convt3d import autocast as autocast  # registers the casts
from convt3d import autograd as autograd  # registers derivatives
from convt3d import flops as flops  # registers FLOP formulas
from convt3d import meta as meta  # registers fake functions
from convt3d import transforms as transforms  # registers batching rules
from convt3d.convert import Report, convert, revert
from convt3d.export import decompositions, onnx_translation_table
from convt3d.functional import conv_transpose3d
from convt3d.modules import ConvTranspose3d, LazyConvTranspose3d
from convt3d.override import override
from convt3d.version import __version__

from convt3d import _dtensor as _dtensor  # isort: skip  # last: it may import convt3d.distributed

__all__ = [
    "ConvTranspose3d",
    "LazyConvTranspose3d",
    "Report",
    "__version__",
    "conv_transpose3d",
    "convert",
    "decompositions",
    "onnx_translation_table",
    "override",
    "revert",
]

"""What one shard needs along a sharded axis, and the smaller problem that it then solves.

Input i, tap k and output o meet where ``o = stride * i - padding + dilation * k``. A shard owns a
range of the result. The positions of the operand that reach that range are its window; they may
belong to several other shards. Moved to the window's origin the same equation holds with another
padding, and what is left over at the end is output padding. Where that padding would be negative or
the rest too large for output padding, the window is widened by planes of zeros, which stand for
positions that do not exist or do not reach the range.

Nothing here communicates or knows of torch.distributed.
"""

from __future__ import annotations

from dataclasses import dataclass

from convt3d.meta.shape import Axis

Range = tuple[int, int]


@dataclass(frozen=True)
class Window:
    """Positions ``[start, end)`` of the operand between zeros, and the arguments to use on them."""

    start: int
    end: int
    front: int
    back: int
    padding: int
    output_padding: int

    @property
    def size(self) -> int:
        """Positions with the zeros."""
        return self.front + self.end - self.start + self.back

    def is_within(self, owned: Range) -> bool:
        """Whether it takes no position from beyond `owned`."""
        return self.start == self.end or owned[0] <= self.start < self.end <= owned[1]

    def is_range(self, owned: Range) -> bool:
        """Whether the window is `owned` as it is."""
        return (self.start, self.end) == owned and self.front == self.back == 0


def chunks(size: int, parts: int) -> list[Range]:
    """The ranges of ``torch.chunk`` and DTensor's ``Shard``; the last ones may be empty."""
    full = -(-size // parts)
    return [(min(size, full * r), min(size, full * (r + 1))) for r in range(parts)]


def input_window(axis: Axis, outputs: Range, owned: Range) -> Window | None:
    """Of the input, for the forward pass that gives `outputs`; None if there are none.

    The weight's gradient summed over `outputs` needs the same window with the same arguments.
    """
    first, last = outputs
    if first == last:
        return None
    reach = axis.dilation * (axis.kernel - 1)
    start = max(0, -(-(first + axis.padding - reach) // axis.stride))
    end = min(axis.input, (last - 1 + axis.padding) // axis.stride + 1)

    def arguments(start: int, size: int) -> Range:
        padding = axis.padding + first - axis.stride * start
        natural = (size - 1) * axis.stride - 2 * padding + reach + 1
        return padding, last - first - natural

    if end <= start:
        start = end = min(start, axis.input)
    elif owned[0] <= start and end <= owned[1]:
        # Nothing is missing: use all that is here if that saves the copy of a part.
        padding, rest = arguments(owned[0], owned[1] - owned[0])
        if padding >= 0 and _is_output_padding(rest, axis):
            return Window(*owned, 0, 0, padding, rest)
    # A plane in front adds a stride to padding and to the rest, one behind takes it from the rest.
    padding, _ = arguments(start, end - start)
    front = max(-(padding // axis.stride) if padding < 0 else 0, 1 if start == end else 0)
    padding, rest = arguments(start - front, end - start + front)
    if rest < 0:
        front += -(rest // axis.stride)
    limit = max(axis.stride, axis.dilation)
    back = (rest - limit) // axis.stride + 1 if rest >= limit else 0
    padding, rest = arguments(start - front, end - start + front + back)
    return Window(start, end, front, back, padding, rest)


def grad_output_window(axis: Axis, inputs: Range, owned: Range) -> Window | None:
    """Of the output's gradient, for the gradient of `inputs`; None if there are none."""
    first, last = inputs
    if first == last:
        return None
    reach = axis.dilation * (axis.kernel - 1)
    start = max(0, axis.stride * first - axis.padding)
    end = min(axis.output, axis.stride * (last - 1) - axis.padding + reach + 1)

    def arguments(start: int, size: int) -> Range:
        padding = axis.padding + start - axis.stride * first
        return padding, size - 1 + 2 * padding - reach - (last - first - 1) * axis.stride

    if end <= start:
        # These inputs reach padding only: their gradient is that of as many planes of zeros.
        return Window(0, 0, (last - first - 1) * axis.stride + reach + 1, 0, 0, 0)
    if owned[0] <= start and end <= owned[1]:
        padding, rest = arguments(owned[0], owned[1] - owned[0])
        if padding >= 0 and _is_output_padding(rest, axis):
            return Window(*owned, 0, 0, padding, rest)
    # A plane in front takes one from padding and from the rest, one behind adds one to the rest.
    _, rest = arguments(start, end - start)
    front = max(0, rest - max(axis.stride, axis.dilation) + 1)
    back = max(0, -rest)
    padding, rest = arguments(start - front, end - start + front + back)
    return Window(start, end, front, back, padding, rest)


def _is_output_padding(rest: int, axis: Axis) -> bool:
    return 0 <= rest < max(axis.stride, axis.dilation)

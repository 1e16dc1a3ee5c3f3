"""Which axes of a kernel are inputs, read off the names of its axes.

Kernels are [inputs, outputs], [inputs, heads, dim], [heads, dim, outputs], with an axis of fused
parts behind the inputs ([inputs, 3, heads, dim]), or [height, width, inputs, outputs].
"""

from clipjax.core.partition import Axes


def is_fused(axes: Axes) -> bool:
    """Returns whether a kernel holds several linear maps, along the axis behind its inputs.

    >>> is_fused(("embed", None, "heads", None)), is_fused(("embed", "heads", None))
    (True, False)
    """
    return len(axes) >= 3 and axes[0] not in (None, "heads") and axes[1] is None


def is_convolution(axes: Axes) -> bool:
    """Returns whether a kernel begins with the places of a window."""
    return len(axes) > 2 and axes[0] is None


def input_axes(axes: Axes) -> int:
    """Returns how many leading axes of a linear map are inputs; 0 for a convolution.

    >>> input_axes(("heads", None, "embed")), input_axes((None, None, None, "embed"))
    (2, 0)
    """
    if is_convolution(axes):
        return 0
    return 2 if axes[0] == "heads" and len(axes) > 2 else 1

"""Where the feature maps of a network lie on its cutouts, found by walking the graph that computes its logits."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

Pair = tuple[float, float]

CONVOLUTIONS = frozenset({"Conv2D", "DepthwiseConv2dNative"})
POOLS = frozenset({"MaxPool", "AvgPool"})
PADS = frozenset({"Pad", "PadV2", "MirrorPad"})
RESIZES = frozenset({"ResizeBilinear", "ResizeNearestNeighbor", "ResizeBicubic", "Conv2DBackpropInput"})
REORDERINGS = frozenset({"Transpose", "Reverse", "ReverseV2", "Roll"})


@dataclass(frozen=True, slots=True)
class Grid:
    """Where the cells of feature maps lie: cell (i, j) is centred on the pixel ``start + step * (i, j)``.

    Attributes
    ----------
    start, step
        (y, x), in pixels of the cutout.
    """

    start: Pair = (0.0, 0.0)
    step: Pair = (1.0, 1.0)

    def through(self, axis: int, first: float, step: float) -> "Grid":
        """Give the grid of cells that lie, along an axis, at ``first + step * i`` of these."""
        start, steps = list(self.start), list(self.step)
        start[axis] += steps[axis] * float(first)
        steps[axis] *= float(step)
        return Grid((start[0], start[1]), (steps[0], steps[1]))

    def near(self, other: "Grid") -> bool:
        """Whether two grids show the same part of a cutout in each cell, give or take a cell."""
        # Even kernels, and strides of 1x1 convolutions beside 3x3 ones, shift branches by half a cell.
        apart = np.abs(np.subtract(self.start, other.start))
        return self.step == other.step and bool((apart <= self.step).all())

    def weights(self, axis: int, cells: int, pixels: int) -> npt.NDArray[np.float32]:
        """Give the weights of linear interpolation from cells to pixels, float32 (pixels, cells); 0 beyond the cells.

        A value is spread over its cell: its weights sum to about 1, wherever it does not reach beyond the cutout.
        """
        position = (np.arange(pixels) - self.start[axis]) / self.step[axis]
        inside = (position >= -0.5) & (position <= cells - 0.5)
        place = np.clip(position, 0, cells - 1)
        near = np.maximum(1 - np.abs(place[:, None] - np.arange(cells)), 0) / self.step[axis]
        return np.asarray(near * inside[:, None], np.float32)


def last_maps(logits: Any, cutouts: Any) -> list[tuple[Any, Grid]]:
    """Find the feature maps that are nearest to the logits and whose place on the cutout is known.

    Maps are (n, h, w, channels) with h w > 1. Going back from the logits, pooling is stepped over, for what it pools is
    finer. Where branches join that see different parts of a cutout, a cell of what is joined has no place of its own,
    and there is one set of maps for each branch. A network without any has at last its cutouts for maps.

    Parameters
    ----------
    logits, cutouts
        Tensors of one graph, the cutouts (n, ny, nx, planes) with known size.

    Returns
    -------
    list of (tf.Tensor, Grid)
    """
    grids = _grids(cutouts)
    waiting, seen, found = [logits], set(), []
    while waiting:
        tensor = waiting.pop()
        if tensor.name in seen or tensor.name not in grids:
            continue
        seen.add(tensor.name)
        grid = grids[tensor.name]
        if grid is None or tensor.op.type in POOLS or _size(tensor) in (None, (1, 1)):
            waiting.extend(tensor.op.inputs)
        else:
            found.append((tensor, grid))
    return found


def _grids(cutouts: Any) -> dict[str, Grid | None]:
    # Of each tensor that depends on the cutouts; None for what are no maps, or have no known place.
    grids: dict[str, Grid | None] = {cutouts.name: Grid()}
    for operation in cutouts.graph.get_operations():
        sources = [each for each in operation.inputs if each.name in grids]
        if sources:
            # What is not a real number, such as a shape, carries no gradient.
            grids |= {each.name: _grid(operation, each, sources, grids) for each in operation.outputs if _floats(each)}
    return grids


def _floats(tensor: Any) -> bool:
    return bool(tensor.dtype.is_floating)


def _grid(operation: Any, output: Any, sources: list[Any], grids: dict[str, Grid | None]) -> Grid | None:
    size = _size(output)
    maps = [each for each in sources if _size(each) not in (None, (1, 1))]
    if size is None or not maps or any(grids[each.name] is None for each in maps):
        return None
    grid = grids[maps[0].name]
    if grid is None:
        return None
    if operation.type in CONVOLUTIONS | POOLS:
        return _windowed(operation, grid, _size(maps[0]) or size)
    if operation.type in PADS:
        margins = tf.get_static_value(operation.inputs[1])
        return None if margins is None else grid.through(0, -margins[1][0], 1).through(1, -margins[2][0], 1)
    if operation.type == "StridedSlice" and len(maps) == 1:
        return _sliced(operation, grid)
    if operation.type in RESIZES and len(maps) == 1:
        ratios = [old / new for old, new in zip(_size(maps[0]) or size, size, strict=True)]
        return grid.through(0, (ratios[0] - 1) / 2, ratios[0]).through(1, (ratios[1] - 1) / 2, ratios[1])
    others = (grids[each.name] for each in maps[1:])
    alike = all(_size(each) == size for each in maps) and all(other and grid.near(other) for other in others)
    return grid if alike and operation.type not in REORDERINGS else None


def _size(tensor: Any) -> tuple[int, int] | None:
    if tensor.shape.rank != 4 or None in tensor.shape[1:3]:
        return None
    return int(tensor.shape[1]), int(tensor.shape[2])


def _windowed(operation: Any, grid: Grid, size: tuple[int, int]) -> Grid | None:
    if operation.get_attr("data_format") != b"NHWC":
        return None
    windows = operation.get_attr("ksize")[1:3] if operation.type in POOLS else operation.inputs[1].shape[:2]
    strides = operation.get_attr("strides")[1:3]
    dilations = operation.get_attr("dilations")[1:3] if operation.type in CONVOLUTIONS else (1, 1)
    padding = operation.get_attr("padding")
    for axis in range(2):
        reach, stride = (int(windows[axis]) - 1) * dilations[axis] + 1, strides[axis]
        before = 0
        if padding == b"SAME":
            # How TensorFlow pads: as many cells as strides fit in, the odd pixel of padding at the high end.
            before = max((-(-size[axis] // stride) - 1) * stride + reach - size[axis], 0) // 2
        elif padding == b"EXPLICIT":
            before = operation.get_attr("explicit_paddings")[2 * (axis + 1)]
        grid = grid.through(axis, (reach - 1) / 2 - before, stride)
    return grid


def _sliced(operation: Any, grid: Grid) -> Grid | None:
    begin, strides = tf.get_static_value(operation.inputs[1]), tf.get_static_value(operation.inputs[3])
    if begin is None or strides is None or len(begin) < 3 or min(begin) < 0 or min(strides) < 1:
        return None
    if any(operation.get_attr(each) for each in ("ellipsis_mask", "new_axis_mask", "shrink_axis_mask")):
        return None
    left_out = operation.get_attr("begin_mask")
    for axis in range(2):
        first = 0 if left_out >> (axis + 1) & 1 else int(begin[axis + 1])
        grid = grid.through(axis, first, int(strides[axis + 1]))
    return grid

"""Kernels that walk Avro records: what is wanted of each is found, and the rest is stepped over, outside Python."""

import numpy as np

from otrain_infer.jit import kernel

# Kinds of a node, and of a value found; ABSENT for a value that is null or that the schema has no place for.
ABSENT, BOOLEAN, INTEGER, FLOAT, DOUBLE, BYTES, FIXED, ENUM, RECORD, ARRAY, MAP, UNION = range(12)

# Columns of the table of nodes: the kind; where its children begin, or the size of a FIXED, or which of the lists of
# symbols is that of an ENUM; how many children, or symbols, it has; and which of the wanted values it is, or -1.
KIND, FIRST, COUNT, SLOT = range(4)

# Columns of what is found: the kind; the number, as it is (BOOLEAN, INTEGER, ENUM) or as the bits of a double, or where
# its bytes begin; and where these end, or FIRST of an ENUM.
VALUE, STOP = 1, 2

DEPTH = 64
"""Records, arrays and maps that may lie within each other."""

# Steps taken for each byte of a block, and besides: more are only taken where nothing but nulls is told.
_STEPS_A_BYTE, _STEPS = 16, 100_000

_SPAN = "uint8[::1], int64, int64"


@kernel(f"UniTuple(int64, 2)({_SPAN})")
def _read_long(data, at, stop):  # type: ignore[no-untyped-def]
    """Give (number, where it ends), or -1 as the end where there is none: zigzag, seven bits a byte, lowest first."""
    value, shift = np.uint64(0), np.uint64(0)
    while at < stop and shift < np.uint64(70):
        byte = np.uint64(data[at])
        at += 1
        value |= (byte & np.uint64(127)) << shift
        if byte < np.uint64(128):
            return np.int64(value >> np.uint64(1)) ^ -np.int64(value & np.uint64(1)), at
        shift += np.uint64(7)
    return 0, -1


@kernel(f"float64({_SPAN})")
def _read_double(data, at, size):  # type: ignore[no-untyped-def]
    bits = np.uint64(0)
    for i in range(size):
        bits |= np.uint64(data[at + i]) << np.uint64(8 * i)
    if size == 4:
        return np.float64(np.uint32(bits).view(np.float32))
    return np.uint64(bits).view(np.float64)


@kernel(f"int64({_SPAN}, int64, int64)")
def _step_over(data, at, stop, kind, size):  # type: ignore[no-untyped-def]
    """Give where a value that holds no other ends, or -1; `size` is FIRST of its node."""
    if kind in (INTEGER, ENUM, BYTES):
        # Most numbers take one byte.
        if at < stop and data[at] < 128:
            size, at = (data[at] >> 1) ^ -np.int64(data[at] & 1), at + 1
        else:
            size, at = _read_long(data, at, stop)
        if kind != BYTES:
            return at
        if at < 0:
            return -1
    elif kind != FIXED:
        size = 0 if kind == ABSENT else (1 if kind == BOOLEAN else (4 if kind == FLOAT else 8))
    return at + size if 0 <= size <= stop - at else -1


@kernel(f"boolean({_SPAN}, int64[::1], int64[::1])")
def _take_value(data, at, end, node, found):  # type: ignore[no-untyped-def]
    """Note the value from `at` to `end`; False where it is not one that its type has."""
    kind = node[KIND]
    found[KIND], found[VALUE], found[STOP] = kind, at, end
    if kind == BYTES:
        _, found[VALUE] = _read_long(data, at, end)
    elif kind in (INTEGER, ENUM):
        found[VALUE], _ = _read_long(data, at, end)
    elif kind == BOOLEAN:
        found[VALUE] = data[at]
    elif kind in (FLOAT, DOUBLE):
        found[VALUE] = np.float64(_read_double(data, at, end - at)).view(np.int64)
    if kind == ENUM:
        found[STOP] = node[FIRST]
        return 0 <= found[VALUE] < node[COUNT]
    return kind != BOOLEAN or found[VALUE] < 2


@kernel(f"UniTuple(int64, 2)({_SPAN}, boolean, int64)")
def _next_item(data, at, stop, keyed, left):  # type: ignore[no-untyped-def]
    """Go to the next item of an array or map, `left` being how many of its block there are.

    Give where it begins, or -1 if it is damaged, and how many there are behind it in its block, -1 if there is none.
    """
    while left == 0:
        left, at = _read_long(data, at, stop)
        if at < 0 or left == 0:
            return at, -1
        if left < 0:  # a block that tells its size: nothing within it is wanted
            size, at = _read_long(data, at, stop)
            if at < 0 or not 0 <= size <= stop - at:
                return -1, -1
            at, left = at + size, 0
    if keyed:
        at = _step_over(data, at, stop, BYTES, 0)
    return at, left - 1


@kernel(f"int64({_SPAN}, int64[:, ::1], int64[::1], int64[:, ::1], int64[::1], int64[:, ::1])")
def walk(data, start, stop, nodes, children, stack, steps, found):  # type: ignore[no-untyped-def]
    """Walk one record.

    Parameters
    ----------
    data, start, stop
        The record begins at `start` and ends before `stop`, uint8.
    nodes, children
        Of `avro.Program`.
    stack
        To work with, int64 (DEPTH, 2): what is being walked, and how many of its fields or items are left.
    steps
        How many may still be taken, int64 (1,), and then are.
    found
        To be filled, int64 (slots, 3), ABSENT before.

    Returns
    -------
    int
        Where the record ends; -1 if it is damaged.
    """
    at, depth, node = start, 0, 0
    owner, left = -1, np.int64(0)
    while steps[0] > 0:
        steps[0] -= 1
        kind = nodes[node, KIND]
        while kind == UNION:
            branch, at = _read_long(data, at, stop)
            if at < 0 or not 0 <= branch < nodes[node, COUNT]:
                return -1
            node = children[nodes[node, FIRST] + branch]
            kind = nodes[node, KIND]
        if kind in (RECORD, ARRAY, MAP):
            if depth == stack.shape[0]:
                return -1
            stack[depth, 0], stack[depth, 1] = owner, left
            depth += 1
            owner, left = node, np.int64(nodes[node, COUNT] if kind == RECORD else 0)
        elif kind != ABSENT:
            end = _step_over(data, at, stop, kind, nodes[node, FIRST])
            if end < 0:
                return -1
            slot = nodes[node, SLOT]
            if slot >= 0 and not _take_value(data, at, end, nodes[node], found[slot]):
                return -1
            at = end
        # Where to go on: the next field of the innermost record, or the next item, that there is.
        while True:
            if depth == 0:
                return at
            if nodes[owner, KIND] == RECORD:
                if left > 0:
                    node = children[nodes[owner, FIRST] + nodes[owner, COUNT] - left]
                    left -= 1
                    break
            else:
                at, left = _next_item(data, at, stop, nodes[owner, KIND] == MAP, left)
                if at < 0:
                    return -1
                if left >= 0:
                    node = children[nodes[owner, FIRST]]
                    break
            depth -= 1
            owner, left = stack[depth, 0], stack[depth, 1]
    return -1


@kernel("void(uint8[::1], int64[:, ::1], int64[:, ::1], int64[::1], int64[:, :, ::1], int64[::1])")
def walk_blocks(data, blocks, nodes, children, found, ends):  # type: ignore[no-untyped-def]
    """Walk the records of several blocks.

    Parameters
    ----------
    data
        Bytes, uint8.
    blocks
        The start, the stop and how many records of each block, int64 (k, 3).
    nodes, children
        Of `avro.Program`.
    found
        To be filled, int64 (n, slots, 3): a row for each record, those of a block one after the other.
    ends
        To be filled, int64 (n,): where each record ends; -1 for one that is damaged and for those behind it in its
        block, -2 for all of a block that the records do not fill.
    """
    stack, steps = np.zeros((DEPTH, 2), np.int64), np.zeros(1, np.int64)
    row = 0
    for b in range(blocks.shape[0]):
        at, stop, first = blocks[b, 0], blocks[b, 1], row
        steps[0] = _STEPS_A_BYTE * (stop - at) + _STEPS
        for _ in range(blocks[b, 2]):
            found[row, :, KIND] = ABSENT
            if at >= 0:
                at = walk(data, at, stop, nodes, children, stack, steps, found[row])
            ends[row] = at
            row += 1
        if 0 <= at < stop:
            ends[first:row] = -2

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

# Steps taken for each byte of a record, and besides: more are only taken where nothing but nulls is told.
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


@kernel(f"int64({_SPAN}, int64[::1], int64[:, ::1])")
def _take_value(data, at, stop, node, found):  # type: ignore[no-untyped-def]
    """Step over a value that holds no other, noting it where it is wanted; give where it ends, or -1."""
    kind, slot = node[KIND], node[SLOT]
    value, end = np.int64(0), at
    if kind in (INTEGER, ENUM, BYTES):
        value, at = _read_long(data, at, stop)
        end = at
        if at < 0 or (kind == ENUM and not 0 <= value < node[COUNT]):
            return -1
    if kind in (BYTES, FIXED):
        size = value if kind == BYTES else node[FIRST]
        if not 0 <= size <= stop - at:
            return -1
        value, end = at, at + size
    elif kind in (BOOLEAN, FLOAT, DOUBLE):
        size = 1 if kind == BOOLEAN else (4 if kind == FLOAT else 8)
        if size > stop - at:
            return -1
        end = at + size
        if kind == BOOLEAN:
            value = np.int64(data[at])
            if value > 1:
                return -1
        elif slot >= 0:
            value = np.float64(_read_double(data, at, size)).view(np.int64)
    if slot >= 0:
        found[slot, KIND], found[slot, VALUE] = kind, value
        found[slot, STOP] = node[FIRST] if kind == ENUM else end
    return end


@kernel(f"int64({_SPAN}, boolean, int64[::1])")
def _next_item(data, at, stop, keyed, frame):  # type: ignore[no-untyped-def]
    """Go to the next item of an array or map, frame[2] being how many of its block are left; -1 if it is damaged.

    frame[1] becomes 1 when there is no further item.
    """
    while frame[2] == 0:
        count, at = _read_long(data, at, stop)
        if at < 0:
            return -1
        if count == 0:
            frame[1] = 1
            return at
        if count < 0:  # a block that tells its size: nothing within it is wanted
            size, at = _read_long(data, at, stop)
            if at < 0 or not 0 <= size <= stop - at:
                return -1
            at += size
        else:
            frame[2] = count
    frame[2] -= 1
    if keyed:
        size, at = _read_long(data, at, stop)
        if at < 0 or not 0 <= size <= stop - at:
            return -1
        at += size
    return at


@kernel(f"int64({_SPAN}, int64[:, ::1], int64[::1], int64[:, ::1], int64[:, ::1])")
def walk(data, start, stop, nodes, children, stack, found):  # type: ignore[no-untyped-def]
    """Walk one record.

    Parameters
    ----------
    data, start, stop
        The record begins at `start` and ends before `stop`, uint8.
    nodes, children
        Of `avro.Program`.
    stack
        To work with, int64 (DEPTH, 3): the node, the next of its children or whether it is done, the items left.
    found
        To be filled, int64 (slots, 3).

    Returns
    -------
    int
        Where the record ends; -1 if it is damaged.
    """
    found[:, KIND] = ABSENT
    at, depth, node = start, 0, 0
    budget = _STEPS_A_BYTE * (stop - start) + _STEPS
    while budget > 0:
        budget -= 1
        kind = nodes[node, KIND]
        if kind == UNION:
            branch, at = _read_long(data, at, stop)
            if at < 0 or not 0 <= branch < nodes[node, COUNT]:
                return -1
            node = children[nodes[node, FIRST] + branch]
            continue
        if kind in (RECORD, ARRAY, MAP):
            if depth == stack.shape[0]:
                return -1
            stack[depth, 0], stack[depth, 1], stack[depth, 2] = node, 0, 0
            depth += 1
        elif kind != ABSENT:
            at = _take_value(data, at, stop, nodes[node], found)
            if at < 0:
                return -1
        # Where to go on: the next field of the innermost record, or the next item, that there is.
        while True:
            if depth == 0:
                return at
            budget -= 1
            frame = stack[depth - 1]
            owner = frame[0]
            if nodes[owner, KIND] == RECORD:
                if frame[1] < nodes[owner, COUNT]:
                    node = children[nodes[owner, FIRST] + frame[1]]
                    frame[1] += 1
                    break
            else:
                at = _next_item(data, at, stop, nodes[owner, KIND] == MAP, frame)
                if at < 0:
                    return -1
                if frame[1] == 0:
                    node = children[nodes[owner, FIRST]]
                    break
            depth -= 1
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
    stack = np.zeros((DEPTH, 3), np.int64)
    row = 0
    for b in range(blocks.shape[0]):
        at, stop, first = blocks[b, 0], blocks[b, 1], row
        for _ in range(blocks[b, 2]):
            found[row, :, KIND] = ABSENT
            if at >= 0:
                at = walk(data, at, stop, nodes, children, stack, found[row])
            ends[row] = at
            row += 1
        if 0 <= at < stop:
            ends[first:row] = -2

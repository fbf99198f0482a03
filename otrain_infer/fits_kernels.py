"""Kernels that decode a batch of FITS files, lying in one array of bytes, into the pixels of cutouts.

They take what cutouts nearly always are and decline the rest. Every read is bounded by the end of its file, and every
size is checked before it is multiplied.
"""

import math

import numpy as np

from otrain_infer.fits_cards import (
    BAD,
    BITPIX,
    BLANK,
    BLOCK,
    BSCALE,
    BZERO,
    EXTEND,
    EXTNAME,
    FALSE,
    FLOAT,
    GCOUNT,
    GROUPS,
    INTEGER,
    NAXIS,
    NAXIS1,
    NONE,
    PCOUNT,
    SIMPLE,
    STRING,
    STRUCTURAL,
    TRUE,
    XTENSION,
    load_u16,
    load_u32,
    load_u64,
    pack,
    parse_value,
    scan_header,
    to_number,
    write_text,
)
from otrain_infer.flags import CutoutFlag
from otrain_infer.jit import kernel

# What became of a file; of the last three, with the number of a plane.
DECODED, DECLINED, NOT_FITS, NO_PLANE, NO_FINITE, CONSTANT = range(6)
PENDING = -1

# Columns of `outcome`: what became of a file, at which plane, and how many of its values are left to Python. They are
# all 0 where nothing is the matter with a file.
STATUS, PLANE, LEFT = range(3)

# What to look for, in four parts: the keywords, `words`, `owners`, `names` and `lengths`, see `scan_header`; the names
# of planes in capitals, uint8 (k, width), the lengths and groups of these, and the group of each plane asked for, of
# which 0, 1 and 2 are the planes of an image of three; the columns, which keyword each of the numbers is, and of the
# texts, and which numbers are YPOS and XPOS; and whether padding keeps the object in the centre.
PLAN = (
    "Tuple((Tuple((uint64[::1], int64[:, ::1], uint8[:, ::1], int64[::1])), Tuple((uint8[:, ::1], int64[::1],"
    " int64[::1], int64[::1])), Tuple((int64[::1], int64[::1], int64, int64)), boolean))"
)

# What is found, a row for each file: `pixels`, float32 (n, ny, nx, planes), or of no row if they are not asked for;
# `outcome`, (n, 3), PENDING before; `flags`, (n,); `shapes`, (n, 2); `numbers`, (k, n), NaN before; `texts`,
# (m, n, width), ASCII, 0 before; `widths`, (m,), the length of the longest of each; `later`, (k + m, n, 2), 0 before,
# [start, stop) of the values that are left to Python, stop negative if within a string.
ROWS = (
    "Tuple((float32[:, :, :, ::1], int64[:, ::1], uint32[::1], int32[:, ::1], float64[:, ::1], uint8[:, :, ::1],"
    " int64[::1], int64[:, :, ::1]))"
)

# What is known of the file at hand, see `_find_planes`, and its planes one behind the other.
SCRATCH = "Tuple((int64[:, ::1], int64[:, :, ::1], int64[:, ::1], float64[:, ::1], float32[:, :, :, ::1]))"

# How stored numbers become pixels: as they are; with the sign bit turned; through BSCALE, BZERO and BLANK.
PLAIN, UNSIGNED, SCALED = range(3)

# What is known of an image: integers, and BSCALE with BZERO as doubles.
START, BITS, MODE, BLANK_VALUE, HAS_BLANK, NY, NX, N_PLANES = range(8)
IMAGE_FIELDS = 8

MAX_AXES = 9
MAX_BYTES = 1 << 40

_SIMPLE = np.uint64(pack("SIMPLE"))
_IMAGE = np.uint64(pack("IMAGE"))
_FIVE_BYTES, _SIX_BYTES = np.uint64((1 << 40) - 1), np.uint64((1 << 48) - 1)
_EXPONENT = np.uint32(0x7F800000)

_PADDED, _CROPPED, _NAN_PIXELS = (
    np.uint32(flag) for flag in (CutoutFlag.PADDED, CutoutFlag.CROPPED, CutoutFlag.NAN_PIXELS)
)
_UNREADABLE, _MISSING_PLANE, _BLANK = (
    np.uint32(flag) for flag in (CutoutFlag.UNREADABLE, CutoutFlag.MISSING_PLANE, CutoutFlag.BLANK)
)


@kernel("uint16(uint16)")
def _swap16(v):  # type: ignore[no-untyped-def]
    return np.uint16((v >> np.uint16(8)) | (v << np.uint16(8)))


@kernel("uint32(uint32)")
def _swap32(v):  # type: ignore[no-untyped-def]
    v = ((v >> np.uint32(8)) & np.uint32(0x00FF00FF)) | ((v & np.uint32(0x00FF00FF)) << np.uint32(8))
    return np.uint32((v >> np.uint32(16)) | (v << np.uint32(16)))


@kernel("uint64(uint64)")
def _swap64(v):  # type: ignore[no-untyped-def]
    upper = np.uint64(_swap32(np.uint32(v & np.uint64(0xFFFFFFFF))))
    return (upper << np.uint64(32)) | np.uint64(_swap32(np.uint32(v >> np.uint64(32))))


@kernel("void(uint8[::1], int64, int64, int64, float32, float32, boolean, int64, float32[::1])")
def _convert_narrow(data, at, bits, mode, scale, zero, has_blank, blank, row):  # type: ignore[no-untyped-def]
    """Convert 8 or 16 bit integers; scaling is done in float32, as astropy does it."""
    for x in range(row.size):
        stored = np.int64(data[at + x]) if bits == 8 else np.int64(np.int16(_swap16(load_u16(data, at + 2 * x))))
        if mode == UNSIGNED:
            stored += 1 << 15
        row[x] = np.float32(stored)
        if mode == SCALED:
            row[x] = np.float32(row[x] * scale) + zero
            if has_blank and stored == blank:
                row[x] = np.nan


@kernel("void(uint8[::1], int64, int64, int64, float64, float64, boolean, int64, float32[::1])")
def _convert_wide(data, at, bits, mode, scale, zero, has_blank, blank, row):  # type: ignore[no-untyped-def]
    """Convert 32 or 64 bit numbers other than float32; scaling is done in float64, as astropy does it."""
    for x in range(row.size):
        if bits == -64:
            value = np.uint64(_swap64(load_u64(data, at + 8 * x))).view(np.float64)
            row[x] = np.float32(value * scale + zero) if mode == SCALED else np.float32(value)
            continue
        if bits == 32:
            stored = np.int64(np.int32(_swap32(load_u32(data, at + 4 * x))))
        else:
            stored = np.int64(_swap64(load_u64(data, at + 8 * x)))
        if mode == SCALED:
            row[x] = np.float32(np.float64(stored) * scale + zero)
            if has_blank and stored == blank:
                row[x] = np.nan
        elif mode == UNSIGNED and bits == 64:
            row[x] = np.float32(np.uint64(stored) ^ np.uint64(1 << 63))
        elif mode == UNSIGNED:
            row[x] = np.float32(stored + (1 << 31))
        else:
            row[x] = np.float32(stored)


@kernel("void(uint8[::1], int64, int64[::1], float64[::1], int64, float32[::1])")
def _convert(data, at, image, scaling, bits, row):  # type: ignore[no-untyped-def]
    mode, has_blank, blank = image[MODE], image[HAS_BLANK] != 0, image[BLANK_VALUE]
    if bits == -32:
        stored = row.view(np.uint32)
        for x in range(row.size):
            stored[x] = _swap32(load_u32(data, at + 4 * x))
        if mode == SCALED:
            scale, zero = np.float32(scaling[0]), np.float32(scaling[1])
            for x in range(row.size):
                row[x] = row[x] * scale + zero
    elif bits == 8 or bits == 16:
        scale, zero = np.float32(scaling[0]), np.float32(scaling[1])
        _convert_narrow(data, at, bits, mode, scale, zero, has_blank, blank, row)
    else:
        _convert_wide(data, at, bits, mode, scaling[0], scaling[1], has_blank, blank, row)


@kernel("UniTuple(int64, 3)(int64, int64, float64, boolean, boolean)")
def _overlap(native, size, position, keep_object, square):  # type: ignore[no-untyped-def]
    """Give (first native pixel, where it goes, how many) along one axis.

    Pixel n // 2 is the centre of n. A surplus is cut so that it stays the centre. Missing pixels are on the high side;
    where the object stays in the centre, they are on the low side if its position in the parent image is less than half
    the size, and on both if nothing tells that the cutout is truncated: it is square, or the position is not known.
    """
    if native >= size:
        return native // 2 - size // 2, 0, size
    low = 0
    if keep_object:
        if position < 0.5 * size:
            low = size - native
        elif square or not math.isfinite(position):
            low = size // 2 - native // 2
    return 0, low, native


@kernel("UniTuple(int64, 2)(float32[::1])")
def _judge(values):  # type: ignore[no-untyped-def]
    """Give (DECODED, NO_FINITE or CONSTANT, flags) of the pixels of a plane."""
    pattern = values.view(np.uint32)
    highest = np.uint32(0)
    for i in range(values.size):
        highest = max(highest, np.uint32(pattern[i] & _EXPONENT))
    flags = np.int64(_NAN_PIXELS) if highest == _EXPONENT else 0
    i = 0
    while i < values.size and not math.isfinite(values[i]):
        i += 1
    if i == values.size:
        return NO_FINITE, flags | np.int64(_BLANK)
    first = values[i]
    while i < values.size and (values[i] == first or not math.isfinite(values[i])):
        i += 1
    if i == values.size:
        return CONSTANT, flags | np.int64(_BLANK)
    return DECODED, flags


@kernel("UniTuple(int64, 2)(uint8[::1], int64[::1], float64[::1], float64, float64, boolean, float32[:, ::1])")
def place(data, image, scaling, ypos, xpos, keep_object, out):  # type: ignore[no-untyped-def]
    """Decode one image into `out`, cropped or padded with NaN; give (DECODED or what is wrong, flags)."""
    ny, nx = out.shape
    bits = image[BITS]
    size = abs(bits) // 8
    square = image[NY] == image[NX]
    y_from, y_to, rows = _overlap(image[NY], ny, ypos, keep_object, square)
    x_from, x_to, columns = _overlap(image[NX], nx, xpos, keep_object, square)
    flags = np.int64(0)
    if image[NY] > ny or image[NX] > nx:
        flags |= np.int64(_CROPPED)
    if rows < ny or columns < nx:
        flags |= np.int64(_PADDED)
        out[:] = np.nan
    flat = out.reshape(out.size)
    straight = columns == nx
    values = flat[y_to * nx : (y_to + rows) * nx] if straight else np.empty(rows * columns, np.float32)
    at = image[START] + (y_from * image[NX] + x_from) * size
    if columns == image[NX]:
        _convert(data, at, image, scaling, bits, values)
    else:
        for y in range(rows):
            row = values[y * columns : (y + 1) * columns]
            _convert(data, at + y * image[NX] * size, image, scaling, bits, row)
    if not straight:
        for y in range(rows):
            to = np.uint64((y_to + y) * nx + x_to)
            for x in range(columns):
                flat[to + np.uint64(x)] = values[y * columns + x]
    judgement, found = _judge(values)
    return judgement, flags | found


@kernel("void(float32[::1], float32[::1], float32[::1], float32[::1])")
def _interleave_three(first, second, third, to):  # type: ignore[no-untyped-def]
    # With a step known to the compiler these are vectors, which takes half as long.
    for i in range(first.size):
        to[3 * i], to[3 * i + 1], to[3 * i + 2] = first[i], second[i], third[i]


@kernel("void(float32[:, :, :, ::1], float32[:, :, :, ::1])")
def interleave(apart, out):  # type: ignore[no-untyped-def]
    """Put the planes of n cutouts, (planes, n, ny, nx) `apart`, into (n, ny, nx, planes) `out`."""
    planes, n, ny, nx = apart.shape
    for row in range(n):
        to = out[row].reshape(out[row].size)
        if planes == 3:
            first, second, third = apart[0, row], apart[1, row], apart[2, row]
            _interleave_three(first.reshape(ny * nx), second.reshape(ny * nx), third.reshape(ny * nx), to)
        else:
            for p in range(planes):
                one = apart[p, row].reshape(ny * nx)
                for i in range(one.size):
                    to[i * planes + p] = one[i]


@kernel("Tuple((boolean, int64))(uint8[::1], int64[:, ::1], int64, int64)")
def _integer(data, structural, which, absent):  # type: ignore[no-untyped-def]
    """Give (True, value) of a structural keyword, or (False, 0) if it is anything but an integer up to 2**53."""
    if structural[which, 0] == 0:
        return True, absent
    kind, start, stop = parse_value(data, structural[which, 0], structural[which, 1])
    if kind != INTEGER or stop - start > 18:
        return False, 0
    value, at = 0, start
    if data[at] == 43 or data[at] == 45:
        at += 1
    while at < stop:
        value = value * 10 + (data[at] - 48)
        at += 1
    return value <= 1 << 53, -value if data[start] == 45 else value


@kernel("Tuple((boolean, float64, boolean))(uint8[::1], int64[:, ::1], int64, float64)")
def _number(data, structural, which, absent):  # type: ignore[no-untyped-def]
    """Give (True, value, whether it is an integer) of a structural keyword, or False first if it is not plain."""
    if structural[which, 0] == 0:
        return True, absent, True
    kind, start, stop = parse_value(data, structural[which, 0], structural[which, 1])
    if kind != INTEGER and kind != FLOAT:
        return False, 0.0, False
    known, value = to_number(data, start, stop)
    # Larger integers may be rounded twice on their way to float32; 2**63 is the zero of unsigned 64 bit integers.
    if kind == INTEGER and abs(value) > 1 << 53 and value != 9223372036854775808.0:
        known = False
    return known, value, kind == INTEGER


@kernel("boolean(uint8[::1], int64[:, ::1], int64[::1], float64[::1])")
def _read_scaling(data, structural, image, scaling):  # type: ignore[no-untyped-def]
    known, scale, _ = _number(data, structural, BSCALE, 1.0)
    also_known, zero, whole = _number(data, structural, BZERO, 0.0)
    blank_known, blank = _integer(data, structural, BLANK, 0)
    if not (known and also_known and blank_known):
        return False
    bits = image[BITS]
    blanked = structural[BLANK, 0] != 0 and bits > 0
    scaling[0], scaling[1] = scale, zero
    image[MODE] = SCALED if scale != 1.0 or zero != 0.0 or blanked else PLAIN
    # astropy does not apply a BLANK of 0.
    image[HAS_BLANK], image[BLANK_VALUE] = blanked and blank != 0, blank
    if scale == 1.0 and bits > 8 and zero == math.ldexp(1.0, bits - 1):
        image[MODE] = UNSIGNED
    # Signed bytes: astropy stumbles over a BLANK and over a zero that is no integer.
    return not (scale == 1.0 and bits == 8 and zero == -128.0 and (blanked or not whole))


@kernel("int64(uint8[::1], int64[:, ::1], int64, int64[::1], float64[::1])")
def _read_shape(data, structural, start, image, scaling):  # type: ignore[no-untyped-def]
    """Fill `image` and `scaling`; give the size of the data in bytes, or -1 for a header that is not plain.

    N_PLANES stays 0 where there is no image of two axes or of three.
    """
    known, bits = _integer(data, structural, BITPIX, 0)
    if not known or not (bits == 8 or bits == 16 or bits == 32 or bits == 64 or bits == -32 or bits == -64):
        return -1
    known, axes = _integer(data, structural, NAXIS, -1)
    if not known or not 0 <= axes <= MAX_AXES:
        return -1
    known, parameters = _integer(data, structural, PCOUNT, 0)
    also_known, groups = _integer(data, structural, GCOUNT, 1)
    if not (known and also_known) or parameters != 0 or groups != 1 or structural[GROUPS, 0] != 0:
        return -1
    size = abs(bits) // 8 if axes > 0 else 0
    image[START], image[BITS], image[N_PLANES] = start, bits, 0
    for axis in range(axes):
        known, length = _integer(data, structural, NAXIS1 + axis, -1)
        if not known or not 0 <= length <= MAX_BYTES:
            return -1
        if axis < 2:
            image[NX - axis] = length
        elif axis == 2:
            image[N_PLANES] = length
        if length > 0 and size > MAX_BYTES // length:
            return -1
        size *= length
    if axes == 2:
        image[N_PLANES] = 1
    if axes > 3 or size == 0:
        image[N_PLANES] = 0
    return size if _read_scaling(data, structural, image, scaling) else -1


@kernel("int64(uint8[::1], int64, int64, int64, uint8[:, ::1], int64[::1], int64[::1])")
def _find_name(data, kind, start, stop, names, lengths, groups):  # type: ignore[no-untyped-def]
    """Give the group of planes to which a string belongs, without regard to case; -1 if to none."""
    if kind != STRING:
        return -1
    for k in range(lengths.size):
        if lengths[k] == stop - start:
            i = 0
            while i < lengths[k]:
                c = data[start + i]
                if (c - 32 if 97 <= c <= 122 else c) != names[k, i]:
                    break
                i += 1
            if i == lengths[k]:
                return groups[k]
    return -1


@kernel("boolean(uint8[::1], int64, int64[:, ::1], boolean)")
def _is_plain_image(data, start, structural, primary):  # type: ignore[no-untyped-def]
    """Tell whether the first card of a header is SIMPLE = T, or XTENSION = 'IMAGE' in an extension."""
    first, other = (SIMPLE, XTENSION) if primary else (XTENSION, SIMPLE)
    if structural[first, 0] != start + 10 or structural[other, 0] != 0:
        return False
    kind, at, stop = parse_value(data, structural[first, 0], structural[first, 1])
    if primary:
        return kind == TRUE
    if kind != STRING or stop - at != 5 or data[at - 1] != 39:
        return False
    return load_u64(data, at) & _FIVE_BYTES == _IMAGE & _FIVE_BYTES


@kernel("void(int64[:, :, ::1], int64[:, ::1], float64[:, ::1], int64, int64, int64)")
def _keep(wanted, images, scalings, cards, image, to):  # type: ignore[no-untyped-def]
    """Copy row `cards` of `wanted`, and row `image` of the others, to row `to`."""
    # Number by number: assignments of arrays take seconds to compile, and longer to run.
    for k in range(wanted.shape[1]):
        wanted[to, k, 0], wanted[to, k, 1] = wanted[cards, k, 0], wanted[cards, k, 1]
    for k in range(images.shape[1]):
        images[to, k] = images[image, k]
    scalings[to, 0], scalings[to, 1] = scalings[image, 0], scalings[image, 1]


@kernel("int64(int64[:, ::1], float64[:, ::1], int64[:, :, ::1], int64[::1])")
def _take_only(images, scalings, wanted, groups):  # type: ignore[no-untyped-def]
    """Let the only image of a file answer for the planes; give how many are still missing."""
    n_planes = groups.size
    only = n_planes + 2
    count = images[only, N_PLANES]
    step = images[only, NY] * images[only, NX] * (abs(images[only, BITS]) // 8)
    missing = 0
    for p in range(n_planes):
        which = p if count == n_planes else -1
        if count == 3:
            which = groups[p] if 0 <= groups[p] < 3 else -1
        if which < 0:
            missing += images[2 + p, N_PLANES] == 0
            continue
        _keep(wanted, images, scalings, only, only, 2 + p)
        images[2 + p, START] += which * step
    return missing


@kernel(f"UniTuple(int64, 2)(uint8[::1], int64, int64, {PLAN}, {SCRATCH})")
def _find_planes(data, start, stop, plan, scratch):  # type: ignore[no-untyped-def]
    """Read headers until every plane of the plan is found; give (DECODED or what is wrong, which plane).

    Row 2 + p of `wanted`, `images` and `scalings` becomes that of plane p, row 0 of `wanted` that of the primary
    header; row 1 is the header being read, the last row the first image of the file.
    """
    (words, owners, names, lengths), (plane_names, plane_lengths, plane_groups, groups), _, _ = plan
    structural, wanted, images, scalings, _ = scratch
    declined = (DECLINED, 0)
    n_planes = groups.size
    only = n_planes + 2
    wanted[2:] = 0
    images[2:, N_PLANES] = 0
    missing, n_images, position, primary = n_planes, 0, start, True
    while missing > 0 and position < stop:
        header = 0 if primary else 1
        begin = scan_header(data, position, stop, words, owners, names, lengths, structural, wanted[header])
        if begin < 0 or not _is_plain_image(data, position, structural, primary):
            return declined
        size = _read_shape(data, structural, begin, images[1], scalings[1])
        # Whether a truncated file is of use is for astropy to say.
        if size < 0 or size > stop - begin:
            return declined
        group = -1
        if structural[EXTNAME, 0] != 0:
            kind, first, last = parse_value(data, structural[EXTNAME, 0], structural[EXTNAME, 1])
            if kind == BAD:
                return declined
            group = _find_name(data, kind, first, last, plane_names, plane_lengths, plane_groups)
        if images[1, N_PLANES] > 0:
            n_images += 1
            if n_images == 1:
                _keep(wanted, images, scalings, header, 1, only)
            for p in range(n_planes):
                if images[1, N_PLANES] == 1 and groups[p] == group and images[2 + p, N_PLANES] == 0:
                    _keep(wanted, images, scalings, header, 1, 2 + p)
                    missing -= 1
        position = begin + (size + BLOCK - 1) // BLOCK * BLOCK
        if primary:
            extend = NONE
            if structural[EXTEND, 0] != 0:
                extend, _, _ = parse_value(data, structural[EXTEND, 0], structural[EXTEND, 1])
                if extend != TRUE and extend != FALSE:
                    return declined
            # Without EXTEND = T astropy reads the next header at once, and may not like it.
            if missing == 0 and extend != TRUE and position < stop:
                return declined
            primary = False
    if missing > 0 and n_images == 1:
        missing = _take_only(images, scalings, wanted, groups)
    for p in range(n_planes):
        if images[2 + p, N_PLANES] == 0 and missing > 0:
            return NO_PLANE, p
    return DECODED, 0


@kernel("UniTuple(int64, 3)(uint8[::1], int64[:, :, ::1], int64)")
def _first_value(data, wanted, key):  # type: ignore[no-untyped-def]
    """Give (kind, start, stop) of a keyword: from the first header in which it has a value, NONE if it has none."""
    for row in range(wanted.shape[0] - 1):
        if row != 1 and wanted[row, key, 0] != 0:
            kind, start, stop = parse_value(data, wanted[row, key, 0], wanted[row, key, 1])
            if kind != NONE:
                return kind, start, stop
    return NONE, 0, 0


@kernel(f"int64(uint8[::1], int64, {PLAN}, {ROWS}, int64[:, :, ::1])")
def _read_values(data, row, plan, rows, wanted):  # type: ignore[no-untyped-def]
    """Read the wanted keywords of a file; give how many are left to Python, or -1 if one is not plain."""
    _, _, (number_keys, text_keys, y_column, x_column), _ = plan
    _, _, _, _, numbers, texts, widths, later = rows
    n, left = number_keys.size, 0
    for j in range(n):
        kind, start, stop = _first_value(data, wanted, number_keys[j])
        known = True
        if kind in (INTEGER, FLOAT):
            known, numbers[j, row] = to_number(data, start, stop)
        elif kind == STRING and stop > start:
            known, stop = False, -stop
        # The position is needed before Python reads what is left to it.
        if kind == BAD or (not known and j in (y_column, x_column)):
            return -1
        if not known:
            later[j, row, 0], later[j, row, 1] = start, stop
            left += 1
    for j in range(text_keys.size):
        kind, start, stop = _first_value(data, wanted, text_keys[j])
        if kind == BAD:
            return -1
        if kind == FLOAT:
            later[n + j, row, 0], later[n + j, row, 1] = start, stop
            left += 1
        elif kind != NONE:
            widths[j] = max(widths[j], write_text(data, kind, start, stop, texts[j, row]))
    return left


@kernel(f"{SCRATCH}({PLAN}, {ROWS})")
def make_scratch(plan, rows):  # type: ignore[no-untyped-def]
    """Make what `decode_file` needs, to be used for one file after the other."""
    (_, _, _, lengths), (_, _, _, groups), _, _ = plan
    n_planes, (_, ny, nx, _) = groups.size, rows[0].shape
    return (
        np.zeros((len(STRUCTURAL), 2), np.int64),
        np.zeros((n_planes + 3, lengths.size - 1, 2), np.int64),  # EXTNAME is none of the wanted
        np.zeros((n_planes + 3, IMAGE_FIELDS), np.int64),
        np.zeros((n_planes + 3, 2), np.float64),
        np.empty((n_planes, 1, ny, nx), np.float32),
    )


@kernel(f"boolean(uint8[::1], int64, int64, int64, {PLAN}, {ROWS}, {SCRATCH})")
def decode_file(data, start, stop, row, plan, rows, scratch):  # type: ignore[no-untyped-def]
    """Decode the file in data[start:stop] into a row; tell whether its bytes are of no more use."""
    _, _, (_, _, y_column, x_column), keep_object = plan
    pixels, outcome, flags, shapes, numbers, _, _, _ = rows
    _, wanted, images, scalings, apart = scratch
    n_planes, _, ny, nx = apart.shape
    status, plane, left, found = NOT_FITS, 0, 0, np.int64(0)
    if stop - start >= BLOCK and load_u64(data, start) & _SIX_BYTES == _SIMPLE & _SIX_BYTES:
        status, plane = _find_planes(data, start, stop, plan, scratch)
    if status in (DECODED, NO_PLANE):
        left = _read_values(data, row, plan, rows, wanted)
        if left < 0:
            status, left = DECLINED, 0
    if status == DECODED:
        shapes[row, 0], shapes[row, 1] = images[2, NY], images[2, NX]
    if status == DECODED and pixels.shape[0] > 0:
        ypos, xpos = numbers[y_column, row], numbers[x_column, row]
        for p in range(n_planes):
            out = pixels[row].reshape(ny, nx) if n_planes == 1 else apart[p, 0]
            one, more = place(data, images[2 + p], scalings[2 + p], ypos, xpos, keep_object, out)
            found |= more
            if one != DECODED and status == DECODED:
                status, plane = one, p
        if n_planes > 1:
            interleave(apart, pixels[row : row + 1])
    flags[row] = found
    if status == NO_PLANE:
        flags[row] = _MISSING_PLANE
    elif status == NOT_FITS:
        flags[row] = _UNREADABLE
    if status != DECODED and pixels.shape[0] > 0:
        pixels[row] = np.nan
    outcome[row, STATUS], outcome[row, PLANE], outcome[row, LEFT] = status, plane, left
    return status != DECLINED and left == 0


@kernel(f"boolean(uint8[::1], int64[:, ::1], int64, {PLAN}, {ROWS})")
def decode_batch(data, bounds, first, plan, rows):  # type: ignore[no-untyped-def]
    """Decode the files that are PENDING.

    Parameters
    ----------
    data, bounds
        Bytes, uint8 (m,), and [start, stop) of each file in them, int64 (n, 2).
    first
        The row of the first.
    plan, rows
        What to look for, and where to put what is found.

    Returns
    -------
    bool
        False, with nothing done, where `bounds` reach beyond the bytes.
    """
    for i in range(bounds.shape[0]):
        if not 0 <= bounds[i, 0] <= bounds[i, 1] <= data.size:
            return False
    outcome, scratch = rows[1], make_scratch(plan, rows)
    for row in range(first, first + bounds.shape[0]):
        if outcome[row, STATUS] == PENDING:
            decode_file(data, bounds[row - first, 0], bounds[row - first, 1], row, plan, rows, scratch)
    return True

"""Kernels that read FITS header cards: where each keyword is, and what its value says.

They understand the plain forms of a card and answer BAD, or less than 0, to every other one, so that nothing here has
to be lenient: such a file is read by astropy instead. A range of bytes is always [start, stop).
"""

from typing import Any

import numpy as np

from otrain_infer.jit import Deferred, kernel

BLOCK = 2880
CARD = 80
TEXT_WIDTH = 72

# What a value is. QUOTED is a string with '' in it; NONE a keyword without value.
NONE, INTEGER, FLOAT, STRING, QUOTED, TRUE, FALSE, BAD = range(8)

STRUCTURAL = (
    "BITPIX", "NAXIS", "NAXIS1", "NAXIS2", "NAXIS3", "NAXIS4", "NAXIS5", "NAXIS6", "NAXIS7", "NAXIS8", "NAXIS9",
    "PCOUNT", "GCOUNT", "BSCALE", "BZERO", "BLANK", "EXTNAME", "EXTEND", "GROUPS", "SIMPLE", "XTENSION",
)  # fmt: skip
BITPIX, NAXIS, NAXIS1 = range(3)
PCOUNT, GCOUNT, BSCALE, BZERO, BLANK, EXTNAME, EXTEND, GROUPS, SIMPLE, XTENSION = range(11, 21)

SLOT_BITS = 8
SLOTS = 1 << SLOT_BITS
SPREAD = np.uint64(0x9E3779B97F4A7C15)


def pack(keyword: str) -> int:
    """Give the eight bytes of a keyword as the number that `load_u64` reads."""
    return int.from_bytes(keyword.encode("ascii").ljust(8), "little")


def slot_of(word: int) -> int:
    """Give the slot in which the search for a packed keyword begins."""
    return (word * int(SPREAD) % 2**64) >> (64 - SLOT_BITS)


_SPACES = np.uint64(pack(""))
_END = np.uint64(pack("END"))
_END_3 = np.uint64(pack("END") & 0xFFFFFF)
_CONTINUE = np.uint64(pack("CONTINUE"))
_HIERARCH = np.uint64(pack("HIERARCH"))
_ONES = np.uint64(0x0101010101010101)
_HIGHS = np.uint64(0x8080808080808080)
_EQUALS = np.uint64(0x3D3D3D3D3D3D3D3D)
_VALUE_INDICATOR = np.uint16(int.from_bytes(b"= ", "little"))


def _define_load(number: str) -> Any:
    from numba import types
    from numba.extending import intrinsic

    result = getattr(types, number)

    @intrinsic
    def load(typingctx, data, at):  # type: ignore[no-untyped-def]  # noqa: ARG001
        def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            array = context.make_array(signature.args[0])(context, builder, arguments[0])
            address = builder.gep(array.data, [arguments[1]])
            pointer = context.get_value_type(result).as_pointer()
            return builder.load(builder.bitcast(address, pointer), align=1)

        return result(data, types.intp), generate

    return load


# Little-endian numbers at any byte of a uint8 array; the caller sees to the bounds.
load_u16, load_u32, load_u64 = (Deferred(_define_load, number) for number in ("uint16", "uint32", "uint64"))


def _powers_of_five(lowest: int, highest: int) -> np.ndarray[Any, np.dtype[np.uint64]]:
    # Upper and lower half of the 128 leading bits of 5**q, rounded as Lemire, "Number parsing at a gigabyte per second"
    # (2021), has them.
    table = np.empty((highest - lowest + 1, 2), np.uint64)
    for q in range(lowest, highest + 1):
        power = 5 ** abs(q)
        bits = (power - 1).bit_length()
        if q < -27:
            leading = 2 ** (2 * bits + 128) // power + 1
        elif q < 0:
            leading = 2 ** (bits + 127) // power + 1
        else:
            leading = power << max(0, 128 - power.bit_length())
        leading >>= leading.bit_length() - 128
        table[q - lowest] = leading >> 64, leading % 2**64
    return table


LOWEST_POWER, HIGHEST_POWER = -64, 64
_FIVES = _powers_of_five(LOWEST_POWER, HIGHEST_POWER)
_TENS = np.array([10.0**q for q in range(23)])


@kernel("UniTuple(uint64, 2)(uint64, uint64)")
def _multiply(a, b):  # type: ignore[no-untyped-def]
    mask, half = np.uint64(0xFFFFFFFF), np.uint64(32)
    low = (a & mask) * (b & mask)
    cross = (a >> half) * (b & mask)
    middle = (a & mask) * (b >> half) + (cross & mask) + (low >> half)
    upper = (a >> half) * (b >> half) + (cross >> half) + (middle >> half)
    return upper, (middle << half) | (low & mask)


@kernel("Tuple((boolean, uint64))(uint64, int64)")
def _decimal_bits(digits, power):  # type: ignore[no-untyped-def]
    """Give the bits of the double nearest to digits * 10**power by Lemire's algorithm; False where it cannot tell."""
    undecided = (False, np.uint64(0))
    one = np.uint64(1)
    if power < LOWEST_POWER or power > HIGHEST_POWER:
        return undecided
    zeros = 0
    while digits >> np.uint64(63) == 0:
        digits <<= one
        zeros += 1
    upper, lower = _multiply(digits, _FIVES[power - LOWEST_POWER, 0])
    if upper & np.uint64(0x1FF) == np.uint64(0x1FF):
        carry, _ = _multiply(digits, _FIVES[power - LOWEST_POWER, 1])
        lower += carry
        if lower < carry:
            upper += one
    if lower == np.uint64(0xFFFFFFFFFFFFFFFF) and not -27 <= power <= 55:
        return undecided
    top = upper >> np.uint64(63)
    shift = top + np.uint64(9)
    mantissa = upper >> shift
    exponent = ((152170 + 65536) * power >> 16) + 63 + np.int64(top) - zeros + 1023
    if lower <= one and -4 <= power <= 23 and mantissa & np.uint64(3) == one and mantissa << shift == upper:
        mantissa &= ~one
    mantissa = (mantissa + (mantissa & one)) >> one
    if mantissa >> np.uint64(53) != 0:
        mantissa >>= one
        exponent += 1
    if exponent <= 0 or exponent >= 0x7FF:
        return undecided
    hidden = np.uint64(1) << np.uint64(52)
    return True, (mantissa & ~hidden) | (np.uint64(exponent) << np.uint64(52))


@kernel("Tuple((boolean, float64))(uint8[::1], int64, int64)")
def to_number(data, start, stop):  # type: ignore[no-untyped-def]
    """Give the double nearest to the number written in data[start:stop]; False where that takes more than a glance."""
    at = start
    negative = data[at] == 45
    if negative or data[at] == 43:
        at += 1
    digits, count, power, dot = np.uint64(0), 0, 0, False
    while at < stop:
        c = data[at]
        if c == 46:
            dot = True
        elif 48 <= c <= 57:
            if digits != 0 or c != 48:
                count += 1
            if count > 19:
                return False, 0.0
            digits = digits * np.uint64(10) + np.uint64(c - 48)
            power -= dot
        else:
            break
        at += 1
    if at < stop:
        at += 1
        down = data[at] == 45
        if down or data[at] == 43:
            at += 1
        if stop - at > 4:
            return False, 0.0
        exponent = 0
        while at < stop:
            exponent = exponent * 10 + (data[at] - 48)
            at += 1
        power += -exponent if down else exponent
    value = 0.0
    if digits == 0 or power == 0:
        value = np.float64(digits)
    elif digits <= np.uint64(1 << 53) and -22 <= power <= 22:
        value = np.float64(digits) / _TENS[-power] if power < 0 else np.float64(digits) * _TENS[power]
    else:
        known, bits = _decimal_bits(digits, power)
        if not known:
            return False, 0.0
        value = np.uint64(bits).view(np.float64)
    return True, -value if negative else value


@kernel("int64(uint8[::1], int64, int64)")
def _skip_spaces(data, at, stop):  # type: ignore[no-untyped-def]
    while at + 8 <= stop and load_u64(data, at) == _SPACES:
        at += 8
    while at < stop and data[at] == 32:
        at += 1
    return at


@kernel("boolean(uint8[::1], int64, int64)")
def _ends(data, at, stop):  # type: ignore[no-untyped-def]
    # After a value there is nothing but a comment.
    at = _skip_spaces(data, at, stop)
    return at == stop or data[at] == 47


@kernel("Tuple((int64, int64, int64))(uint8[::1], int64, int64)")
def _parse_string(data, at, stop):  # type: ignore[no-untyped-def]
    bad = (BAD, at, at)
    first, kind = at, STRING
    while True:
        if at >= stop or data[at] < 32 or data[at] > 126:
            return bad
        if data[at] == 58 and at + 1 < stop and data[at + 1] == 32:
            # 'name: number' may be a record-valued keyword.
            return bad
        if data[at] == 39:
            if at + 1 >= stop or data[at + 1] != 39:
                break
            # astropy takes '' before a blank or a slash for the end of the string, the standard does not.
            if at + 2 >= stop or data[at + 2] == 32 or data[at + 2] == 47:
                return bad
            kind = QUOTED
            at += 1
        at += 1
    if not _ends(data, at + 1, stop):
        return bad
    last = at
    if last == first:
        # astropy lets an empty string go on to a quote in the comment.
        for i in range(at + 1, stop):
            if data[i] == 39:
                return bad
    while last > first and data[last - 1] == 32:
        last -= 1
    while first < last and data[first] == 32:
        first += 1
    return kind, first, last


@kernel("Tuple((int64, int64, int64))(uint8[::1], int64, int64)")
def _parse_digits(data, at, stop):  # type: ignore[no-untyped-def]
    bad = (BAD, at, at)
    first, kind, digits = at, INTEGER, 0
    if data[at] == 43 or data[at] == 45:
        at += 1
    while at < stop and (48 <= data[at] <= 57 or (data[at] == 46 and kind == INTEGER)):
        if data[at] == 46:
            kind = FLOAT
        else:
            digits += 1
        at += 1
    if digits == 0:
        return bad
    if at < stop and (data[at] | 32 == 100 or data[at] | 32 == 101):
        kind, digits = FLOAT, 0
        at += 1
        if at < stop and (data[at] == 43 or data[at] == 45):
            at += 1
        while at < stop and 48 <= data[at] <= 57:
            digits += 1
            at += 1
        if digits == 0:
            return bad
    return (kind, first, at) if _ends(data, at, stop) else bad


@kernel("Tuple((int64, int64, int64))(uint8[::1], int64, int64)")
def parse_value(data, at, stop):  # type: ignore[no-untyped-def]
    """Give (kind, start, stop) of the value in the part of a card behind its equals sign."""
    at = _skip_spaces(data, at, stop)
    if at == stop or data[at] == 47:
        return NONE, at, at
    c = data[at]
    if c == 39:
        return _parse_string(data, at + 1, stop)
    if c == 84 or c == 70:
        kind = TRUE if c == 84 else FALSE
        return kind if _ends(data, at + 1, stop) else BAD, at, at + 1
    return _parse_digits(data, at, stop)


@kernel("int64(uint8[::1], int64, int64, int64, uint8[::1])")
def write_text(data, kind, start, stop, text):  # type: ignore[no-untyped-def]
    """Write a value that is not a FLOAT in ASCII, as Python's str has it, and give its length."""
    if kind in (TRUE, FALSE):
        word = np.uint64(0x65757254) if kind == TRUE else np.uint64(0x65736C6146)
        length = 4 if kind == TRUE else 5
        for i in range(length):
            text[i] = (word >> np.uint64(8 * i)) & np.uint64(255)
        return length
    length = 0
    if kind == INTEGER:
        sign = data[start]
        if sign == 43 or sign == 45:
            start += 1
        while start < stop - 1 and data[start] == 48:
            start += 1
        if sign == 45 and data[start] != 48:
            text[0] = 45
            length = 1
    while start < stop and length < TEXT_WIDTH:
        text[length] = data[start]
        length += 1
        start += 2 if kind == QUOTED and data[start] == 39 else 1
    return length


@kernel("boolean(uint64)")
def _is_odd_keyword(word):  # type: ignore[no-untyped-def]
    # Small letters, control characters, an equals sign and leading blanks: astropy may see a wanted keyword in such.
    either = (word >> np.uint64(5)) | (word >> np.uint64(6))
    both = (word >> np.uint64(5)) & (word >> np.uint64(6))
    signs = word ^ _EQUALS
    if both & _ONES != 0 or ~either & _ONES != 0 or (signs - _ONES) & ~signs & _HIGHS != 0:
        return True
    return word & np.uint64(255) == np.uint64(32) and word != _SPACES


@kernel("boolean(uint8[::1], int64)")
def _is_ascii(data, at):  # type: ignore[no-untyped-def]
    union = np.uint64(0)
    for i in range(CARD // 8):
        union |= load_u64(data, at + 8 * i)
    return union & _HIGHS == 0


@kernel("boolean(uint8[::1], int64)")
def _is_blank_after_end(data, at):  # type: ignore[no-untyped-def]
    differing = load_u64(data, at) ^ _END
    for i in range(1, CARD // 8):
        differing |= load_u64(data, at + 8 * i) ^ _SPACES
    return differing == 0


@kernel("Tuple((int64, int64))(uint8[::1], int64, uint8[:, ::1], int64[::1])")
def _match_hierarch(data, card, names, lengths):  # type: ignore[no-untyped-def]
    """Give (which name, where its value starts) of a HIERARCH card: -1 if none, -2 if that is hard to say."""
    stop = card + 9
    while stop < card + CARD and data[stop] != 61:
        stop += 1
    if stop == card + CARD:
        return -2, stop
    value = stop + 1
    start = card + 9
    while start < stop and data[start] == 32:
        start += 1
    while stop > start and data[stop - 1] == 32:
        stop -= 1
    if stop > start and (data[start] < 32 or data[stop - 1] < 32):
        return -2, value
    if stop - start > 8 and load_u64(data, start) & ~np.uint64(0x2020202020202020) == _HIERARCH:
        return -2, value
    for k in range(names.shape[0]):
        if lengths[k] == stop - start:
            i = 0
            while i < lengths[k]:
                c = data[start + i]
                if (c - 32 if 97 <= c <= 122 else c) != names[k, i]:
                    break
                i += 1
            if i == lengths[k]:
                return k, value
    return -1, value


@kernel(
    "int64(uint8[::1], int64, int64, uint64[::1], int64[:, ::1], uint8[:, ::1], int64[::1], int64[:, ::1],"
    " int64[:, ::1])"
)
def scan_header(data, start, stop, words, owners, names, lengths, structural, wanted):  # type: ignore[no-untyped-def]
    """Find the cards of a header that matter.

    `words` and `owners` are the hash table of keywords: packed, and (which structural, which wanted) or -1. `names`
    (m, width) with `lengths` (m,) are the wanted keywords in capitals, EXTNAME after them. [start, stop) of what
    follows the equals sign goes to `structural` and `wanted`, (m, 2), 0 where there is no such card; of a wanted
    keyword the first card counts. Returns where the data begin, or -1 for a header that is not plain.
    """
    structural[:] = 0
    wanted[:] = 0
    card = start
    matters = True
    while True:
        if card + CARD > stop or not _is_ascii(data, card):
            return -1
        word = load_u64(data, card)
        if word & np.uint64(0xFFFFFF) == _END_3:
            c = data[card + 3]
            if not (65 <= c <= 90 or 48 <= c <= 57 or c == 95 or c == 45):
                if not _is_blank_after_end(data, card):
                    return -1
                break
        if _is_odd_keyword(word) or (word == _CONTINUE and matters):
            return -1
        value = card + 10
        kept, known = -1, -1
        plain = load_u16(data, card + 8) == _VALUE_INDICATOR
        if word == _HIERARCH and data[card + 8] == 32:
            known, value = _match_hierarch(data, card, names, lengths)
            if known == -2 or known == lengths.size - 1:
                return -1
        else:
            slot = np.int64((word * SPREAD) >> np.uint64(64 - SLOT_BITS))
            while words[slot] != 0 and words[slot] != word:
                slot = (slot + 1) % SLOTS
            if words[slot] == word:
                kept, known = owners[slot]
                if not plain:
                    return -1
        matters = kept >= 0 or (known >= 0 and wanted[known, 0] == 0)
        if kept >= 0:
            if structural[kept, 0] != 0:
                return -1
            structural[kept, 0], structural[kept, 1] = value, card + CARD
        if known >= 0 and wanted[known, 0] == 0:
            wanted[known, 0], wanted[known, 1] = value, card + CARD
        card += CARD
    size = (card + CARD - start + BLOCK - 1) // BLOCK * BLOCK
    return start + size if start + size <= stop else -1

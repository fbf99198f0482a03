"""Kernels of robust scaling: the median and the MAD of a plane by selection on the bits of its floats, and asinh.

The median is a select: a range of sortable integers known to hold it is halved, and each half shrunk to the numbers
that are there, until one is left. A pass over the plane is one vectorised loop, and there are 10 to 20 of them.
"""

import math

import numpy as np

from otrain_infer.jit import kernel

# The MAD of a normal distribution times this is its standard deviation.
MAD_TO_SIGMA = 1.4826

_EXPONENT = np.int32(0x7F800000)
_LOWEST, _HIGHEST = np.int32(-(1 << 31)), np.int32((1 << 31) - 1)
_31 = np.int32(31)

_SQRT_HALF = np.int64(0x3FE6A09E667F3BCD)
_TWO_TO_52 = np.int64(0x4330000000000000)
_EXPONENT_OFFSET = 1024
_LN_2 = math.log(2.0)


@kernel("int64(float32[::1], int32[::1])")
def _sort_keys(values, keys):  # type: ignore[no-untyped-def]
    """Give every float an integer that sorts as it does, and non-finite ones the highest; return how many are finite.

    The sign bit makes the other bits count down, which those of an integer do not: they are turned.
    """
    bits = values.view(np.int32)
    n = np.int32(0)
    for i in range(values.size):
        finite = np.int32(bits[i] & _EXPONENT) != _EXPONENT
        n = np.int32(n + np.int32(finite))
        keys[i] = np.int32(bits[i] ^ np.int32((bits[i] >> _31) & _HIGHEST)) if finite else _HIGHEST
    return n


@kernel("void(float32[::1], float64, int32[::1])")
def _deviation_keys(values, centre, keys):  # type: ignore[no-untyped-def]
    """Give the sort keys of the distances from the centre, rounded to float32."""
    bits = values.view(np.int32)
    for i in range(values.size):
        distance = np.float32(abs(np.float64(values[i]) - centre)).view(np.int32)
        keys[i] = distance if np.int32(bits[i] & _EXPONENT) != _EXPONENT else _HIGHEST


@kernel("UniTuple(int32, 3)(int32[::1], int32)")
def _part(keys, pivot):  # type: ignore[no-untyped-def]
    """Give how many keys are not above the pivot, the highest of these, and the lowest of the others."""
    n, low, high = np.int32(0), _LOWEST, _HIGHEST
    for i in range(keys.size):
        under = keys[i] <= pivot
        n = np.int32(n + np.int32(under))
        low = max(low, keys[i] if under else _LOWEST)
        high = min(high, _HIGHEST if under else keys[i])
    return n, low, high


@kernel("UniTuple(int64, 3)(int32[::1], int64)")
def _middle(keys, n):  # type: ignore[no-untyped-def]
    """Give the middle one of the n lowest keys, or the two, and how many keys are below the first."""
    rank = (n - 1) // 2
    low, high, below = np.int64(_LOWEST), np.int64(_HIGHEST), np.int64(0)
    while low < high:
        pivot = (low + high) >> 1
        count, under, over = _part(keys, np.int32(pivot))
        if rank < count:
            high = np.int64(under)
        else:
            low, below = np.int64(over), np.int64(count)
    if n % 2 == 1:
        return low, low, below
    count, _, over = _part(keys, np.int32(low))
    return low, low if count > rank + 1 else np.int64(over), below


@kernel("float64(int64)")
def _from_key(key):  # type: ignore[no-untyped-def]
    bits = np.int32(key)
    return np.float64(np.int32(bits ^ np.int32((bits >> _31) & _HIGHEST)).view(np.float32))


@kernel("float64(float64[::1], int64)")
def _select(values, rank):  # type: ignore[no-untyped-def]
    """Give the number of that rank among doubles that differ by little more than a rounding to float32."""
    # Not with min and max of the array: to load a kernel that calls them, numba imports SciPy where it is there.
    low = high = values[0]
    for value in values:
        low, high = min(low, value), max(high, value)
    while low < high:
        pivot = low + (high - low) / 2
        pivot = low if pivot >= high else pivot
        count, under, over = 0, low, high
        for value in values:
            if value <= pivot:
                count += 1
                under = max(under, value)
            else:
                over = min(over, value)
        if rank < count:
            high = under
        else:
            low = over
    return low


@kernel("float64(float32[::1], float64, int32[::1], int64)")
def _median_distance(values, centre, keys, n):  # type: ignore[no-untyped-def]
    """Give the median distance from the centre, in double precision, of the n finite values."""
    _deviation_keys(values, centre, keys)
    first, second, below = _middle(keys, n)
    # Rounding keeps the order but for ties: the median is among those that were rounded to the same two floats.
    near = np.empty(keys.size, np.float64)
    m = 0
    for i in range(keys.size):
        if first <= keys[i] <= second:
            near[m] = abs(np.float64(values[i]) - centre)
            m += 1
    rank = (n - 1) // 2 - below
    lower = _select(near[:m], rank)
    return lower if n % 2 == 1 else (lower + _select(near[:m], rank + 1)) / 2


@kernel("Tuple((int64, float64, float64))(float32[::1], int32[::1])")
def median_and_mad(values, keys):  # type: ignore[no-untyped-def]
    """Give how many float32 values are finite, and their median and MAD, 0 if none is; int32 `keys` is as long."""
    n = _sort_keys(values, keys)
    if n == 0:
        return n, 0.0, 0.0
    first, second, _ = _middle(keys, n)
    centre = (_from_key(first) + _from_key(second)) / 2
    return n, centre, _median_distance(values, centre, keys, n)


@kernel("float64(float32[::1], int64)")
def _standard_deviation(values, n):  # type: ignore[no-untyped-def]
    """Give the standard deviation of the n finite values."""
    mean = 0.0
    for value in values:
        if math.isfinite(value):
            mean += value / n
    variance = 0.0
    for value in values:
        if math.isfinite(value):
            variance += (value - mean) ** 2 / n
    return math.sqrt(variance)


@kernel("float64(float64)")
def asinh(u):  # type: ignore[no-untyped-def]
    """Give asinh(u) to a relative error below 1e-11, for finite u below 1e150, without a branch.

    It is the logarithm of y = |u| + sqrt(u**2 + 1). With y = 2**e * m and m between sqrt(1/2) and sqrt(2), ln m is
    2 artanh(s), s = (m - 1) / (m + 1), whose series (Abramowitz & Stegun 4.6.22) is taken to s**13. Where y is so near
    1 that its own rounding counts, the first two terms of the series of asinh (4.6.31) are exact enough.
    """
    size = abs(u)
    bits = np.float64(size + math.sqrt(size * size + 1.0)).view(np.int64)
    steps = (bits - _SQRT_HALF) >> np.int64(52)
    # An integer in the low bits of 2**52 is converted by a subtraction, which every processor has for vectors.
    e = np.int64(_TWO_TO_52 + steps + _EXPONENT_OFFSET).view(np.float64) - (4503599627370496.0 + _EXPONENT_OFFSET)
    m = np.int64(bits - (steps << np.int64(52))).view(np.float64)
    s = (m - 1.0) / (m + 1.0)
    z = s * s
    series = 1.0 + z * (1 / 3 + z * (1 / 5 + z * (1 / 7 + z * (1 / 9 + z * (1 / 11 + z * (1 / 13))))))
    large = 2.0 * s * series + e * _LN_2
    small = size - size * size * size * (1 / 6)
    return math.copysign(small if size < 1e-4 else large, u)


@kernel("void(float32[::1], float64, float64, float32[::1])")
def _apply(values, centre, scale, out):  # type: ignore[no-untyped-def]
    bits = values.view(np.int32)
    for i in range(values.size):
        scaled = np.float32(asinh((np.float64(values[i]) - centre) / scale))
        out[i] = scaled if np.int32(bits[i] & _EXPONENT) != _EXPONENT else np.float32(0.0)


@kernel("void(float32[::1], float32[::1], int32[::1])")
def scale_robust(values, out, keys):  # type: ignore[no-untyped-def]
    """Scale a plane: float32 `values` into `out`, which is other memory, or it will be slow; `keys` is as long."""
    n, centre, mad = median_and_mad(values, keys)
    scale = MAD_TO_SIGMA * mad
    if scale == 0.0 and n > 0:
        # |x - median| has the same spread about the median; the standard deviation is about the mean.
        scale = _standard_deviation(values, n)
    if scale > 0.0:
        _apply(values, centre, scale, out)
    else:
        out[:] = 0.0

"""Kernels of robust scaling: the median and the MAD of a plane by selection on the bits of its floats, and asinh.

The median is a select among sortable integers. A sample says between which two it is likely to be; how many are below
each of a few pivots, chosen as for a distribution that is even between them, narrows that down (Floyd & Rivest 1975 do
the same with copies of what is between). What is left is halved, and each half shrunk to the numbers that are there,
until one is left, which takes no more passes than ever where sample and pivots mislead. A pass over the plane is one
vectorised loop; nearly always there are 6 of counting and one more.
"""

import math

import numpy as np

from otrain_infer.jit import kernel

# The MAD of a normal distribution times this is its standard deviation.
MAD_TO_SIGMA = 1.4826

_EXPONENT = np.int32(0x7F800000)
_LOWEST, _HIGHEST = np.int32(-(1 << 31)), np.int32((1 << 31) - 1)
_31 = np.int32(31)

# The rank of the median in a sample of this many is within the margin of the middle in 49 cases of 50.
_SAMPLE, _MARGIN = 16, 4
# Keys from which sampling pays, counts after which those left are looked at one by one, and keys searched at a time.
_SAMPLED, _COUNTS, _BLOCK = 256, 8, 256

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


@kernel("int64(int32[::1], int64)")
def _count_up_to(keys, pivot):  # type: ignore[no-untyped-def]
    above, highest = np.int32(0), np.int32(pivot)
    for i in range(keys.size):
        above = np.int32(above + np.int32(keys[i] > highest))
    return keys.size - above


@kernel("int64(float64)")
def _to_key(value):  # type: ignore[no-untyped-def]
    bits = np.float32(value).view(np.int32)
    return np.int64(np.int32(bits ^ np.int32((bits >> _31) & _HIGHEST)))


@kernel("float64(int64)")
def _from_key(key):  # type: ignore[no-untyped-def]
    bits = np.int32(key)
    return np.float64(np.int32(bits ^ np.int32((bits >> _31) & _HIGHEST)).view(np.float32))


@kernel("UniTuple(int64, 2)(int32[::1], int64)")
def _guess(keys, rank):  # type: ignore[no-untyped-def]
    """Give two keys between which the one of that rank is likely to be, from a sample."""
    # Not a whole number of rows, so that more than a few columns of the plane are in the sample.
    step = keys.size // _SAMPLE - keys.size // (64 * _SAMPLE)
    middle = rank * _SAMPLE // keys.size
    first, last = max(middle - _MARGIN, 0), min(middle + _MARGIN, _SAMPLE - 1)
    low = high = np.int64(0)
    for i in range(_SAMPLE):
        one, place = keys[i * step], 0
        for j in range(_SAMPLE):
            other = keys[j * step]
            place += (other < one) | ((other == one) & (j < i))
        low = np.int64(one) if place == first else low
        high = np.int64(one) if place == last else high
    return low, high


@kernel("int64(int64, int64, float64)")
def _between(low, high, part):  # type: ignore[no-untyped-def]
    """Give a key between two, below the higher, that parts the numbers they stand for."""
    start, stop = _from_key(low), _from_key(high)
    value = start + (stop - start) * part
    key = _to_key(value) if math.isfinite(value) else (low + high) >> 1
    return min(max(key, low), high - 1)


@kernel("UniTuple(int64, 4)(int32[::1], int64)")
def _narrow(keys, rank):  # type: ignore[no-untyped-def]
    """Give the lowest and the highest that the key of that rank can be, how many are below, and how many up to it.

    Found by counting alone, which is the cheapest of passes, up to pivots that are likely to be near.
    """
    low, high, below, upto = np.int64(_LOWEST), np.int64(_HIGHEST), np.int64(0), np.int64(keys.size)
    if keys.size < _SAMPLED:
        return low, high, below, upto
    first, last = _guess(keys, rank)
    for step in range(_COUNTS):
        if low == high or below == rank or upto == rank + 1:
            break
        if step < 2:
            pivot = min(max(last if step else first - 1, low), high - 1)
        else:
            # The numbers rise evenly between neighbours, as their bits, about zero, do not.
            pivot = _between(low, high, (rank + 0.5 - below) / (upto - below))
        count = _count_up_to(keys, pivot)
        # Where numbers are few and far between, such as counts of photons, it is better to look what is there.
        stuck = step >= 2 and count in (below, upto)
        if rank < count:
            high, upto = pivot, count
        else:
            low, below = pivot + 1, count
        if stuck:
            break
    return low, high, below, upto


@kernel("UniTuple(int64, 2)(int32[::1], int64)")
def _middle(keys, n):  # type: ignore[no-untyped-def]
    """Give the middle one of the n lowest keys, twice, or the two."""
    rank = (n - 1) // 2
    low, high, below, upto = _narrow(keys, rank)
    while low < high:
        pivot = (low + high) >> 1
        if upto == rank + 1:
            pivot = high
        elif below == rank:
            pivot = max(low - 1, np.int64(_LOWEST))
        count, under, over = _part(keys, np.int32(pivot))
        if count == rank + 1:
            return np.int64(under), np.int64(under) if n % 2 == 1 else np.int64(over)
        if rank < count:
            high, upto = np.int64(under), np.int64(count)
        else:
            low, below = np.int64(over), np.int64(count)
        if below == rank:
            high, upto = low, _count_up_to(keys, low)
    if n % 2 == 1 or upto > rank + 1:
        return low, low
    _, _, over = _part(keys, np.int32(low))
    return low, np.int64(over)


@kernel("float64(float64[::1], int64)")
def _select(distances, rank):  # type: ignore[no-untyped-def]
    """Give the distance of that rank among doubles that differ by little more than a rounding to float32."""
    # As integers, the order of which is the same: comparisons of floats are not vectorised.
    keys = distances.view(np.int64)
    # Not with min and max of the array: to load a kernel that calls them, numba imports SciPy where it is there.
    low = high = keys[0]
    for i in range(keys.size):
        low, high = min(low, keys[i]), max(high, keys[i])
    while low < high:
        pivot = low + ((high - low) >> 1)
        count, under, over = 0, low, high
        for i in range(keys.size):
            is_under = keys[i] <= pivot
            count += is_under
            under = max(under, keys[i] if is_under else low)
            over = min(over, high if is_under else keys[i])
        if rank < count:
            high = under
        else:
            low = over
    return np.int64(low).view(np.float64)


@kernel("boolean(int32[::1], int32, uint32)")
def _holds(keys, low, span):  # type: ignore[no-untyped-def]
    """Tell whether one of the keys, none of them negative, is from `low` to `low + span`."""
    n = np.int32(0)
    for i in range(keys.size):
        n = np.int32(n + np.int32(np.uint32(np.int32(keys[i] - low)) <= span))
    return n > 0


@kernel("float64(float32[::1], float64, int32[::1], int64)")
def _median_distance(values, centre, keys, n):  # type: ignore[no-untyped-def]
    """Give the median distance from the centre, in double precision, of the n finite values."""
    _deviation_keys(values, centre, keys)
    first, second = _middle(keys, n)
    # Rounding keeps the order but for ties: the median is among those that were rounded to the same two floats.
    near = np.empty(keys.size, np.float32)
    low, span = np.int32(first), np.uint32(second - first)
    m = np.int64(0)
    for start in range(0, keys.size, _BLOCK):
        stop = min(start + _BLOCK, keys.size)
        if _holds(keys[start:stop], low, span):
            for i in range(start, stop):
                # Without a branch, which would be mispredicted again and again.
                near[m] = values[i]
                m += np.uint32(np.int32(keys[i] - low)) <= span
    distances = np.empty(m, np.float64)
    for i in range(m):
        distances[i] = abs(np.float64(near[i]) - centre)
    rank = (n - 1) // 2 - _count_up_to(keys, first - 1)
    lower = _select(distances, rank)
    return lower if n % 2 == 1 else (lower + _select(distances, rank + 1)) / 2


@kernel("Tuple((int64, float64, float64))(float32[::1], int32[::1])")
def median_and_mad(values, keys):  # type: ignore[no-untyped-def]
    """Give how many float32 values are finite, and their median and MAD, 0 if none is; int32 `keys` is as long."""
    n = _sort_keys(values, keys)
    if n == 0:
        return n, 0.0, 0.0
    first, second = _middle(keys, n)
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
    # Division is what takes longest here; of a scale above 0, at least 1e-162, the reciprocal is finite.
    factor = 1.0 / scale
    for i in range(values.size):
        scaled = np.float32(asinh((np.float64(values[i]) - centre) * factor))
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

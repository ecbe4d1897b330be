"""Random numbers without a state: the k-th number of a seed is a hash of both.

Nothing is drawn in an order, so a number does not depend on what was drawn before it, by whom or how often: a rank
draws for its own images what one process would have drawn for them.
"""

import numpy as np
from numpy.typing import NDArray

# SplitMix64: its increment and its two multipliers (Steele, Lea and Flood 2014, https://doi.org/10.1145/2660193.2660195).
_INCREMENT = np.uint64(0x9E3779B97F4A7C15)
_MULTIPLIERS = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_UINT64_MASK = 0xFFFFFFFFFFFFFFFF


def mix64(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of SplitMix64: a bijection in which every bit of the input changes half the bits of the output."""
    x = (x ^ (x >> np.uint64(30))) * _MULTIPLIERS[0]
    x = (x ^ (x >> np.uint64(27))) * _MULTIPLIERS[1]
    return x ^ (x >> np.uint64(31))


def seeds_of(seed: int, numbers: NDArray[np.int64]) -> NDArray[np.uint64]:
    """A seed of its own for each number of a series, such as the rows of a batch.

    Args:
        seed: Of the series; its lowest 64 bits count.
        numbers: int64 (n,).

    Returns:
        uint64 (n,).
    """
    # One more mixing than a sum would need: neighbouring seeds of neighbouring rows would coincide.
    base = mix64(np.array([seed & _UINT64_MASK], dtype=np.uint64))
    return mix64(base + numbers.astype(np.uint64) * _INCREMENT)


def uniforms(seeds: NDArray[np.uint64], count: int) -> NDArray[np.float64]:
    """The first numbers of each seed's stream, uniform in [0, 1).

    Args:
        seeds: uint64 (n,).
        count: How many for each seed.

    Returns:
        float64 (n, count).
    """
    counters = np.arange(1, count + 1, dtype=np.uint64) * _INCREMENT
    # 53 bits are what a float64 in [0, 1) has room for.
    return (mix64(seeds[:, None] + counters) >> np.uint64(11)).astype(np.float64) * 2.0**-53

"""Random numbers by counter: the reference's values, and independence of what else is drawn."""

import numpy as np

from cifar_lit.data.device.counter_random import seeds_of, uniforms

# The first outputs of the reference, https://prng.di.unimi.it/splitmix64.c, started with 1234567.
SPLITMIX64 = [
    6457827717110365317,
    3203168211198807973,
    9817491932198370423,
    4593380528125082431,
    16408922859458223821,
]


def test_is_splitmix64() -> None:
    drawn = uniforms(np.array([1234567], np.uint64), len(SPLITMIX64))[0]
    assert [int(u * 2**53) for u in drawn] == [value >> 11 for value in SPLITMIX64]


def test_a_row_depends_on_neither_its_neighbours_nor_the_number_of_columns() -> None:
    whole = uniforms(seeds_of(5, np.arange(100)), 7)
    np.testing.assert_array_equal(uniforms(seeds_of(5, np.array([31, 8])), 3), whole[[31, 8], :3])


def test_series_of_neighbouring_seeds_share_nothing() -> None:
    seeds = np.concatenate([seeds_of(seed, np.arange(-50, 1000)) for seed in range(50)])
    assert len(np.unique(seeds)) == len(seeds)


def test_a_seed_of_any_size_counts_by_its_lowest_64_bits() -> None:
    np.testing.assert_array_equal(seeds_of(2**70 + 5, np.arange(3)), seeds_of(5, np.arange(3)))
    np.testing.assert_array_equal(seeds_of(-1, np.arange(3)), seeds_of(2**64 - 1, np.arange(3)))

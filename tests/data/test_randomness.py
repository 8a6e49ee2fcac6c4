"""Derived seeds and counter-based random numbers."""

import torch

from kdrun.data.randomness import uniform32
from kdrun.seeds import mix


def reference32(counter: int, key: int) -> int:
    """The same hash in Python integers of any size, written from its definition."""

    def avalanche(x: int) -> int:
        x = (x ^ x >> 16) * 0x21F0AAAD % 2**32
        x = (x ^ x >> 15) * 0xD35A2D97 % 2**32
        return x ^ x >> 15

    return avalanche(avalanche(counter ^ key % 2**32) ^ key // 2**32)


def test_mix_tells_parts_apart():
    seeds = [mix(1, 2), mix(2, 1), mix(12), mix("1", 2), mix(1, "2"), mix("1, 2"), mix(1, 2, 0), mix(-1, 2)]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_uniform32_equals_the_definition_without_overflow():
    key = mix("some", "key")
    counters = [0, 1, 2, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 123456789]
    expected = [reference32(counter, key) for counter in counters]
    assert uniform32(torch.tensor(counters), key).tolist() == expected
    assert [uniform32(counter, key) for counter in counters] == expected


def test_every_bit_is_fair_and_reacts_to_every_bit_of_the_counter():
    num = 4096
    counter = torch.arange(num)
    bits = torch.arange(32)
    drawn = uniform32(counter, mix("bits"))
    # Each count is binomial with standard deviation sqrt(num) / 2; 6 of them over 32 and 32 * 32 bits.
    bound = 6 * num**0.5 / 2
    assert (((drawn[:, None] >> bits) & 1).sum(0) - num / 2).abs().max() < bound
    for bit in range(32):
        changed = drawn ^ uniform32(counter ^ (1 << bit), mix("bits"))
        assert (((changed[:, None] >> bits) & 1).sum(0) - num / 2).abs().max() < bound

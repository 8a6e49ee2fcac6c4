"""Seeds and counter-based random numbers: pure functions of what they are for, equal on every device.

Nothing here has a state. A derived seed is a hash of its purpose, and a random number is a hash of a key and of
the position it is for, so a draw depends neither on the batch it is computed in nor on what was drawn before.
"""

from __future__ import annotations

from typing import TypeVar

from torch import Tensor

_LOW_32_BITS = 0xFFFFFFFF

Integers = TypeVar("Integers", Tensor, int)


def uniform32(counter: Integers, key: int) -> Integers:
    """Uniform random integers in [0, 2**32), one for each counter.

    Args:
        counter: int64 of any shape, values in [0, 2**32); or one as an int, which costs no operation on tensors.
        key: in [0, 2**63), e.g. from `mix`; another key gives an unrelated stream.

    Returns:
        int64, of the shape and on the device of `counter`; of an int the same number as an int. To draw from [0, n)
        take `(uniform32(...) * n) >> 32`; its bias is below n / 2**32.
    """
    return _avalanche(_avalanche(counter ^ (key & _LOW_32_BITS)) ^ (key >> 32))


def _avalanche(x: Integers) -> Integers:
    """A bijection of [0, 2**32) in which every input bit flips every output bit with probability near 1/2.

    Multiply and xor-shift, with the constants of C. Wellons' hash prospector (16, 0x21f0aaad, 15, 0xd35a2d97, 15).
    The second constant is written minus 2**32, the same number modulo 2**32, so that no product leaves int64.
    """
    x = ((x ^ (x >> 16)) * 0x21F0AAAD) & _LOW_32_BITS
    x = ((x ^ (x >> 15)) * (0xD35A2D97 - (1 << 32))) & _LOW_32_BITS
    return x ^ (x >> 15)

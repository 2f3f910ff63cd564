"""Bytes that differ from place to place, the same for the application and for its tests."""

import hashlib


def pattern(size: int, seed: str = "") -> bytes:
    block = hashlib.shake_128(seed.encode()).digest(64 * 1024 - 1)
    return (block * (size // len(block) + 1))[:size]

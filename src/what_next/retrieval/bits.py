"""Sets of items as bits: item `i` is bit `i % 64` of word `i // 64`; the bits past the last item are 0."""

import numpy as np
from jaxtyping import Bool, Int32, Int64, UInt64

WORD = 64


def pack(members: Bool[np.ndarray, "*rows items"]) -> UInt64[np.ndarray, "*rows words"]:
    """The words of the sets that a boolean mask describes."""
    packed = np.packbits(members, axis=-1, bitorder="little")
    padding = [(0, 0)] * (packed.ndim - 1) + [(0, -packed.shape[-1] % 8)]
    return np.pad(packed, padding).view("<u8")


def members(words: UInt64[np.ndarray, "rows words"]) -> tuple[Int64[np.ndarray, "pairs"], Int64[np.ndarray, "pairs"]]:
    """Row and item of every bit that is set, by row, then item."""
    occupied = np.flatnonzero(words)  # most words are empty; only the others are unpacked
    found = np.flatnonzero(np.unpackbits(words.ravel()[occupied].view(np.uint8), bitorder="little").view(np.bool_))
    word = occupied[found // WORD]
    return word // words.shape[1], word % words.shape[1] * WORD + found % WORD


def remove(words: UInt64[np.ndarray, "rows words"], items: Int32[np.ndarray, "rows width"]) -> None:
    """Take items out of the sets in place; -1 pads a row."""
    rows, columns = np.nonzero(items >= 0)
    found = items[rows, columns].astype(np.int64)
    bit = np.left_shift(np.uint64(1), (found % WORD).astype(np.uint64))
    np.bitwise_and.at(words.reshape(-1), rows * words.shape[1] + found // WORD, ~bit)


def groups(words: UInt64[np.ndarray, "rows words"], most: int) -> list[slice]:
    """Cut the rows into runs of about `most` members, each of at least one row."""
    totals = np.cumsum(np.bitwise_count(words).sum(axis=1, dtype=np.int64))
    starts = np.flatnonzero(np.diff(totals // most, prepend=-1))
    return [slice(int(start), int(stop)) for start, stop in zip(starts, [*starts[1:], len(words)], strict=True)]

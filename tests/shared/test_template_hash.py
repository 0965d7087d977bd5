"""Hashes of templates, and digests of sets of them."""

import numpy as np
import pytest

from shared.wire.template_hash import digest_of, row_hashes


def _rows(count, dimension=512):
    return np.random.default_rng(dimension).standard_normal((count, dimension)).astype("<f2")


@pytest.mark.parametrize("dimension", [1, 2, 3, 48, 511, 512, 4096])
def test_the_hash_of_a_row_depends_on_its_bytes_only(dimension):
    rows = _rows(5, dimension)
    hashes = row_hashes(rows)
    assert hashes.shape == (5,)
    assert len(set(hashes.tolist())) == 5
    assert [int(row_hashes(row[np.newaxis])[0]) for row in rows] == hashes.tolist()
    assert (row_hashes(rows[::-1]) == hashes[::-1]).all()  # rows that do not lie side by side
    assert row_hashes(rows[:0]).shape == (0,)


def test_hashes_are_the_same_in_every_version():
    """Databases hold them, and boxes of another version compute them."""
    rows = (np.arange(2 * 512).reshape(2, 512) % 97 / 97).astype("<f2")
    assert row_hashes(rows).tolist() == [15604344688202662470, 5980952641594999391]
    assert digest_of(np.array([1, 2**62], np.uint64), row_hashes(rows)) == "f9a834a0f14b51d5"


def test_each_change_of_one_or_two_bits_changes_the_hash():
    row = _rows(1)
    bits = np.unpackbits(row.view(np.uint8), axis=1, bitorder="little")
    changes = np.zeros(bits.shape[1], dtype=np.uint64)
    for place in range(bits.shape[1]):
        other = bits.copy()
        other[0, place] ^= 1
        changed = np.packbits(other, axis=1, bitorder="little").view("<f2")
        changes[place] = (row_hashes(changed) - row_hashes(row))[0]
    # Two changes cancel out only if one is the negative of the other; the hash is a sum.
    both = np.concatenate([changes, ~changes + np.uint64(1)])
    assert np.unique(both).shape == both.shape
    assert changes.all()


def test_a_digest_depends_on_which_template_has_which_number_but_not_on_the_order():
    numbers, hashes = np.arange(1, 1001, dtype=np.uint64), row_hashes(_rows(1000))
    digest = digest_of(numbers, hashes)
    order = np.random.default_rng(0).permutation(1000)
    assert digest_of(numbers[order], hashes[order]) == digest
    assert digest_of(numbers[::-1].copy(), hashes) != digest
    assert digest_of(numbers[1:], hashes[1:]) != digest
    assert digest_of(numbers + np.uint64(1), hashes) != digest
    assert digest_of(numbers[:0], hashes[:0]) == "0" * 16

"""Segments of another epoch of the feed: never searched or overwritten before they are judged."""

import numpy as np
import pytest

from shared.gallery import MissingChanges
from tests.support.gallery_history import held, opened, rows_of


def apply(gallery, since, to, number, epoch):
    ids = np.array([number], dtype=np.uint64)
    return gallery.apply(since, to, ids=ids, vectors=rows_of(ids, to), epoch=epoch)


@pytest.fixture
def two(tmp_path):
    """Two processes' galleries; the first has gone on to another epoch, and sealed it."""
    behind, first = opened(tmp_path), opened(tmp_path)
    for gallery in (behind, first):
        for seq in range(1, 4):
            apply(gallery, seq - 1, seq, seq, "one")
    apply(behind, 3, 4, 99, "one")  # a change that the database has lost
    apply(first, 3, 4, 4, "two")
    first.seal()
    yield behind, first
    for gallery in (behind, first):
        gallery.close()


def test_they_are_damage_until_their_epoch_is_the_present_one(two):
    behind, first = two
    assert not behind.refresh()
    assert sorted(held(behind)) == [1, 2, 3, 99]
    assert "another epoch" in behind.damage
    assert not behind.seal()
    assert behind.refresh("two")
    assert (behind.reached, behind.damage) == (("two", 4), None)
    assert sorted(held(behind)) == sorted(held(first)) == [1, 2, 3, 4]


def test_what_a_process_left_behind_wrote_is_replaced_from_the_database(tmp_path, two):
    behind, first = two
    ids = np.array([1, 2, 3, 99], dtype=np.uint64)
    assert not behind.rebuild([(ids, rows_of(ids, 4))], 4, "one")  # the files are newer
    assert behind.rebuild([(ids, rows_of(ids, 4))], 4, "one")  # a transaction of before read these
    apply(first, 4, 5, 5, "two")
    assert "another epoch" in first.damage
    assert sorted(held(first)) == [1, 2, 3, 4, 5]  # searches go on
    ids = np.arange(1, 6, dtype=np.uint64)
    assert first.rebuild([(ids, rows_of(ids, 5))], 5, "two")
    again = opened(tmp_path)
    assert (again.reached, sorted(held(again))) == (("two", 5), [1, 2, 3, 4, 5])


def test_a_gallery_goes_on_to_another_epoch_only_from_where_it_was_judged(two):
    behind, _ = two
    behind.refresh("two")
    with pytest.raises(MissingChanges):
        apply(behind, 3, 5, 5, "three")
    assert apply(behind, 4, 4, 6, "three")
    assert behind.reached == ("three", 4)

"""A threshold in the request saves work of the scan, and changes no result."""

import numpy as np
import pytest

from match_server.services.collection_ref import collection_ref


@pytest.fixture
def crowd(api, helpers):
    """Two dozen people, some of them similar, most with several templates."""
    random = np.random.default_rng(3)
    for number in range(24):
        vector = helpers.unit_vector(number % 16)
        person = api.person(f"P{number}", vector)
        for extra in range(number % 3):
            near = helpers.unit_vector(500 + 3 * number + extra, near=vector, similarity=0.8)
            api.template(person, near)
    return [
        helpers.unit_vector(
            900 + place,
            near=helpers.unit_vector(int(random.integers(16))),
            similarity=float(similarity),
        )
        for place, similarity in enumerate(np.linspace(0.1, 0.95, 6))
    ]


@pytest.mark.parametrize("margin", [0.0, 0.15])
def test_answers_are_those_of_the_whole_list_cut_afterwards(api, crowd, margin):
    api.ok("PATCH", "/v1/collections/default", json={"policy": {"margin": margin}})
    for probe in crowd:
        whole = api.search(probe, limit=50)["probes"][0]["candidates"]
        for threshold in (-1.0, 0.05, 0.3, whole[0]["similarity"] - 1e-5, 0.99):
            answer = api.search(probe, limit=50, threshold=threshold)["probes"][0]
            assert answer["candidates"] == [
                one for one in whole if one["similarity"] >= threshold - 1e-9
            ]
            first, second = whole[0]["similarity"], whole[1]["similarity"]
            decision = "identified" if first - second >= margin else "ambiguous"
            rounded = abs(first - threshold) < 1e-6 or abs(first - second - margin) < 1e-6
            if not rounded:
                expected = decision if first >= threshold else "unknown"
                assert answer["decision"] == expected


def test_the_scan_is_told_what_need_not_be_found(api, crowd, monkeypatch):
    thresholds: list[float] = []
    gallery = api.services.galleries.caught_up(
        collection_ref(api.services.database, "default")
    ).gallery
    search = type(gallery).search

    def spied(self, probes, limit, *, threshold=-1.0, among=None):
        thresholds.append(threshold)
        return search(self, probes, limit, threshold=threshold, among=among)

    monkeypatch.setattr(type(gallery), "search", spied)
    api.search(crowd[0])
    api.search(crowd[0], threshold=0.5)
    assert thresholds == [-1.0, pytest.approx(0.5, abs=1e-5)]

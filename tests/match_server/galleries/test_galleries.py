"""A followed gallery has the same content as a newly loaded one."""

import numpy as np
import pytest

from match_server.services.galleries.galleries import Galleries
from match_server.services.lookups import collection_named
from shared.errors import NotFound


def _default(services):
    with services.database.read() as session:
        return collection_named(session, "default")


def _contents(galleries, services, probe):
    gallery = galleries.caught_up(_default(services)).gallery
    (candidates,) = gallery.search(probe[np.newaxis], 1000)
    return candidates.ids.tolist(), candidates.similarities.tolist()


@pytest.mark.parametrize("seed", range(3))
def test_following_and_loading_lead_to_the_same_gallery(api, helpers, seed):
    random = np.random.default_rng(seed)
    probe = helpers.unit_vector(1)
    follower = Galleries(api.services.database, api.services.vault)
    follower.warm()
    templates: list[str] = []
    persons: list[str] = []
    for step in range(60):
        choice = random.integers(10)
        if choice < 2 or not persons:
            persons.append(api.person(f"P{step}"))
        elif choice < 7:
            template_person = persons[random.integers(len(persons))]
            templates.append(api.template(template_person, helpers.unit_vector(step))["id"])
        elif choice < 9 and templates:
            template = templates.pop(random.integers(len(templates)))
            api.call("DELETE", f"/v1/templates/{template}")
        else:
            person = persons.pop(random.integers(len(persons)))
            api.ok("DELETE", f"/v1/collections/default/persons/{person}")
        if random.integers(4) == 0:
            _contents(follower, api.services, probe)
    fresh = Galleries(api.services.database, api.services.vault)
    assert _contents(follower, api.services, probe) == _contents(fresh, api.services, probe)
    held = len(_contents(fresh, api.services, probe)[0])
    assert held == api.ok("GET", "/v1/collections/default")["templates"]


def test_a_number_is_never_given_to_a_second_template(api, helpers):
    person = api.person("Ann")
    for seed in range(3):
        template = api.template(person, helpers.unit_vector(seed))["id"]
        api.search(helpers.unit_vector(seed))
        api.ok("DELETE", f"/v1/templates/{template}")
    api.template(person, helpers.unit_vector(9))
    ids, _ = _contents(api.services.galleries, api.services, helpers.unit_vector(9))
    assert ids == [4]


def test_changes_that_were_half_applied_are_applied_again(api, helpers, monkeypatch):
    api.person("Ann", helpers.unit_vector(1))
    index = Galleries(api.services.database, api.services.vault)
    gallery_type = type(index.caught_up(_default(api.services)).gallery)
    api.person("Bob", helpers.unit_vector(2))
    original = gallery_type._append

    def broken(self, ids, vectors, seq):
        original(self, ids, vectors, seq)
        raise MemoryError

    monkeypatch.setattr(gallery_type, "_append", broken)
    with pytest.raises(MemoryError):
        index.caught_up(_default(api.services))
    monkeypatch.setattr(gallery_type, "_append", original)
    assert len(index.caught_up(_default(api.services)).gallery) == 2


def test_galleries_of_erased_collections_are_let_go(api, make_services, helpers):
    other = make_services()
    api.ok("POST", "/v1/collections", json={"name": "staff"})
    other.galleries.warm()
    assert len(other.galleries._followers) == 2
    api.ok("DELETE", "/v1/collections/staff")
    other.galleries.caught_up(_default(other))
    assert len(other.galleries._followers) == 1
    with pytest.raises(NotFound), other.database.read() as session:
        collection_named(session, "staff")

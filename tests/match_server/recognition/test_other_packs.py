"""Templates of another dimension, from a real pack with its own face crops, in all functions."""

import base64
import json

import numpy as np
import pytest

from match_server.services.faces.engines import face_engine
from match_server.services.policy.reference_calibrations import ReferenceCalibrations
from models.samples import sample_path
from shared.errors import ConfigurationError
from shared.wire.change_feed import FeedTemplates
from tests.support.weights import install_into, weights_folder

PACK, DIMENSION = "retail-0095", 256
PERSONS = "/v1/collections/default/persons"


def photo(name):
    return {"image": base64.b64encode(sample_path(name).read_bytes()).decode()}


@pytest.mark.models
@pytest.mark.skipif(weights_folder() is None, reason="MUSTER_TEST_WEIGHTS names no folder")
@pytest.mark.backends("sqlite")
def test_256_values_are_enrolled_searched_stored_and_sent_to_a_box(
    make_api, helpers, tmp_path, monkeypatch
):
    install_into(tmp_path / "cache", weights_folder())
    monkeypatch.setenv("MUSTER_MODELS_DIR", str(tmp_path / "cache"))
    faces = face_engine(PACK)
    api = make_api(faces=faces)
    ids = {}
    for name in ("obama.jpg", "biden.jpg", "astronaut.png"):
        ids[name] = api.ok("POST", PERSONS, json={"name": name})["id"]
        api.ok("POST", f"{PERSONS}/{ids[name]}/images", json=photo(name))
    collection = api.ok("GET", "/v1/collections/default")
    assert (collection["model_id"], collection["dimension"]) == (faces.model_id, DIMENSION)

    def identified(api, body):
        answer = api.ok("POST", "/v1/collections/default/search", json=body)["probes"][0]
        assert answer["candidates"][0]["person"]["id"] == ids["obama.jpg"]
        return answer["candidates"][0]["similarity"]

    similarity = identified(api, photo("obama2.jpg"))
    assert similarity > 0.55
    vector = faces.largest(sample_path("obama2.jpg").read_bytes())[0].template.vector
    body = {"templates": [{"vector": helpers.encode(vector), "model_id": faces.model_id}]}
    assert identified(api, body) == pytest.approx(similarity, abs=1e-3)
    again = make_api(faces=faces)  # another process reads what was stored
    assert identified(again, body) == pytest.approx(similarity, abs=1e-3)
    (result,) = api.send(api.probe(vector, model_id=faces.model_id))
    assert result["event"]["person"]["id"] == ids["obama.jpg"]

    galleries = {"galleries": [{"collection": "default", "groups": []}]}
    api.ok("PUT", "/v1/devices/door-1/galleries", json=galleries)
    query = {"collection": "default", "device": "door-1"}
    response = api.call("GET", "/v1/snapshot", "device", query_string=query)
    head, part, *_ = [json.loads(line) for line in response.get_data().splitlines()]
    rows = FeedTemplates.model_validate(part["templates"]).rows(head["gallery"]["dimension"])
    assert rows.shape == (3, DIMENSION)
    assert (rows.astype(np.float32) @ vector).max() == pytest.approx(similarity, abs=2e-3)


@pytest.mark.parametrize("pack", ["edgeface-xxs", "edgeface-xs", "retail-0095"])
def test_a_new_collection_of_a_measured_pack_decides_by_its_reference(pack):
    references, model_id = ReferenceCalibrations(), face_engine(pack).model_id
    assert references.calibration(model_id) is not None
    assert references.default_policy(model_id)["target_fpir"] == 0.01


def test_a_pack_without_an_embedder_is_refused_by_name():
    with pytest.raises(ConfigurationError, match="'yunet' makes no templates"):
        face_engine("yunet")
    with pytest.raises(ConfigurationError, match="there is no pack 'nobody'"):
        face_engine("nobody")

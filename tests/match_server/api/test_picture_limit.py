"""Pictures use at most half of the threads of a worker, so probes and vectors get the rest."""

import base64
import threading
from concurrent.futures import ThreadPoolExecutor

from match_server.services.faces.face_engine import FaceEngine

SEARCH = "/v1/collections/default/search"
RED = (0, 0, 255)


def test_pictures_beyond_half_of_the_threads_get_503(make_api, helpers):
    looking, go_on = threading.Barrier(2), threading.Event()

    class Slow(helpers.PaintedFaces):
        def analyze(self, *arguments, **options):
            looking.wait(20)
            go_on.wait(20)
            return super().analyze(*arguments, **options)

    api = make_api(faces=FaceEngine(helpers.MODEL, 512, Slow), threads=3)
    picture = {"image": base64.b64encode(helpers.paint((RED, 80))).decode()}
    vector = {"vector": helpers.encode(helpers.unit_vector(1)), "model_id": helpers.MODEL}
    application, headers = api.client.application, {"Authorization": f"Bearer {api.key('admin')}"}

    def search_elsewhere():
        return application.test_client().post(SEARCH, json=picture, headers=headers)

    with ThreadPoolExecutor(1) as other:
        first = other.submit(search_elsewhere)
        try:
            looking.wait(20)
            refused = api.call("POST", SEARCH, json=picture)
            beside = api.call("POST", SEARCH, json={"templates": [vector]})
            creating = {**picture, "create_person": True}
            forbidden = api.call("POST", SEARCH, "searcher", json=creating)
        finally:
            go_on.set()
        assert first.result(20).status_code == 200
    assert refused.status_code == 503
    assert refused.get_json()["code"] == "unavailable"
    assert int(refused.headers["Retry-After"]) >= 1
    assert beside.status_code == 200
    assert forbidden.status_code == 403  # whatever is free, this key may never do it

"""What people would write instead, for pictures: face_recognition behind Flask, by gunicorn."""

import base64
import io

import face_recognition  # type: ignore[import-not-found]  # in a folder of its own
import numpy as np
from flask import Flask, Response, jsonify, request


def create_app(n: int) -> Flask:
    """An application that compares a picture's largest face with n random encodings."""
    app = Flask(__name__)
    known = np.random.default_rng(0).standard_normal((n, 128)) * 0.1

    @app.post("/v1/collections/default/search")
    def best() -> Response:
        body = request.get_json()
        picture = face_recognition.load_image_file(io.BytesIO(base64.b64decode(body["image"])))
        boxes = face_recognition.face_locations(picture)
        largest = max(boxes, key=lambda box: box[2] - box[0])
        (encoding,) = face_recognition.face_encodings(picture, [largest])
        distances = face_recognition.face_distance(known, encoding)
        rows = np.argsort(distances)[: body["limit"]]
        return jsonify(
            candidates=[{"id": int(row), "distance": float(distances[row])} for row in rows]
        )

    @app.get("/readyz")
    def ready() -> Response:
        return jsonify(ready=True)

    return app

"""What was measured of a collection's model, and adopted."""

from pydantic import JsonValue

from match_server.api.routing import Endpoint
from match_server.container import Services
from match_server.schemas.base import Page, Paging
from match_server.schemas.calibrations import (
    CalibrationAdopted,
    CalibrationFile,
    CalibrationLine,
    CalibrationRemoved,
    CalibrationView,
)
from match_server.services.auth.keys import Permission

_CALIBRATION = "/v1/collections/<collection>/calibration"


def calibration_endpoints(services: Services) -> list[Endpoint]:
    """Calibrations."""
    do = services.calibrations
    return [
        Endpoint(
            "PUT", _CALIBRATION, "collections",
            "Adopt the calibration file that `match-server evaluate` wrote",
            handle=lambda collection, body: do.adopt(collection, body),
            permission=Permission.ADMINISTER, body=CalibrationFile, answer=CalibrationAdopted,
            errors=(400, 404, 409, 422), example=_example(services.faces.model_id),
        ),
        Endpoint(
            "GET", _CALIBRATION, "collections", "Read the calibration in use, and its limits",
            handle=lambda collection: do.get(collection), permission=Permission.READ,
            answer=CalibrationView, errors=(404,),
        ),
        Endpoint(
            "DELETE", _CALIBRATION, "collections",
            "Use no calibration any more; probabilities are null then",
            handle=lambda collection: do.remove(collection), permission=Permission.ADMINISTER,
            answer=CalibrationRemoved, errors=(404, 409),
        ),
        Endpoint(
            "GET", f"{_CALIBRATION}s", "collections", "List the calibrations ever adopted",
            handle=lambda collection, query: do.history(collection, query),
            permission=Permission.READ, query=Paging, answer=Page[CalibrationLine],
            errors=(400, 404),
        ),
    ]  # fmt: skip


def _example(model_id: str) -> dict[str, JsonValue]:
    """A file of two persons, cut short to four thresholds."""
    estimate: JsonValue = {"value": 0.0, "low": 0.0, "high": 0.95}
    curves: dict[str, JsonValue] = {
        "thresholds": [0.0, 0.25, 0.5, 0.75],
        "fmr": [1.0, 0.25, 0.0, 0.0],
        "fmr_low": [1.0, 0.0, 0.0, 0.0],
        "fmr_high": [1.0, 1.0, 0.95, 0.95],
        "fnmr": [0.0, 0.0, 0.0, 1.0],
        "fnmr_low": [0.0, 0.0, 0.0, 1.0],
        "fnmr_high": [0.78, 0.78, 0.78, 1.0],
        "fpir": [1.0, 0.5, 0.0, 0.0],
        "fnir": [0.0, 0.0, 0.0, 1.0],
        "genuine": [0, 0, 2, 0],
        "impostor": [3, 1, 0, 0],
        "mates": [0, 0, 4, 0],
    }
    example: dict[str, JsonValue] = {
        "format": "muster-calibration",
        "version": 1,
        "model_id": model_id,
        "measured_at": "2026-11-22T12:00:00.000Z",
        "gate": "doorway",
        "data": {
            "persons": 2,
            "persons_mated": 2,
            "pictures": 4,
            "refused": 0,
            "genuine_pairs": 2,
            "impostor_pairs": 4,
            "person_pairs": 1,
            "genuine_mean": 0.6,
            "genuine_sd": 0.05,
            "impostor_mean": 0.1,
            "impostor_sd": 0.1,
        },
        "eer": estimate,
        "d_prime": {"value": 6.3, "low": 5.0, "high": 8.0},
        "curves": curves,
        "tail": {"similarity": 0.0, "fmr": 1.0, "scale": 0.125},
        "likelihood": {
            "slope": 4.0,
            "offset": -1.4,
            "lowest": -1.4,
            "highest": 1.1,
            "cllr": 0.6,
            "least_cllr": 0.0,
        },
        "sha256": "0" * 64,
    }
    digest = CalibrationFile.model_validate(example).digest()
    return {**example, "sha256": digest}

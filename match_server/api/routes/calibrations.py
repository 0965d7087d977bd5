"""Calibrations of collections."""

from pydantic import JsonValue

from match_server.api.routing import Routes
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


def calibration_routes(services: Services) -> Routes:
    routes = Routes("collections")
    calibrations = services.calibrations

    @routes.add(
        "PUT",
        _CALIBRATION,
        Permission.ADMINISTER,
        errors=(404, 409, 422),
        example=_example(services.faces.model_id),
    )
    def adopt_calibration(collection: str, body: CalibrationFile) -> CalibrationAdopted:
        """Adopt the calibration file that `match-server evaluate` wrote."""
        return calibrations.adopt(collection, body)

    @routes.add("GET", _CALIBRATION, Permission.READ, errors=(404,))
    def get_calibration(collection: str) -> CalibrationView:
        """Read the calibration in use, and its limits."""
        return calibrations.get(collection)

    @routes.add("DELETE", _CALIBRATION, Permission.ADMINISTER, errors=(404, 409))
    def remove_calibration(collection: str) -> CalibrationRemoved:
        """Remove the calibration; the reference of the model pack replaces it, if there is one."""
        return calibrations.remove(collection)

    @routes.add("GET", f"{_CALIBRATION}s", Permission.READ, errors=(404,))
    def list_calibrations(collection: str, query: Paging) -> Page[CalibrationLine]:
        """List all calibrations that were ever adopted."""
        return calibrations.history(collection, query)

    return routes


def _example(model_id: str) -> dict[str, JsonValue]:
    """A calibration file of two persons, shortened to four thresholds."""
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

"""What was measured of a collection's model, and adopted."""

from match_server.api.endpoint import Endpoint
from match_server.schemas.base import Page, Paging
from match_server.schemas.calibrations import (
    CalibrationAdopted,
    CalibrationFile,
    CalibrationLine,
    CalibrationRemoved,
    CalibrationView,
)
from match_server.services.keys import Permission
from match_server.services.wiring import Services

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
            errors=(400, 404, 409, 422),
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

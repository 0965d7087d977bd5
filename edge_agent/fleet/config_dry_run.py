"""Tries a configuration in a separate process, which may hang or crash without harm.

`python -m edge_agent.fleet.config_dry_run` reads two tables of settings from standard input, the
new and the current one, opens what is new, and prints one JSON object: `{"problem": null}` or
`{"problem": "<one sentence>"}`.
"""

import json
import subprocess
import sys
from typing import Any, Final

from edge_agent.config.camera import CameraSettings
from edge_agent.config.loading import settings_from
from edge_agent.config.settings import AgentSettings
from shared.errors import ConfigurationError, MusterError

_TIMEOUT_S: Final = 900.0  # a new pack may have to be downloaded
_CAMERA_S: Final = 15.0


def dry_run(table: dict[str, Any], current: AgentSettings) -> str | None:
    """Returns why these settings cannot be used; None when everything new can be opened."""
    request = {
        "table": table,
        "cameras": [camera.model_dump_json() for camera in current.cameras],
        "models": current.models.model_dump_json(),
    }
    try:
        done = subprocess.run(
            [sys.executable, "-m", "edge_agent.fleet.config_dry_run"],
            input=json.dumps(request, default=str),
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"trying it took longer than {_TIMEOUT_S:.0f} s"
    except (OSError, ValueError) as error:
        return f"it cannot be tried: {error}"
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        return f"trying it ended with status {done.returncode}"
    problem = answer.get("problem")
    return None if problem is None else str(problem)


def problem_of(request: dict[str, Any]) -> str | None:
    """The same, in this process."""
    try:
        settings = settings_from(request["table"], "the configuration")
        if settings.models.model_dump_json() != request["models"]:
            _try_models(settings)
        for camera in settings.cameras:
            # A camera in use cannot be opened twice.
            if camera.model_dump_json() not in request["cameras"]:
                _try_camera(camera)
    except MusterError as error:
        return error.message
    return None


def _try_models(settings: AgentSettings) -> None:
    from edge_agent.fleet.model_packs import fetch, open_checked, verify

    fetch(settings.models)
    verify(open_checked(settings.models))


def _try_camera(camera: CameraSettings) -> None:
    from edge_agent.capture.first_frame import first_picture

    try:
        first_picture(camera, _CAMERA_S)
    except MusterError as error:
        raise ConfigurationError(f"camera {camera.name}: {error.message}") from error


if __name__ == "__main__":
    answer = problem_of(json.load(sys.stdin))
    sys.stdout.write(json.dumps({"problem": answer}) + "\n")
    sys.stdout.flush()

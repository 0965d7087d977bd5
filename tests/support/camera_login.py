"""Connection settings with a login, whose password stands in a file."""

from pathlib import Path

from edge_agent.config.camera import ConnectionSettings


def with_login(folder: Path, name: str, password: str, **settings: float) -> ConnectionSettings:
    """`settings` are further connection settings, such as `fps`."""
    file = folder / f"password-{name}"
    file.write_text(password, encoding="utf-8")
    return ConnectionSettings.model_validate({"username": name, "password_file": file, **settings})

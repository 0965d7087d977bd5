"""The reference calibrations that lie beside the manifest belong to its packs."""

import json
from importlib import resources

import pytest

from models.packs.manifest import built_in_manifest

FOLDER = resources.files("models.packs").joinpath("calibrations")
PACKS = ("edgeface-xxs", "edgeface-xs", "retail-0095")


@pytest.mark.parametrize("pack", PACKS)
def test_each_measured_pack_brings_a_calibration_of_its_own_model(pack: str) -> None:
    file = json.loads(FOLDER.joinpath(f"{pack}.json").read_text(encoding="utf-8"))
    assert file["model_id"] == built_in_manifest().pack(pack).model_id
    assert file["data"]["persons"] > 1000
    assert "press photographs" in file["reference"]["pictures"]
    assert "reference" in file["reference"]["note"].lower()
    assert not {"names", "files", "templates"} & set(file["data"])

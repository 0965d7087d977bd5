"""A model file that rots on its card is named before it answers anything."""

import shutil
from pathlib import Path

import pytest

from models.face_models import open_models
from models.packs.store import require
from shared.errors import PackError


@pytest.mark.models
@pytest.mark.parametrize("rot", ["cut short", "one bit flipped", "gone"])
def test_a_rotten_model_file_is_named_with_what_helps(tmp_path: Path, rot: str) -> None:
    shutil.copytree(require("compact").folder, tmp_path / "compact")
    embedder = tmp_path / "compact" / "embedder.onnx"
    data = bytearray(embedder.read_bytes())
    if rot == "gone":
        embedder.unlink()
    elif rot == "cut short":
        embedder.write_bytes(data[:-1000])
    else:
        data[len(data) // 2] ^= 4
        embedder.write_bytes(data)
    with pytest.raises(PackError, match=r"embedder\.onnx .*run `face-models pull compact`"):
        open_models("compact", cache=tmp_path)

"""Segment files and manifests that an attacker changed: opened, searched, and never a crash.

An attacker who can write to the data folder can make valid digests, so every number is checked.
"""

import json
import random
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import numpy as np

from shared.errors import MusterError
from shared.gallery import DiskIndex, open_gallery
from shared.gallery.segment_file import digest_of

DIMENSION: Final = 32
COUNT: Final = 100
_PAGE: Final = 4096
_NUMBERS: Final = (
    -1,
    0,
    1,
    15,
    16,
    17,
    2**31,
    2**32,
    2**60,
    2**61,
    2**63 - 1,
    2**63,
    2**64,
    -(2**63),
)


def rows() -> np.ndarray[Any, np.dtype[np.float32]]:
    made = np.random.default_rng(3).standard_normal((COUNT, DIMENSION))
    unit: np.ndarray[Any, np.dtype[np.float32]] = (
        made / np.linalg.norm(made, axis=1, keepdims=True)
    ).astype(np.float32)
    return unit


def sound_gallery(folder: Path) -> None:
    """Returns a gallery of one segment with some removed templates."""
    gallery = open_gallery(folder, DIMENSION, threads=1)
    assert isinstance(gallery, DiskIndex)
    ids = np.arange(1, COUNT + 1, dtype=np.uint64)
    gallery.apply(0, 1, ids=ids, vectors=rows())
    gallery.seal()
    gallery.apply(1, 2, remove=ids[::40])
    gallery.seal()
    gallery.close()


def with_header(folder: Path, **numbers: object) -> None:
    """Changes the header of the segment, and its digest in the manifest."""
    segment = next(folder.glob("*.segment"))
    data = bytearray(segment.read_bytes())
    size = int.from_bytes(data[8:12], "little")
    header = json.dumps({**json.loads(data[12 : 12 + size]), **numbers}).encode()
    data[8 : 12 + len(header)] = len(header).to_bytes(4, "little") + header
    segment.write_bytes(data)
    with_manifest(folder, lambda manifest: manifest["segments"][0].update(header=digest_of(header)))


def with_manifest(folder: Path, change: Any) -> None:
    """Changes the manifest, with a valid digest."""
    file = folder / "manifest.json"
    manifest = json.loads(file.read_bytes().rpartition(b"\n")[0])
    change(manifest)
    text = json.dumps(manifest).encode()
    file.write_bytes(text + b"\n" + digest_of(text).encode())


def tried(folder: Path) -> bool:
    """Opens and searches a gallery; returns whether it was accepted. Raises unexpected errors."""
    gallery = open_gallery(folder, DIMENSION, threads=1)
    assert isinstance(gallery, DiskIndex)
    probes = rows()[:3]
    try:
        gallery.verify()
        taken = gallery.damage is None
        gallery.search(probes, 5)
        gallery.search(probes, 5, among=np.arange(1, 60, dtype=np.uint64))
        gallery.apply(gallery.watermark, gallery.watermark + 1, remove=np.array([5], np.uint64))
        gallery.compact()
    except MusterError:
        return False
    finally:
        gallery.close()
    return taken


def _mutate(folder: Path, chance: random.Random) -> str:
    match chance.randrange(4):
        case 0:
            numbers = {name: chance.choice(_NUMBERS) for name in ("count", "groups")}
            if chance.random() < 0.5:
                del numbers[chance.choice(sorted(numbers))]
            with_header(folder, **numbers)
            return f"header {numbers}"
        case 1:
            name = chance.choice(("live", "name", "header", "alive", "alive_digest"))
            value = chance.choice((*_NUMBERS, None, "../../etc/passwd", "x", "\0"))
            with_manifest(folder, lambda manifest: manifest["segments"][0].update({name: value}))
            return f"manifest {name} {value!r}"
        case 2:
            name = chance.choice(("seq", "format", "segments", "book"))
            number = chance.choice(_NUMBERS)
            with_manifest(folder, lambda manifest: manifest.update({name: number}))
            return f"manifest {name} {number}"
        case _:
            file = chance.choice(sorted(folder.glob("*.*")))
            data = bytearray(file.read_bytes())
            at = chance.randrange(max(1, len(data)))
            if chance.random() < 0.3:
                del data[at:]
            else:
                data[at : at + 64] = chance.randbytes(len(data[at : at + 64]))
            file.write_bytes(data)
            return f"bytes of {file.suffix} at {at}"


def run(seconds: float, seed: int) -> str:
    """Opens changed galleries for some time. Raises any error but MusterError."""
    chance = random.Random(seed)
    count = taken = 0
    until_s = time.monotonic() + seconds
    with tempfile.TemporaryDirectory(prefix="muster-") as path:
        sound = Path(path) / "sound"
        sound_gallery(sound)
        while time.monotonic() < until_s:
            folder = Path(path) / f"{count}"
            shutil.copytree(sound, folder)
            what = _mutate(folder, chance)
            count += 1
            try:
                taken += tried(folder)
            except Exception as error:
                raise AssertionError(f"seed {seed}, gallery {count}: {what}") from error
            shutil.rmtree(folder)
    return f"{count:,} galleries, {taken:,} of them taken"

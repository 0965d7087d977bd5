"""Real weights of packs by URL, from the folder that MUSTER_TEST_WEIGHTS names.

Some of these files were built again from published ones and have other checksums. Everything else
of a pack (input, reference points, dimension, steps) is as the shipped manifest declares it.
"""

import os
from collections.abc import Callable
from pathlib import Path

from models.packs.install import pull
from models.packs.manifest import Manifest, built_in_manifest
from models.packs.store import default_cache, installed_names, sha256_of

FILES = {
    "yunet": "yunet.onnx",
    "edgeface-xxs": "edgeface_xxs.onnx",
    "edgeface-xs": "edgeface_xs.onnx",
    "retail-0095": "face_reidentification_retail_0095.onnx",
}
"""The file of each pack that has one model."""


def weights_folder() -> Path | None:
    """Returns the folder with real weights, if there is one."""
    folder = os.environ.get("MUSTER_TEST_WEIGHTS")
    return None if folder is None else Path(folder)


def manifest_of(folder: Path, url: Callable[[Path], str] = lambda path: f"file:{path}") -> Manifest:
    """Returns the shipped packs whose files are in `folder`, with their `url`."""
    packs = {}
    shipped = built_in_manifest().packs
    for name, file_name in FILES.items():
        path, pack = folder / file_name, shipped[name]
        if path.is_file():
            file = pack.files[0].model_copy(update={"sha256": sha256_of(path)})
            source = pack.sources[file.source].model_copy(update={"url": url(path)})
            changes = {"files": (file,), "sources": {file.source: source}}
            packs[name] = pack.model_copy(update=changes)
    return Manifest(packs=packs)


def install_into(cache: Path, folder: Path) -> list[str]:
    """Installs the packs of `folder` in a cache of their own, beside those that the user has."""
    cache.mkdir(parents=True, exist_ok=True)
    for name in set(installed_names()) - set(FILES):
        if not (cache / name).exists():
            (cache / name).symlink_to(default_cache() / name)
    manifest = manifest_of(folder)
    for name in manifest.packs:
        pull(name, manifest, cache=cache, accept_licence=True)
    return list(manifest.packs)


def use_weights() -> None:
    """Lets this process see the packs of MUSTER_TEST_WEIGHTS as installed, the user's cache not."""
    folder = weights_folder()
    if folder is not None:
        cache = default_cache().with_name("models-with-weights")
        install_into(cache, folder)
        os.environ["MUSTER_MODELS_DIR"] = str(cache)

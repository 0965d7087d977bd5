"""Folders of pictures: which files are pictures, and the person of each."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from shared.errors import MalformedInput

_JUNK: Final = frozenset(
    {
        *("thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "picasa.ini", "icon\r"),
        *("__macosx", "@eadir", "@recycle", "#recycle", "#snapshot", "$recycle.bin"),
        *("system volume information", "lost+found"),
    }
)  # of Windows, macOS and network storages, in lower case
_SIDECARS: Final = frozenset({".aae", ".json", ".lnk", ".thm", ".xmp"})  # notes beside a picture
_COUNTERS: Final = re.compile(r"(?:[ _.-]+\d{1,4}|[ _.-]*[(\[]\d{1,4}[)\]])$")
_CAMERAS: Final = re.compile(
    r"(?:img|dsc[a-z]?|dcim|pxl|mvimg|image|photo|picture|screenshot|scan|frame|whatsapp image)"
    r"[ _-]*\d|p\d{7}$",
    re.IGNORECASE,
)
_CONTROLS: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")


@dataclass(frozen=True, slots=True)
class Naming:
    """How a picture gets its person: by its folder, by its file name, or one name for all."""

    name: str | None = None  # all are this person's
    by_file_name: bool = False  # `Ann Lee.jpg` and `Ann Lee 2.jpg` are Ann Lee's

    def person_of(self, path: Path, root: Path) -> str:
        """The person's name or id. Raises MalformedInput when the picture has no person."""
        if self.name is not None:
            return self.name
        if not self.by_file_name and path.parent == root:
            raise MalformedInput(
                "the picture lies in no person's folder: move it into one, or give --by-file-name "
                "or --name"
            )
        person = _person_in(path) if self.by_file_name else path.parent.name
        if not _is_utf8(person):
            what = "file" if self.by_file_name else "folder"
            raise MalformedInput(f"the {what}'s name is not UTF-8: rename it to the person's name")
        return person


BY_FOLDER: Final = Naming()


def pictures_in(folder: Path) -> Iterator[Path]:
    """All files below a folder in a stable order. Links to folders are not followed.

    Leaves out hidden files, and what systems and programs put beside pictures.
    """
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not _is_junk(name))
        for name in sorted(files):
            if not _is_junk(name) and Path(name).suffix.lower() not in _SIDECARS:
                yield Path(place) / name


def printable_name(path: Path) -> str:
    """A path for output: bytes that are not UTF-8 and control characters are escaped."""
    text = os.fsencode(path.as_posix()).decode("utf-8", "backslashreplace")
    return _CONTROLS.sub(lambda match: repr(match[0])[1:-1], text)


def _is_utf8(name: str) -> bool:
    """Whether a file name is valid UTF-8."""
    return not any("\udc80" <= character <= "\udcff" for character in name)


def _is_junk(name: str) -> bool:
    return name.startswith(".") or name.lower() in _JUNK


def _person_in(path: Path) -> str:
    """The person's name in a file name."""
    if _CAMERAS.match(path.stem):
        raise MalformedInput(
            "the file has a name that a camera gave it: rename it to the person's name, or give "
            "--name"
        )
    name = path.stem
    while shorter := _COUNTERS.sub("", name):
        if shorter == name:
            break
        name = shorter
    return name

"""Detects two folders of the same person's name, which may be two people."""

import unicodedata
from collections.abc import Iterable

from match_server.services.batches.batches import Item
from shared.errors import Conflict


class PersonFolders:
    """The folders of one import or batch, by the person's name."""

    def __init__(self, files: Iterable[str] = (), *, separators: str = "/\\") -> None:
        """`files` are paths `…/<person>/<file>` that are known beforehand.

        `separators` are the characters between folders: clients send both, but in the name of a
        local file a backslash belongs to an escape.
        """
        self._separators = separators
        self._by_name: dict[str, list[str]] = {}
        for file in files:
            self.add(file)

    def add(self, file: str) -> None:
        """Note the folder of a file."""
        name, folder = self._folder_of(file)
        folders = self._by_name.setdefault(name, [])
        if folder not in folders:
            folders.append(folder)

    def checked(self, item: Item) -> Item:
        """The item, or an error where another folder has the same name: two people must not become
        one person."""
        if item.file is None:
            return item
        name, _ = self._folder_of(item.file)
        folders = self._by_name.get(name, [])
        if not name or len(folders) < 2:
            return item
        places = " and ".join(repr(folder) for folder in folders[:2])
        wrong = Conflict(
            f"the folders {places} have one name and may be two people: rename one of them, or "
            "import them one after the other if they are one person",
            folders=list(folders),
        )
        return Item(item.index, item.file, wrong)

    def _folder_of(self, file: str) -> tuple[str, str]:
        """The person's name (normalised) and the folder of a file; "" for a file in no folder."""
        for separator in self._separators:
            file = file.replace(separator, "/")
        folder = unicodedata.normalize("NFC", file.strip("/")).rpartition("/")[0]
        return folder.rpartition("/")[2].strip(), folder

"""QR pictures with any content, shown to a box that enrolls; the valid one is read."""

import random
import string
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import segno

from edge_agent.fleet.enrollment import read_invitation
from shared.enrollment_code import Invitation
from shared.errors import MalformedInput

REAL = Invitation("https://muster.example:8480", "ABCD1234", "0" * 64)
_SHOWN = 12  # odd pictures before the real one
_ODD = (
    "http://[", "https://[::1", "http://x:99999", "http://x:port", "http://", "http://a b", "//x",
    "ftp://x", "http://x\x00y", "http://user:word@x", "file:///etc/passwd", "http://x/../..",
    "https://\u2100\u2101.example", "https://ex\u212aample", "", "%", "%ff%fe", "&" * 20, "=" * 20,
    "a=1&" * 12, "server=http://x&" * 9, "\x1b[2J", "\ufeff", "muster:enroll?" * 3, "\u202e",
)  # fmt: skip


def hostile_texts(chance: random.Random) -> Iterator[str]:
    """Yields modified invitations, and texts that are none, without end."""
    while True:
        fields = [("server", REAL.server), ("code", REAL.code), ("certificate", "0" * 64)]
        for _ in range(chance.randrange(1, 4)):
            place = chance.randrange(len(fields))
            odd = chance.choice((*_ODD, _letters(chance), chance.choice(fields)[1]))
            name = chance.choice((fields[place][0], odd, "server", "code", "certificate"))
            fields[place] = (name, odd)
            if chance.random() < 0.3:
                fields *= chance.randrange(2, 6)
        text = "muster:enroll?" + "&".join(f"{name}={value}" for name, value in fields)
        if chance.random() < 0.3:
            place = chance.randrange(len(text))
            text = text[:place] + chance.choice((*_ODD, _letters(chance))) + text[place + 1 :]
        yield text


def _letters(chance: random.Random) -> str:
    return "".join(chance.choices(string.printable, k=chance.randrange(1, 60)))


def read_texts(chance: random.Random, count: int) -> None:
    """Each text is an invitation with the address of a server, or refused as malformed."""
    texts = hostile_texts(chance)
    for _ in range(count):
        text = next(texts)
        try:
            read = Invitation.read(text)
        except MalformedInput:
            continue
        if Invitation.read(read.text()) != read:
            raise AssertionError(f"read as something else than it says: {text!r}")


def show_pictures(chance: random.Random, folder: Path) -> None:
    """The valid invitation is read after odd ones, some of which are not text."""
    texts = hostile_texts(chance)
    for number in range(_SHOWN):
        # Without a code, else what is left of it after decoding may be an invitation after all.
        odd: str | bytes = next(texts)[:200].replace("code=", "kode=")
        if number % 3 == 0:
            odd = chance.randbytes(chance.randrange(1, 60))
        _draw(odd, folder / f"{number:03}.png")
    _draw(REAL.text(), folder / f"{_SHOWN:03}.png")
    if read_invitation(str(folder), 60.0) != REAL:
        raise AssertionError("another invitation was read than the real one")


def _draw(content: str | bytes, file: Path) -> None:
    segno.make(content, micro=False).save(str(file), scale=4, border=4)


def run(seconds: float, seed: int) -> str:
    """Shows pictures for that time; returns a line of results. Raises what would end a box."""
    chance = random.Random(seed)
    until_s = time.monotonic() + seconds
    read = shown = 0
    while read == 0 or time.monotonic() < until_s:
        read_texts(chance, 2000)
        with tempfile.TemporaryDirectory() as folder:
            show_pictures(chance, Path(folder))
        read, shown = read + 2000, shown + _SHOWN
    return f"qr: {read} texts and {shown} pictures that are no invitation"

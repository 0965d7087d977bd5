"""Downloads a file over HTTP(S), with retries that resume where the last one stopped."""

import time
from collections.abc import Callable
from pathlib import Path

import requests

from models.packs.manifest import Source
from shared.backoff import Backoff
from shared.errors import PackError

BytesDone = Callable[[int, int], None]  # bytes done, bytes in all

_CHUNK = 1 << 18
_TIMEOUT_S = (10.0, 60.0)  # to connect, between two chunks
_LONGEST_PAUSE_S = 60.0


def download(
    source: Source, target: Path, progress: BytesDone, *, tries: int = 4, pause_s: float = 1.0
) -> None:
    """Downloads `source` to `target`, and resumes an earlier attempt.

    Raises PackError when the server refuses, or cannot be reached `tries` times in a row without
    a byte of progress in between. What has arrived stays in `target` for the next attempt.
    """
    backoff = Backoff(pause_s, _LONGEST_PAUSE_S)
    failures = 0
    while True:
        before = _size(target)
        try:
            with requests.Session() as session:
                _fetch_rest(session, source, target, progress)
            return
        except (requests.ConnectionError, requests.Timeout, _CutShort) as error:
            failures = 1 if _size(target) > before else failures + 1
            if failures >= tries:
                raise PackError(
                    f"{source.url} cannot be fetched: no network, or the server does not answer "
                    f"({type(error).__name__})"
                ) from error
        except requests.RequestException as error:
            raise PackError(f"{source.url} cannot be fetched: {error}") from error
        time.sleep(backoff.limit_s(failures))


class _CutShort(Exception):
    """The connection ended too early, or a 5xx response: a later attempt may succeed."""


def _fetch_rest(
    session: requests.Session, source: Source, target: Path, progress: BytesDone
) -> None:
    have = _size(target)
    # Without this, a compressing server would make lengths and ranges those of other bytes.
    headers = {"Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    with session.get(source.url, headers=headers, stream=True, timeout=_TIMEOUT_S) as answer:
        if answer.status_code == 416:  # nothing follows: all is here, or what is here is wrong
            if answer.headers.get("Content-Range") != f"bytes */{have}":
                target.unlink()
                raise _CutShort
            return
        if answer.status_code >= 500:
            raise _CutShort
        resumed = answer.status_code == 206
        if resumed and not answer.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            raise PackError(f"{source.url} answers another range than was asked for")
        if not resumed and answer.status_code != 200:
            raise PackError(f"{source.url} answers {answer.status_code} {answer.reason}")
        start = have if resumed else 0
        length = answer.headers.get("Content-Length")
        total = start + int(length) if length and length.isdigit() else source.size
        done = start
        with target.open("ab" if resumed else "wb") as stream:
            try:
                for chunk in answer.iter_content(_CHUNK):
                    stream.write(chunk)
                    done += len(chunk)
                    progress(done, total)
            except (requests.exceptions.ChunkedEncodingError, requests.ConnectionError) as error:
                raise _CutShort from error
        if length is not None and done < total:
            raise _CutShort


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0

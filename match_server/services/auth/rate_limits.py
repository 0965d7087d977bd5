"""How many requests are answered: per key, and per address for keys that are wrong.

Counted by the library `limits` in sliding windows of a minute; in each worker's memory, so that N
workers let through up to N times as much, or in a store that they share (a setting, by URL).
"""

import hashlib
import logging
import math
import threading
import time
from collections import OrderedDict

from limits import RateLimitItem, RateLimitItemPerMinute
from limits.errors import ConfigurationError as StoreUnknown
from limits.errors import StorageError
from limits.storage import MemoryStorage, StorageTypes, storage_from_string
from limits.strategies import SlidingWindowCounterRateLimiter

from shared.errors import ConfigurationError, RateLimited

log = logging.getLogger(__name__)

_REMEMBERED = 4096
"""Digests of good keys, the least recently used of which is forgotten: 32 bytes each."""


class Limits:
    """Counts and refuses. Thread-safe. A shared store that does not answer refuses nobody."""

    def __init__(self, *, per_key: int, bad_keys: int, store: str = "memory://") -> None:
        """Limits of a minute; 0 is none. Raises ConfigurationError for a store that is none."""
        self._counters = SlidingWindowCounterRateLimiter(_store(store))
        self._per_key = RateLimitItemPerMinute(per_key) if per_key else None
        self._bad_keys = RateLimitItemPerMinute(bad_keys) if bad_keys else None
        self._good: OrderedDict[bytes, None] = OrderedDict()
        self._lock = threading.Lock()

    def admit(self, key_id: str) -> None:
        """Count a request of a key. Raises RateLimited."""
        if self._per_key is not None:
            self._require(self._per_key, "key", key_id, "this key sends too many requests")

    def before_key(self, address: str, key: str) -> None:
        """Whether a key from this address is looked at at all. Raises RateLimited.

        Where too many wrong ones came from, only keys that were good before are: whoever guesses
        learns nothing more, and a box behind the same address goes on.
        """
        if self._bad_keys is None or self._is_good(key):
            return
        try:
            allowed = self._counters.test(self._bad_keys, "address", address)
        except StorageError as error:
            self._unanswered(error)
            return
        if not allowed:
            raise self._refusal(self._bad_keys, "address", address, "too many wrong keys")

    def bad_key(self, address: str) -> None:
        """Count a wrong key. Raises RateLimited in place of the answer that it was wrong."""
        if self._bad_keys is not None:
            self._require(self._bad_keys, "address", address, "too many wrong keys")

    def good_key(self, key: str) -> None:
        """Remember a key that was right."""
        digest = _digest(key)
        with self._lock:
            self._good[digest] = None
            self._good.move_to_end(digest)
            if len(self._good) > _REMEMBERED:
                self._good.popitem(last=False)

    def _is_good(self, key: str) -> bool:
        with self._lock:
            return _digest(key) in self._good

    def _require(self, item: RateLimitItem, kind: str, who: str, what: str) -> None:
        try:
            if self._counters.hit(item, kind, who):
                return
        except StorageError as error:
            self._unanswered(error)
            return
        raise self._refusal(item, kind, who, what)

    def _refusal(self, item: RateLimitItem, kind: str, who: str, what: str) -> RateLimited:
        reset_at = self._counters.get_window_stats(item, kind, who).reset_time
        wait_s = max(1, math.ceil(reset_at - time.time()))  # by the clock that `limits` goes by
        return RateLimited(
            f"{what}: more than {item.amount} a minute; try again in {wait_s} s",
            retry_after_s=wait_s,
        )

    @staticmethod
    def _unanswered(error: StorageError) -> None:
        log.warning("the store of rate limits does not answer", extra={"why": str(error)})


class _Memory(MemoryStorage):
    """Counts in this process's memory, without the timer that the library has for that.

    Its timer is a thread that lives for 10 ms, and whichever request finds none begins the next and
    waits until that runs: with 32 clients a third of all searches a second were lost by it.
    """

    def __init__(self) -> None:
        super().__init__(wrap_exceptions=True)
        self._counting = threading.Lock()
        self._forget_at_s = 0.0

    def incr(self, key: str, expiry: float, amount: int = 1) -> int:
        now_s = time.time()
        with self._counting:
            if now_s >= self._forget_at_s:
                self._forget_at_s = now_s + expiry
                for ended in [one for one, at in list(self.expirations.items()) if at <= now_s]:
                    self.clear(ended)
            if not self.get(key):
                self.expirations[key] = now_s + expiry
            self.storage[key] += amount
            return self.storage[key]


def _store(url: str) -> StorageTypes:
    if url == "memory://":
        return _Memory()
    try:
        return storage_from_string(url, wrap_exceptions=True)
    except (StoreUnknown, ValueError) as error:
        raise ConfigurationError(
            "rate_limit_store is memory:// or redis://HOST:PORT (pip install redis)"
        ) from error


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()

"""Rate limits: of requests per key, and of wrong keys per address.

The library `limits` counts in sliding windows of a minute: in the memory of each worker, so that N
workers allow up to N times as much, or in a store that they share (a setting, by URL).
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
"""Number of digests of valid keys that are remembered, the most recently used: 32 bytes each."""


class Limits:
    """Counts and limits requests. Thread-safe. Without an available store nothing is limited."""

    def __init__(self, *, per_key: int, bad_keys: int, store: str = "memory://") -> None:
        """Limits per minute; 0: no limit. Raises ConfigurationError for an invalid store."""
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
        """Raises RateLimited if a key from this address may not be checked now.

        After too many wrong keys from an address, only keys that were valid before are checked. An
        attacker who guesses learns nothing more, and a device with the same address goes on.
        """
        if self._bad_keys is None or self._is_good(key):
            return
        try:
            allowed = self._counters.test(self._bad_keys, "address", address)
        except StorageError as error:
            self._log_unavailable(error)
            return
        if not allowed:
            raise self._error(self._bad_keys, "address", address, "too many wrong keys")

    def bad_key(self, address: str) -> None:
        """Count a wrong key. Raises RateLimited if there are too many."""
        if self._bad_keys is not None:
            self._require(self._bad_keys, "address", address, "too many wrong keys")

    def good_key(self, key: str) -> None:
        """Remember a valid key."""
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
            self._log_unavailable(error)
            return
        raise self._error(item, kind, who, what)

    def _error(self, item: RateLimitItem, kind: str, who: str, what: str) -> RateLimited:
        reset_at = self._counters.get_window_stats(item, kind, who).reset_time
        wait_s = max(1, math.ceil(reset_at - time.time()))  # the clock that `limits` uses
        return RateLimited(
            f"{what}: more than {item.amount} a minute; try again in {wait_s} s",
            retry_after_s=wait_s,
        )

    @staticmethod
    def _log_unavailable(error: StorageError) -> None:
        log.warning("The store of rate limits is not available", extra={"why": str(error)})


class _Memory(MemoryStorage):
    """Counts in the memory of this process, without the timer of the library.

    That timer is a thread that runs for 10 ms; the next request starts a new one and waits for its
    start. With 32 clients this cost a third of all searches per second.
    """

    def __init__(self) -> None:
        super().__init__(wrap_exceptions=True)
        self._counting = threading.Lock()
        self._clean_at_s = 0.0

    def incr(self, key: str, expiry: float, amount: int = 1) -> int:
        now_s = time.time()
        with self._counting:
            if now_s >= self._clean_at_s:
                self._clean_at_s = now_s + expiry
                expirations = list(self.expirations.items())
                for ended in [name for name, at in expirations if at <= now_s]:
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

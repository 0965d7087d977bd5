"""Readings of the machine from /proc and /sys; None where it has no such reading.

Not by psutil: it would replace the reading of four small files, and it knows neither the
temperature of an ARM processor nor its throttling.
"""

import os
import re
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

_THROTTLED_NOW: Final = 0b1111
"""Of the Raspberry Pi's `get_throttled`: under-voltage, capped, throttled, soft limit."""
_FIRMWARE_OUTPUT: Final = re.compile("(?:throttled=0x)?([0-9a-fA-F]+)")
_VCGENCMD_S: Final = 2.0
_VCGENCMD_EVERY_S: Final = 30.0  # it is a process each time
_SENSIBLE_C: Final = (-60.0, 200.0)


@dataclass(frozen=True, slots=True)
class Readings:
    """The state of the machine at one moment."""

    temperature_c: float | None  # of the hottest zone
    throttled: bool | None  # slowed by heat or weak power, now
    load_1m: float | None
    processors: int
    memory_bytes: int  # resident, of this process
    memory_free_bytes: int | None  # of the machine, without swapping
    disk_free_bytes: int | None  # of the state folder


class Sensors(Protocol):
    """The source of readings."""

    def read(self) -> Readings: ...


class MachineSensors:
    """The files of the machine below `root`; the disk is that of `state_dir`."""

    def __init__(
        self, state_dir: Path, *, root: Path = Path("/"), vcgencmd: str | None = None
    ) -> None:
        self._state_dir = state_dir
        self._root = root
        self._vcgencmd = shutil.which("vcgencmd") if root == Path("/") else vcgencmd
        self._firmware: tuple[float, str] | None = None  # time and output of the last query

    def read(self) -> Readings:
        return Readings(
            temperature_c=self._temperature_c(),
            throttled=self._throttled(),
            load_1m=self._load_1m(),
            processors=len(os.sched_getaffinity(0)),
            memory_bytes=self._resident_bytes(),
            memory_free_bytes=self._memory_free_bytes(),
            disk_free_bytes=self._disk_free_bytes(),
        )

    def _temperature_c(self) -> float | None:
        degrees = []
        for file in self._root.glob("sys/class/thermal/thermal_zone*/temp"):
            text = _text(file)
            try:
                value = int(text or "") / 1000
            except ValueError:
                continue
            if _SENSIBLE_C[0] <= value <= _SENSIBLE_C[1]:  # a dead sensor says -274 or 0x7fff
                degrees.append(value)
        return max(degrees, default=None)

    def _throttled(self) -> bool | None:
        """From the Pi's firmware; on other machines from the processors' frequency limit."""
        # `soc/soc:firmware` up to the Pi 4, with an address in both names on the Pi 5.
        files = self._root.glob("sys/devices/platform/soc*/soc*:firmware/get_throttled")
        output = next((text for text in map(_text, files) if text is not None), None)
        if output is None and self._vcgencmd is not None:
            output = self._query_firmware(self._vcgencmd)
        if output is not None:
            bits = _FIRMWARE_OUTPUT.fullmatch(output.strip())
            return None if bits is None else bool(int(bits[1], 16) & _THROTTLED_NOW)
        return self._slowed_by_kernel()

    def _query_firmware(self, command: str) -> str | None:
        """Returns its output, at most half a minute old. After a failure it is not queried again:
        the shipped unit allows no process to reach `/dev/vcio`."""
        now_s = time.monotonic()
        if self._firmware is None or now_s - self._firmware[0] >= _VCGENCMD_EVERY_S:
            output = _output_of([command, "get_throttled"])
            if output is None:
                self._vcgencmd = None
                return None
            self._firmware = now_s, output
        return self._firmware[1]

    def _slowed_by_kernel(self) -> bool | None:
        """Returns whether the kernel slows processors because of heat (Linux thermal sysfs)."""
        states = []
        for kind in self._root.glob("sys/class/thermal/cooling_device*/type"):
            if (_text(kind) or "").strip().lower() in ("processor", "cpufreq-cpu0") or (
                _text(kind) or ""
            ).startswith("cpufreq"):
                state = _text(kind.with_name("cur_state"))
                if state is not None and state.strip().isdigit():
                    states.append(int(state))
        return any(states) if states else None

    def _load_1m(self) -> float | None:
        text = _text(self._root / "proc/loadavg")
        try:
            return float((text or "").split()[0])
        except (ValueError, IndexError):
            return None

    def _resident_bytes(self) -> int:
        text = _text(self._root / "proc/self/statm")
        try:
            return int((text or "").split()[1]) * os.sysconf("SC_PAGE_SIZE")
        except (ValueError, IndexError):
            return 0

    def _memory_free_bytes(self) -> int | None:
        for line in (_text(self._root / "proc/meminfo") or "").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
        return None

    def _disk_free_bytes(self) -> int | None:
        try:
            return shutil.disk_usage(self._state_dir).free
        except OSError:
            return None


def _text(file: Path) -> str | None:
    try:
        return file.read_text(encoding="ascii", errors="replace")
    except OSError:
        return None


def _output_of(command: list[str]) -> str | None:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_VCGENCMD_S, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout

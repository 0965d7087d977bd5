"""ONNX Runtime sessions as a small box needs them: one thread, no spinning, a small memory.

ONNX Runtime is imported with the first session, not with this module: it starts threads, and a
process that forks after that (a server that makes its workers) aborts or hangs when they end.

Its official builds make an id of the device in the home folder and send events of use to their
publisher (1.32 does, also on Linux). That is turned off here, before the import, as the library's
Privacy.md says: a box with a camera tells nobody that it runs.
"""

import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.packs.surgery import without_parametric_relus
from shared.errors import PackError

# Measured with 48 faces: larger batches leave the processor's caches. Of 48 at once, the embedder
# takes 1.25 times as long as of 4, pose 1.4 times, liveness 1.6 times; single faces are as fast.
_BATCH = 4
_X86_64 = ("x86_64", "AMD64")  # as Linux and Windows name it
_ONLY_FATAL = 4  # exporters list weights as graph inputs, which is worth hundreds of warnings


class Session:
    """A loaded graph with one input. Several threads may call `run` at once."""

    def __init__(self, path: Path, *, threads: int = 1) -> None:
        """Loads the graph at `path`. Raises PackError if ONNX Runtime cannot read it."""
        os.environ["ORT_DISABLE_TELEMETRY"] = "1"
        import onnxruntime as ort  # type: ignore[import-untyped]

        try:
            # The default provider list may begin with one that wants a cloud account.
            self._session = ort.InferenceSession(
                _graph(path),
                _options(ort.SessionOptions(), threads),
                providers=["CPUExecutionProvider"],
            )
        except Exception as error:  # ONNX Runtime's own errors share no public base class
            raise PackError(f"{path.name} is not a graph that can be run: {error}") from error
        # ONNX Runtime would keep the bytes of the graph to try other providers: there are none.
        self._session._model_bytes = None
        inputs = self._session.get_inputs()
        if len(inputs) != 1:
            raise PackError(f"{path.name} has {len(inputs)} inputs, a face model has one")
        self._input_name: str = inputs[0].name
        self.input_shape: tuple[int | str | None, ...] = tuple(inputs[0].shape)  # int where fixed
        self._batchable = not isinstance(self.input_shape[0], int)

    @property
    def output_shapes(self) -> list[tuple[int | str | None, ...]]:
        return [tuple(output.shape) for output in self._session.get_outputs()]

    @property
    def providers(self) -> list[str]:
        return list(self._session.get_providers())

    def run(self, batch: NDArray[np.float32]) -> Sequence[NDArray[np.float32]]:
        """Returns the graph's outputs in their declared order, for an input in its layout."""
        outputs: Sequence[NDArray[np.float32]] = self._session.run(None, {self._input_name: batch})
        return outputs

    def run_each(self, batch: NDArray[np.float32]) -> Sequence[NDArray[np.float32]]:
        """Runs any number of items, in small batches; one by one if the graph's batch is fixed."""
        size = _BATCH if self._batchable else 1
        if len(batch) <= size:
            return self.run(batch)
        outputs = [self.run(batch[start : start + size]) for start in range(0, len(batch), size)]
        return [np.concatenate(parts) for parts in zip(*outputs, strict=True)]


def _graph(path: Path) -> str | bytes:
    """Returns the path, or the bytes of a graph that runs faster."""
    data = path.read_bytes()
    if platform.machine() not in _X86_64 or b"PRelu" not in data:
        return str(path)
    return without_parametric_relus(data)


def _options(options: Any, threads: int) -> Any:
    """Sets ONNX Runtime's `SessionOptions` (they have no types)."""
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _ONLY_FATAL
    # An idle thread that spins takes the core from the one that decodes the video.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # The arena keeps the peak of every graph for ever; without it, runs are as fast (measured).
    options.enable_cpu_mem_arena = False
    return options

"""A box without a camera, made to be killed: real outbox, real delivery, a probe every few ms.

Started once, it imports everything; each line on its input is one life: the name of the file to
which the ids of stored probes are written. It answers with the number of the process that lives
it. Forking saves the second that the imports take, a hundred times.
"""

import os
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from edge_agent.outbox import Outbox
from edge_agent.probes import Probe
from edge_agent.publishers.delivery import Delivery
from edge_agent.publishers.http import HttpTransport
from shared.ids import new_id
from shared.quality import Quality
from shared.template import Template, unit_rows

DEVICE = "box-1"


def probe(random: np.random.Generator, model_id: str) -> Probe:
    return Probe(
        probe_id=new_id(),
        camera="door",
        captured_at=datetime.now(UTC),
        track_id=new_id(),
        template=Template(model_id, unit_rows(random.normal(size=(1, 512)))[0]),
        quality=Quality(score=0.5),
        pose=None,
        liveness=0.5,
        detection_score=0.9,
        box=(1.0, 2.0, 30.0, 40.0),
        frame_size=(640, 480),
        thumbnail=None,
    )


def live(outbox_path: Path, url: str, key: str, model_id: str, ids: Path) -> None:
    random = np.random.default_rng()
    outbox = Outbox(outbox_path, DEVICE)
    Delivery(outbox, HttpTransport(url, key)).start()
    with ids.open("a", buffering=1) as written:
        while True:
            some = [probe(random, model_id) for _ in range(3)]
            if outbox.put(some):
                written.writelines(f"{one.probe_id}\n" for one in some)
            time.sleep(0.005)


def main() -> None:
    outbox_path, url, key, model_id = sys.argv[1:]
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            live(Path(outbox_path), url, key, model_id, Path(line.strip()))
        sys.stdout.write(f"{child}\n")
        sys.stdout.flush()
        os.waitpid(child, 0)


if __name__ == "__main__":
    main()

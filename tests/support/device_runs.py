"""A box without a camera, made to be killed: real outbox, real delivery, a probe every few ms.

Started once, it imports everything; each line on its input is one life: the name of the file to
which the ids of stored probes are written. It answers with the number of the process that lives
it. Forking saves the second that the imports take, a hundred times.
"""

import os
import random
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from edge_agent.delivery.http import HttpTransport
from edge_agent.delivery.worker import Delivery
from edge_agent.outbox.outbox import Outbox
from tests.support.probes import DEVICE, make_probe


def live(outbox_path: Path, url: str, key: str, model_id: str, ids: Path) -> None:
    chance = random.Random()
    outbox = Outbox(outbox_path, DEVICE)
    Delivery(outbox, HttpTransport(url, key)).start()
    with ids.open("a", buffering=1) as written:
        while True:
            some = [
                make_probe(
                    seed=chance.getrandbits(32), model_id=model_id, captured_at=datetime.now(UTC)
                )
                for _ in range(3)
            ]
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

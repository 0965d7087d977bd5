"""One process at a time is the leader, and another one takes over."""

import signal
import subprocess
import sys

from match_server.db.leader_lock import leader_lock
from tests.support.waiting import wait_until

HOLD = """
import sys, time
from match_server.db.database import Database
from match_server.db.leader_lock import leader_lock
lock = leader_lock(Database(sys.argv[1], lambda session: None), "some-work", sys.argv[2])
print(lock.acquire(), flush=True)
time.sleep(60)
"""


def _lock(services):
    return leader_lock(services.database, "some-work", services.settings.data_dir)


def test_one_process_at_a_time_holds_the_lock_and_another_takes_over(make_services):
    first, second = (_lock(make_services()) for _ in range(2))
    assert (first.acquire(), second.acquire(), first.acquire()) == (True, False, True)
    first.release()
    assert (second.acquire(), first.acquire()) == (True, False)
    second.release()
    assert first.acquire()
    first.release()


def test_the_lock_of_a_killed_process_is_free_at_once(make_services):
    services = make_services()
    url = services.database.url.render_as_string(hide_password=False)
    arguments = [sys.executable, "-c", HOLD, url, str(services.settings.data_dir)]
    lock = _lock(services)
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "True\n"
        assert not lock.acquire()
        holder.send_signal(signal.SIGKILL)
    wait_until(lock.acquire, "the lock")
    lock.release()

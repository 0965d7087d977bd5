"""The server's log: one JSON object a line, whoever writes it."""

import json
import logging
import threading

from match_server.logs import JsonFormatter, LineHandler


def test_lines_of_many_threads_are_whole_and_none_is_lost(capfd):
    handler = LineHandler()
    handler.setFormatter(JsonFormatter())
    log = logging.Logger("some", logging.INFO)
    log.addHandler(handler)

    def write(thread: int) -> None:
        for number in range(50):
            log.info("“said” by Zoë\n\ud800", extra={"thread_number": thread, "number": number})

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    said = {(line["thread_number"], line["number"]) for line in lines}
    assert said == {(thread, number) for thread in range(8) for number in range(50)}
    assert {line["level"] for line in lines} == {"info"}
    assert lines[0]["message"].startswith("“said” by Zoë\n")


def test_a_record_that_cannot_be_written_stops_nobody(capfd):
    handler = LineHandler()
    handler.setFormatter(JsonFormatter())
    record = logging.LogRecord("some", logging.INFO, __file__, 1, "%d", ("no number",), None)
    handler.handle(record)
    assert "Logging error" in capfd.readouterr().err

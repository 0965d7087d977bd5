"""A head that is read at once is read as gunicorn reads it, and refused where gunicorn refuses."""

import numpy as np
import pytest
from gunicorn.config import Config
from gunicorn.http.message import Request
from gunicorn.http.parser import RequestParser

from match_server.process.request_head import HeadParser, PlainRequest

PEER = ("127.0.0.1", 1234)
BODY = b'{"templates": []}'
PLAIN = (
    b"POST /v1/collections/default/search?limit=5 HTTP/1.1\r\nHost: muster.example:8480\r\n"
    b"User-Agent: python-requests/2.32 (a b)\r\nAccept: */*\r\nAuthorization: Bearer muster_a_b\r\n"
    b"Content-Type: application/json\r\nContent-Length: 17\r\n\r\n"
)
LINES = [
    b"POST / HTTP/1.1",
    b"GET /a%20b;c=d?e=f&g#h HTTP/1.1",
    b"GET //host/path HTTP/1.1",
    b"GET http://host/path HTTP/1.1",
    b"get /a HTTP/1.1",
    b"GET /a HTTP/1.0",
    b"GET /a HTTP/2.0",
    b"GET  /a HTTP/1.1",
    b"GET /\xc3\xa9 HTTP/1.1",
    b"OPTIONS * HTTP/1.1",
    b"CONNECT host:1 HTTP/1.1",
    b"PUT /[x HTTP/1.1",
    b"DELETE /a?b?c HTTP/1.1",
]
FIELDS = [
    b"Host: a",
    b"HOST:b",
    b"Content-Length: 17",
    b"Content-Length: +17",
    b"Content-Length: 0",
    b"Content-Length: 5, 5",
    b"Transfer-Encoding: chunked",
    b"Transfer-Encoding: identity",
    b"Expect: 100-continue",
    b"Expect: more",
    b"Connection: close",
    b"X-Empty:",
    b"X-Spaces:   a   b  ",
    b"X-Tab:\ta\t",
    b"X_Under: a",
    b"X-Latin: \xe9",
    b"X-Control: a\x01b",
    b"X-Bare: a\rb",
    b"X-Feed: a\nb",
    b" folded",
    b"No-Colon",
    b": no name",
    b"Space : before",
    b"Script-Name: /x",
    b"X-Forwarded-Proto: https",
    b"X-Long: " + b"y" * 9000,
]


def _config():
    """The settings of the server's workers about heads."""
    config = Config()
    config.set("forwarded_allow_ips", "")
    config.set("forwarder_headers", "")
    config.set("secure_scheme_headers", {})
    return config


def _read(parser_type, data):
    """What a parser makes of these bytes: the parts of the request, or the kind of its refusal."""
    try:
        request = next(parser_type(_config(), iter([data]), PEER))
        parts = (
            request.method,
            request.uri,
            request.path,
            request.query,
            request.fragment,
            request.version,
            request.headers,
            request.scheme,
            request.should_close(),
            request._expected_100_continue,
        )
        return parts, request.body.read(), request.unreader.read()
    except StopIteration:
        return "nothing"
    except Exception as error:
        return type(error).__name__


def test_a_plain_head_is_read_at_once(monkeypatch):
    monkeypatch.setattr(Request, "parse", lambda *_: pytest.fail("gunicorn's parser was asked"))
    parts, body, rest = _read(HeadParser, PLAIN + BODY + b"GET /next")
    assert parts[0:4] == (
        "POST",
        "/v1/collections/default/search?limit=5",
        "/v1/collections/default/search",
        "limit=5",
    )
    assert ("AUTHORIZATION", "Bearer muster_a_b") in parts[6]
    assert (body, rest) == (BODY, b"GET /next")


@pytest.mark.parametrize("seed", range(8))
def test_both_parsers_agree_on_every_head(seed):
    random = np.random.default_rng(seed)
    plain = refused = 0
    for _ in range(500):
        line = LINES[random.integers(len(LINES))] if random.integers(3) == 0 else LINES[0]
        chosen = random.integers(len(FIELDS), size=random.integers(5))
        if random.integers(2):
            chosen = chosen[np.isin(chosen, [0, 2, 10, 11, 12, 23, 24])]
        head = b"\r\n".join([line, *(FIELDS[index] for index in chosen)]) + b"\r\n\r\n"
        if random.integers(4) == 0:  # a byte that was changed, left out or doubled
            place = int(random.integers(len(head)))
            middle = [bytes([random.integers(256)]), b"", head[place : place + 1] * 2]
            head = head[:place] + middle[random.integers(3)] + head[place + 1 :]
        expected = _read(RequestParser, head + BODY)
        assert _read(HeadParser, head + BODY) == expected, head
        plain += expected != "nothing" and isinstance(expected, tuple)
        refused += isinstance(expected, str)
    assert plain > 100
    assert refused > 100


def test_a_head_that_arrives_in_pieces_is_read_by_gunicorn():
    pieces = [PLAIN[:40], PLAIN[40:], BODY]
    whole = next(HeadParser(_config(), iter([PLAIN + BODY]), PEER))
    request = next(HeadParser(_config(), iter(pieces), PEER))
    assert isinstance(request, PlainRequest)
    assert (request.headers, request.uri) == (whole.headers, whole.uri)
    assert request.body.read() == BODY

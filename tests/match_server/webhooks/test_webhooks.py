"""Webhooks with real receivers: no event is lost, none is late, and none blocks another."""

import contextlib
import json
import socket
import ssl
import threading
import time
from datetime import datetime, timedelta
from urllib.parse import urlsplit

import pytest
import trustme
from pydantic import ValidationError
from sqlalchemy import update

from match_server.db.leader_lock import leader_lock
from match_server.db.tables import Webhook
from match_server.process.notifiers import webhook_deliverer
from match_server.schemas.webhooks import WebhookCreate, web_address
from match_server.services.webhooks.addresses import Refused, addresses_of
from match_server.services.webhooks.calls import Caller
from match_server.services.webhooks.delivery import Deliverer, RetryPolicy
from match_server.settings import Settings
from shared.errors import Unavailable
from tests.support.waiting import wait_until
from tests.support.webhook_receivers import Receiver, signature

on_sqlite = pytest.mark.backends("sqlite")  # nothing in it depends on the database

FAST_RETRY = RetryPolicy(first_pause_s=0.02, longest_pause_s=0.1)


class RunningClock:
    """The clock of the test, which runs by itself."""

    def __init__(self, clock):
        self._clock, self._started_s = clock, time.monotonic()

    def now(self):
        return self._clock.now() + timedelta(seconds=time.monotonic() - self._started_s)

    def monotonic_s(self):
        return time.monotonic()


@pytest.fixture
def receive():
    opened = []

    def open_receiver(*answers, port=0):
        opened.append(Receiver(*answers, port=port))
        return opened[-1]

    yield open_receiver
    for receiver in opened:
        receiver.close()


@pytest.fixture
def deliver():
    """Starts a deliverer over the services of an `Api`."""
    started = []

    def begin(api, *, retry=FAST_RETRY, timeout_s=0.5, private=True):
        services = api.services
        deliverer = Deliverer(
            services.database,
            services.event_feed,
            Caller(timeout_s=timeout_s, private=private, version="test"),
            leader_lock(services.database, "webhooks", services.settings.data_dir),
            services.secrets,
            RunningClock(services.clock),
            retry,
            metrics=services.metrics,
        )
        deliverer.start()
        started.append(deliverer)
        return deliverer

    yield begin
    for deliverer in started:
        deliverer.close()


@pytest.fixture
def hook(api):
    def make(receiver, **filters):
        return api.ok("POST", "/v1/webhooks", json={"url": f"{receiver.url}/hook", **filters})

    return make


def state(api, webhook):
    return api.ok("GET", f"/v1/webhooks/{webhook['id']}")


def notified(receiver):
    return [event["track_id"] for event in receiver.taken]


def see(api, helpers, count=1, *, seed=None, **more):
    """Send probes of unknown persons, or of the person with that seed. Returns the probes."""
    probes = [
        api.probe(helpers.unit_vector(seed or 500 + n), sequence=n, **more)
        for n in range(1, count + 1)
    ]
    api.send(*probes)
    return probes


def test_an_event_is_told_signed_and_with_its_expiry(api, helpers, receive, hook, deliver):
    see(api, helpers)  # before the webhook: not sent
    receiver = receive()
    made = hook(receiver)
    deliver(api)
    api.person("Ann", helpers.unit_vector(1))
    see(api, helpers, seed=1)
    wait_until(lambda: receiver.taken, "a delivery")
    ((headers, body),) = receiver.calls
    event = json.loads(body)["data"]
    assert headers["webhook-signature"] == signature(made["secret"], headers, body)
    assert headers["webhook-id"] == f"{event['id']}.{event['revision']}"
    assert abs(int(headers["webhook-timestamp"]) - api.clock.now().timestamp()) < 2
    assert (event["person"]["name"], event["live"]) == ("Ann", True)
    assert datetime.fromisoformat(event["expires_at"]) > api.clock.now()
    wait_until(lambda: state(api, made)["waiting"] == 0, "an empty queue")
    assert "secret" not in state(api, made)


@on_sqlite
def test_a_tampered_body_or_time_has_another_signature(api, helpers, receive, hook, deliver):
    receiver = receive()
    made = hook(receiver)
    deliver(api)
    see(api, helpers)
    wait_until(lambda: receiver.taken, "a delivery")
    ((headers, body),) = receiver.calls
    good = headers["webhook-signature"]
    assert signature(made["secret"], headers, body.replace(b"true", b"True")) != good
    assert signature(made["secret"], {**headers, "webhook-timestamp": "1"}, body) != good


def test_events_come_in_order_and_again_after_failures(api, helpers, receive, hook, deliver):
    receiver = receive(500, 503, 204)
    made = hook(receiver)
    deliver(api)
    probes = see(api, helpers, 5)
    wait_until(lambda: len(receiver.taken) == 5, "five deliveries")
    assert sorted(notified(receiver)) == sorted(probe["track_id"] for probe in probes)
    # Two failed and were overtaken by those that followed.
    expected = [probes[place]["track_id"] for place in (2, 3, 4, 0, 1)]
    assert notified(receiver) == expected
    wait_until(lambda: state(api, made)["waiting"] == 0, "an empty queue")
    assert (state(api, made)["failures"], state(api, made)["failing_since"]) == (0, None)


@on_sqlite
def test_a_receiver_that_hangs_holds_up_nobody_else(api, helpers, receive, hook, deliver):
    slow, quick = receive("hang"), receive()
    hook(slow)
    hook(quick)
    deliver(api, timeout_s=20)
    see(api, helpers, 3)
    wait_until(lambda: len(quick.taken) == 3, "three deliveries")
    assert slow.taken == []
    slow.silence.set()


@on_sqlite
def test_a_receiver_that_hangs_once_is_told_again(api, helpers, receive, hook, deliver):
    receiver = receive("hang", 200)
    made = hook(receiver)
    deliver(api, timeout_s=0.2)
    see(api, helpers)
    wait_until(lambda: receiver.taken, "a second try")
    first, second = (headers["webhook-id"] for headers, _ in receiver.calls[:2])
    assert first == second
    wait_until(lambda: state(api, made)["waiting"] == 0, "an empty queue")


def test_a_receiver_that_was_away_is_told_everything_when_it_is_back(
    api, helpers, receive, hook, deliver
):
    receiver = receive()
    made = hook(receiver)
    receiver.close()
    deliver(api)
    probes = see(api, helpers, 20)
    wait_until(lambda: state(api, made)["failures"] >= 2, "failures")
    assert state(api, made)["waiting"] >= 18
    back = receive(port=receiver.port)
    wait_until(lambda: len(back.taken) >= 20, "twenty deliveries")
    assert sorted(set(notified(back))) == sorted(probe["track_id"] for probe in probes)


def test_what_the_receiver_does_not_want_is_a_dead_letter_and_can_be_sent_again(
    api, helpers, receive, hook, deliver
):
    receiver = receive(400, 204)
    made = hook(receiver)
    deliver(api)
    see(api, helpers, 2)
    wait_until(lambda: len(receiver.taken) == 1, "the second event")
    wait_until(lambda: state(api, made)["dead"] == 1, "a dead letter")
    path = f"/v1/webhooks/{made['id']}"
    (letter,) = api.ok("GET", f"{path}/dead")["items"]
    assert (letter["attempts"], letter["reason"]) == (1, "the receiver returned 400")
    assert api.ok("POST", f"{path}/resend", json={"events": ["nothing"]}) == {"events": 0}
    assert api.ok("POST", f"{path}/resend", json={}) == {"events": 1}
    wait_until(lambda: len(receiver.taken) == 2, "the first event")
    assert receiver.taken[1]["id"] == letter["event"]
    wait_until(lambda: state(api, made)["dead"] == 0, "an empty list")


@on_sqlite
def test_an_event_that_fails_for_too_long_is_a_dead_letter(api, helpers, receive, hook, deliver):
    receiver = receive(500)
    made = hook(receiver)
    deliver(api, retry=RetryPolicy(0.01, 0.02, event_s=60, webhook_s=1e6))
    see(api, helpers)
    wait_until(lambda: state(api, made)["failures"], "a failure that is noted")
    api.clock.advance(61)
    wait_until(lambda: state(api, made)["dead"] == 1, "a dead letter")


@on_sqlite
def test_a_receiver_that_is_gone_is_called_no_more_until_somebody_says_so(
    api, helpers, receive, hook, deliver
):
    receiver = receive(410, 204)
    made = hook(receiver)
    deliver(api)
    see(api, helpers, 3)
    wait_until(lambda: not state(api, made)["enabled"], "an end")
    assert "410" in state(api, made)["disabled_reason"]
    assert len(receiver.calls) == 1
    api.ok("POST", f"/v1/webhooks/{made['id']}/enable")
    wait_until(lambda: len(receiver.taken) == 3, "what it missed")


@on_sqlite
def test_a_webhook_that_never_succeeds_is_disabled_with_its_reason(
    api, helpers, receive, hook, deliver
):
    receiver = receive(500)
    made = hook(receiver)
    deliver(api, retry=RetryPolicy(0.01, 0.02, event_s=1e6, webhook_s=3600))
    see(api, helpers)
    wait_until(lambda: state(api, made)["failures"] > 1, "failures")
    api.clock.advance(3700)
    wait_until(lambda: not state(api, made)["enabled"], "an end")
    assert (
        "too long; the last time: the receiver returned 500"
        in (state(api, made)["disabled_reason"])
    )


@on_sqlite
def test_a_redirect_is_not_followed(api, helpers, receive, hook, deliver):
    receiver = receive(302, 204)
    made = hook(receiver)
    deliver(api)
    see(api, helpers)
    wait_until(lambda: state(api, made)["dead"] == 1, "a dead letter")
    assert len(receiver.calls) == 1


@on_sqlite
def test_an_event_that_comes_late_does_not_look_live(api, helpers, receive, hook, deliver):
    receiver = receive(503, 204)
    hook(receiver)
    api.person("Ann", helpers.unit_vector(1))
    see(api, helpers, seed=1)
    api.clock.advance(11)  # not delivered in time
    deliver(api)
    wait_until(lambda: receiver.calls, "a call")
    api.clock.advance(60)
    wait_until(lambda: receiver.taken, "a delivery")
    (event,) = receiver.taken
    assert (event["live"], event["person"]["name"]) == (False, "Ann")


def test_whoever_is_erased_while_an_event_waits_is_not_named(api, helpers, receive, hook, deliver):
    receiver = receive(500)
    made = hook(receiver)
    ann = api.person("Ann", helpers.unit_vector(1))
    deliver(api, retry=RetryPolicy(0.05, 0.05))
    see(api, helpers, seed=1)
    wait_until(lambda: state(api, made)["failures"], "a failure")
    api.ok("DELETE", f"/v1/collections/default/persons/{ann}")
    seen = len(receiver.calls)
    wait_until(lambda: len(receiver.calls) > seen + 2, "more tries")
    receiver.answers = [204]
    wait_until(lambda: receiver.taken, "a delivery")
    (event,) = [one for one in receiver.taken if one["person_erased"]][:1]
    assert (event["person"], event["candidates"], event["live"]) == (None, [], False)
    assert b"Ann" not in receiver.calls[-1][1]


FILTERED = [
    ({"decisions": ["unknown"]}, ["back", "front"]),
    ({"decisions": ["identified"]}, ["front"]),
    ({"cameras": ["back"]}, ["back"]),
    ({"groups": ["night"]}, ["front"]),
    ({"groups": ["day"]}, []),
    ({"collections": ["default"]}, ["back", "front", "front"]),
    ({"collections": ["other"]}, []),
]


def test_a_webhook_is_told_what_its_filters_let_through(api, helpers, receive, hook, deliver):
    ann = api.person("Ann", helpers.unit_vector(1))
    api.ok("POST", "/v1/collections", json={"name": "other"})
    for group in ("night", "day"):
        api.ok("POST", "/v1/groups", json={"collection": "default", "name": group, "id": group})
    api.ok("PUT", "/v1/groups/night/persons", json={"add": [ann]})
    receivers = [receive() for _ in FILTERED]
    hooks = [
        hook(receiver, **filters)
        for receiver, (filters, _) in zip(receivers, FILTERED, strict=True)
    ]
    see(api, helpers)
    see(api, helpers, camera="back")
    see(api, helpers, seed=1)
    deliver(api)
    for made, receiver, (filters, cameras) in zip(hooks, receivers, FILTERED, strict=True):
        assert {name: made[name] for name in filters} == filters
        wait_until(lambda made=made: state(api, made)["waiting"] == 0, "an empty queue")
        assert sorted(event["camera"] for event in receiver.taken) == cameras, filters


def test_two_processes_never_deliver_at_once_and_one_takes_over(
    make_api, helpers, receive, deliver
):
    first, second = make_api(), make_api()
    receiver = receive()
    first.ok("POST", "/v1/webhooks", json={"url": receiver.url})
    one = deliver(first)
    see(first, helpers)
    wait_until(lambda: len(receiver.taken) == 1, "a delivery")
    deliver(second)
    see(second, helpers, 10)
    wait_until(lambda: len(receiver.taken) == 11, "ten deliveries")
    one.close()
    see(first, helpers, 3)
    wait_until(lambda: len(receiver.taken) == 14, "deliveries of the other")
    assert len(receiver.calls) == 14


@on_sqlite
def test_a_removed_webhook_is_called_no_more(api, helpers, receive, hook, deliver):
    receiver = receive(500)
    made = hook(receiver)
    deliver(api)
    see(api, helpers)
    wait_until(lambda: receiver.calls, "a call")
    api.ok("DELETE", f"/v1/webhooks/{made['id']}")
    assert api.ok("GET", "/v1/webhooks")["items"] == []
    api.refused(404, "GET", f"/v1/webhooks/{made['id']}")
    api.refused(404, "POST", f"/v1/webhooks/{made['id']}/resend", json={})


@on_sqlite
def test_webhooks_are_for_administrators(api):
    for role in ("enroller", "searcher", "device", "viewer", None):
        status = 401 if role is None else 403
        api.refused(status, "GET", "/v1/webhooks", role)
        api.refused(status, "POST", "/v1/webhooks", role, json={"url": "http://127.0.0.1/x"})


@pytest.mark.parametrize(
    "url",
    [
        "ftp://example.org/",
        "file:///etc/passwd",
        "http:///x",
        "http://user:hush@example.org/",
        "http://example.org/#part",
        "http://example.org/a b",
        "http://example.org/a\x7fb",
        "http://[::1/",
        "http://example.org:99999/",
        "gopher://127.0.0.1:6379/_x",
        "x" * 2001,
    ],
)
def test_an_address_that_cannot_be_called_is_no_webhook(url):
    with pytest.raises(ValidationError):
        WebhookCreate(url=url)


@on_sqlite
def test_an_address_that_is_refused_is_not_repeated(api):
    body = api.refused(400, "POST", "/v1/webhooks", json={"url": "http://me:hush@example.org/"})
    assert "hush" not in json.dumps(body)


@pytest.mark.parametrize(
    ("host", "private", "allowed"),
    [
        ("127.0.0.1", True, True),
        ("127.0.0.1", False, False),
        ("[::1]", True, True),
        ("[::1]", False, False),
        ("[::ffff:127.0.0.1]", False, False),
        ("192.168.1.5", True, True),
        ("192.168.1.5", False, False),
        ("10.1.2.3", False, False),
        ("100.64.0.1", False, False),
        ("[fd00::1]", True, True),
        ("[fd00::1]", False, False),
        ("169.254.169.254", True, False),
        ("[::ffff:169.254.169.254]", True, False),
        ("[fe80::1]", True, False),
        ("0.0.0.0", True, False),
        ("224.0.0.1", True, False),
        ("255.255.255.255", True, False),
        ("8.8.8.8", False, True),
        ("2130706433", False, False),  # 127.0.0.1 as one number
        ("0x7f.1", False, False),
        ("100.64.0.1", True, True),
        ("172.32.0.1", False, True),
        ("[2606:4700::1111]", False, True),
        ("[64:ff9b::808:808]", False, True),  # 8.8.8.8 by NAT64
        # Where clouds give out credentials.
        ("[fd00:ec2::254]", True, False),
        ("[fd20:ce::254]", True, False),
        ("100.100.100.200", True, False),
        ("192.0.0.192", True, False),
        ("168.63.129.16", True, False),
        # Addresses that carry others inside, or are of no network.
        ("[64:ff9b::a9fe:a9fe]", True, False),
        ("[64:ff9b::a00:1]", True, False),
        ("[64:ff9b:1::a9fe:a9fe]", True, False),
        ("[2002:a9fe:a9fe::1]", True, False),
        ("[2001:0:4136:e378:8000:63bf:5601:5601]", True, False),
        ("[::169.254.169.254]", True, False),
        ("[fec0::1]", True, False),
        ("[ff02::1]", True, False),
        ("198.18.0.1", True, False),
        ("192.0.2.1", True, False),
        ("[2001:db8::1]", True, False),
        ("240.0.0.1", True, False),
    ],
)
def test_where_a_webhook_may_lead(host, private, allowed):
    parts = web_address(f"http://{host}/")
    try:
        assert addresses_of(parts, private=private)
        result = True
    except (Refused, Unavailable):
        result = False
    assert result is allowed


@on_sqlite
def test_a_private_address_that_the_settings_forbid_is_a_dead_letter(
    api, helpers, receive, hook, deliver
):
    receiver = receive()
    made = hook(receiver)
    deliver(api, private=False)
    see(api, helpers)
    wait_until(lambda: state(api, made)["dead"] == 1, "a dead letter")
    assert receiver.calls == []


def test_pauses_grow_and_differ():
    retry = RetryPolicy(first_pause_s=1, longest_pause_s=300)
    pauses = [{retry.pause(n) for _ in range(20)} for n in (1, 2, 3, 50)]
    for longest, drawn in zip((1, 2, 4, 300), pauses, strict=True):
        assert timedelta(seconds=longest / 2) <= min(drawn) < max(drawn)
        assert max(drawn) <= timedelta(seconds=longest)


@on_sqlite
def test_the_settings_reach_the_caller(make_services, tmp_path):
    assert Settings(data_dir=tmp_path).webhook_private_addresses
    services = make_services(webhook_timeout_s=3.0, webhook_private_addresses=False)
    caller = webhook_deliverer(services)._caller
    assert (caller.timeout_s, caller.private) == (3.0, False)


@pytest.mark.parametrize("host", ["a..b", ".a", f"{'a' * 64}.org", "a." + "b" * 70])
def test_a_host_name_that_is_none_is_refused(host):
    with pytest.raises(ValueError, match="host name"):
        web_address(f"http://{host}/")
    with pytest.raises((Refused, Unavailable)):
        addresses_of(urlsplit(f"http://{host}/"), private=True)


def test_a_name_that_leads_elsewhere_a_moment_later_is_called_where_it_was_looked_at(
    receive, monkeypatch
):
    look_up, requests = socket.getaddrinfo, []

    def rebind(host, *more, **options):
        if host == "rebound.test":
            requests.append(host)
            host = "127.0.0.1" if len(requests) == 1 else "169.254.169.254"
        return look_up(host, *more, **options)

    monkeypatch.setattr(socket, "getaddrinfo", rebind)
    receiver = receive()
    caller = Caller(timeout_s=5, private=True, version="test")
    assert caller._post(f"http://rebound.test:{receiver.port}/", {}, b'{"data": 1}') == 204
    assert requests == ["rebound.test"]
    ((headers, _),) = receiver.calls
    assert headers["Host"] == f"rebound.test:{receiver.port}"


@on_sqlite
def test_an_address_that_an_earlier_version_took_is_a_dead_letter_and_no_traceback(
    api, helpers, receive, hook, deliver, caplog
):
    made = hook(receive())
    with api.services.database.write() as session:
        session.execute(update(Webhook).values(url="http://a..b/"))
    deliver(api)
    see(api, helpers)
    wait_until(lambda: state(api, made)["dead"] == 1, "a dead letter")
    (letter,) = api.ok("GET", f"/v1/webhooks/{made['id']}/dead")["items"]
    assert "empty label" in letter["reason"]
    assert "Traceback" not in caplog.text


class _Dripping:
    """Accepts connections, and sends single bytes until the client closes."""

    def __init__(self, first):
        self._first = first
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"{'https' if first == b'' else 'http'}://127.0.0.1:{self.port}/"
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def port(self):
        return self._listener.getsockname()[1]

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                with connection, contextlib.suppress(OSError):
                    connection.sendall(self._first)
                    for _ in range(200):
                        connection.sendall(b"x")
                        time.sleep(0.05)

    def close(self):
        self._listener.close()


@pytest.mark.parametrize("first", [b"HTTP/1.1 20", b"HTTP/1.1 200 OK\r\nX: ", b""])
def test_a_receiver_that_drips_is_given_up_in_time(first):
    dripping = _Dripping(first)
    caller = Caller(timeout_s=0.3, private=True, version="test")
    started_s = time.monotonic()
    with contextlib.closing(dripping), pytest.raises((TimeoutError, ssl.SSLError)):
        caller._post(dripping.url, {}, b"{}")
    assert time.monotonic() - started_s < 5


def test_a_receiver_with_a_trusted_certificate_is_told_over_tls_and_no_other(
    tmp_path, monkeypatch, receive
):
    trusted = trustme.CA()
    trusted.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    caller = Caller(timeout_s=5, private=True, version="test")
    for authority, taken in ((trusted, True), (trustme.CA(), False)):
        receiver = receive()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(context)
        receiver._server.socket = context.wrap_socket(receiver._server.socket, server_side=True)
        url = f"https://127.0.0.1:{receiver.port}/hook?a=b"
        if taken:
            assert caller._post(url, {"Content-Type": "application/json"}, b'{"data": 1}') == 204
            ((headers, body),) = receiver.calls
            assert headers["Host"] == f"127.0.0.1:{receiver.port}"
            assert body == b'{"data": 1}'
        else:
            with pytest.raises(ssl.SSLCertVerificationError):
                caller._post(url, {}, b"{}")
            assert receiver.calls == []

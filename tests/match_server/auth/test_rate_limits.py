"""Rate limits: too many requests get 429, wrong keys are not checked, valid keys go on."""

from types import SimpleNamespace

import pytest

from match_server.schemas.keys import KeyCreate
from match_server.services.auth.rate_limits import Limits
from shared.errors import ConfigurationError, RateLimited


@pytest.fixture(autouse=True)
def within_a_minute(monkeypatch):
    """The library's windows begin at each minute: a test must not reach the next one."""
    monkeypatch.setattr("limits.storage.memory.time", SimpleNamespace(time=lambda: 1_000_000.0))


WRONG = {"Authorization": "Bearer muster_0_wrong"}


def test_a_key_that_asks_too_often_is_told_when_to_come_back(make_api):
    api = make_api(requests_per_minute=5)
    for _ in range(5):
        api.ok("GET", "/v1/collections", "viewer")
    response = api.call("GET", "/v1/collections", "viewer")
    assert response.status_code == 429
    assert response.get_json()["code"] == "rate_limited"
    assert 1 <= int(response.headers["Retry-After"]) <= 60
    api.ok("GET", "/v1/collections", "admin")  # another key is another matter


def test_wrong_keys_are_soon_refused_unseen_and_good_ones_go_on(make_api):
    api = make_api(bad_keys_per_minute=3)
    api.ok("GET", "/v1/collections", "viewer")  # a box behind the same address
    for _ in range(3):
        api.refused(401, "GET", "/v1/collections", None, headers=WRONG)
    response = api.call("GET", "/v1/collections", None, headers=WRONG)
    assert response.status_code == 429
    assert int(response.headers["Retry-After"]) >= 1
    never_seen = api.services.keys.create(KeyCreate(role="viewer", name="guessed")).key
    guessed = {"Authorization": f"Bearer {never_seen}"}
    assert api.call("GET", "/v1/collections", None, headers=guessed).status_code == 429
    api.ok("GET", "/v1/collections", "viewer")
    elsewhere = {"REMOTE_ADDR": "192.0.2.7"}
    api.refused(401, "GET", "/v1/collections", None, headers=WRONG, environ_overrides=elsewhere)


def test_without_a_key_nothing_is_counted_as_a_wrong_one(make_api):
    api = make_api(bad_keys_per_minute=2)
    for _ in range(5):
        api.refused(401, "GET", "/v1/collections", None)
    api.refused(401, "GET", "/v1/collections", None, headers=WRONG)


def test_a_revoked_key_is_refused_even_where_it_was_good_before(make_api):
    api = make_api(bad_keys_per_minute=1)
    api.ok("GET", "/v1/collections", "viewer")
    api.ok("DELETE", f"/v1/keys/{api.key('viewer').split('_')[1]}")
    api.refused(401, "GET", "/v1/collections", "viewer")


def test_the_login_says_that_a_key_is_wrong_and_that_there_were_too_many(make_api):
    api = make_api(bad_keys_per_minute=2)
    for _ in range(2):
        page = api.client.post("/login", data={"key": "muster_0_x"})
        assert page.status_code == 401
        assert "This key is unknown" in page.get_data(as_text=True)
        assert 'role="alert"' in page.get_data(as_text=True)
    page = api.client.post("/login", data={"key": "muster_0_x"})
    assert page.status_code == 429
    assert "Retry-After" in page.headers
    assert "Too many wrong keys" in page.get_data(as_text=True)


def test_the_clients_address_is_that_which_a_trusted_proxy_tells(make_api):
    for proxies, expected in ((0, 429), (1, 401)):
        api = make_api(bad_keys_per_minute=1, trusted_proxies=proxies)
        for number in range(2):
            headers = {**WRONG, "X-Forwarded-For": f"192.0.2.{number}"}
            response = api.call("GET", "/v1/collections", None, headers=headers)
        assert response.status_code == expected


def test_all_addresses_of_one_ipv6_network_count_as_one(make_api):
    api = make_api(bad_keys_per_minute=10)

    def guess(address, path, **arguments):
        origin = {"REMOTE_ADDR": address}
        return api.call("POST", path, None, environ_overrides=origin, **arguments).status_code

    codes = [
        guess(f"2001:db8::{n:x}", "/v1/devices/enroll", json={"code": "ABCD-1234"})
        for n in range(11)
    ]
    assert codes == [401] * 10 + [429]
    keys = [guess(f"2001:db8::{n:x}", "/login", data={"key": "muster_0_x"}) for n in range(11)]
    assert keys == [401] * 10 + [429]
    for elsewhere in ("2001:db8:0:1::1", "192.0.2.1", "::ffff:192.0.2.1"):
        assert guess(elsewhere, "/login", data={"key": "muster_0_x"}) == 401


def test_0_is_no_limit():
    limits = Limits(per_key=0, bad_keys=0)
    for _ in range(1000):
        limits.admit("a")
        limits.before_key("192.0.2.1", "wrong")
        limits.bad_key("192.0.2.1")


def test_the_defaults_let_a_box_deliver_its_backlog(settings):
    """A device sends 256 probes per request, and only a few requests per second."""
    limits = Limits(per_key=settings.requests_per_minute, bad_keys=settings.bad_keys_per_minute)
    for _ in range(20_000):
        limits.admit("box")


def test_counting_a_request_begins_no_thread(monkeypatch):
    limits = Limits(per_key=100, bad_keys=100)
    limits._counters.storage.timer.join()  # the one of the library's own, that ends by itself

    def begun(thread):
        raise AssertionError(f"{thread.name} was begun")

    monkeypatch.setattr("threading.Thread.start", begun)
    for _ in range(50):
        limits.admit("a")
        limits.before_key("192.0.2.1", "wrong")
        limits.bad_key("192.0.2.1")


def test_windows_that_have_ended_are_forgotten(monkeypatch):
    limits = Limits(per_key=1, bad_keys=0)
    for minute in range(0, 30, 3):
        monkeypatch.setattr("time.time", lambda at=1e9 + 60 * minute: at)
        limits.admit(f"key {minute}")
        limits.admit("a")
        with pytest.raises(RateLimited):
            limits.admit("a")
    assert len(limits._counters.storage.storage) <= 4


def test_a_store_that_is_none_is_named():
    with pytest.raises(ConfigurationError, match="rate_limit_store"):
        Limits(per_key=1, bad_keys=1, store="nonsense")


def test_a_shared_store_that_does_not_answer_refuses_nobody(monkeypatch, caplog):
    from limits.errors import StorageError

    limits = Limits(per_key=1, bad_keys=1)

    def away(*_):
        raise StorageError(ConnectionError("away"))

    monkeypatch.setattr(limits._counters, "hit", away)
    monkeypatch.setattr(limits._counters, "test", away)
    for _ in range(3):
        limits.admit("a")
        limits.before_key("192.0.2.1", "x")
    assert "is not available" in caplog.text


def test_good_keys_that_are_remembered_are_bounded(monkeypatch):
    monkeypatch.setattr("match_server.services.auth.rate_limits._REMEMBERED", 3)
    limits = Limits(per_key=0, bad_keys=1)
    for number in range(5):
        limits.good_key(f"key {number}")
    limits.bad_key("192.0.2.1")
    limits.before_key("192.0.2.1", "key 4")
    with pytest.raises(RateLimited):
        limits.before_key("192.0.2.1", "key 0")

"""The pages about boxes: their content, their guard, and the codes that an admin makes."""

import re

from shared.enrollment_code import Invitation
from tests.support.health_reports import health


def page(api, path="/devices", **arguments):
    return api.client.get(path, base_url="http://localhost", **arguments)


def test_the_page_needs_a_key_or_this_machine(make_api):
    assert page(make_api()).status_code == 302
    assert page(make_api(open_page=True)).status_code == 200


def test_health_gaps_configuration_and_the_ledger_are_there(make_api, helpers):
    api = make_api(open_page=True)
    api.ok("POST", "/v1/devices", json={"name": "door-1", "site": "hq"})
    assert "No health report yet" in page(api).get_data(as_text=True)
    ledger = {"camera": "front", "day": "2026-11-22", "tracks": 9, "with_probe": 3}
    api.ok(
        "POST",
        "/v1/devices/door-1/health",
        json=health(
            api.clock,
            temperature_c=83.0,
            throttled=True,
            problems=["This box's <b>clock</b> is off"],
            gave_up=["liveness"],
            cameras=[{"camera": "front", "state": "lost", "fps": 0, "frames": 7, "dropped": 0}],
            ledger=[{**ledger, "reasons": {"yaw": 4, "pitch": 1, "interocular": 1}}],
        ),
    )
    api.send(*[api.probe(helpers.unit_vector(1), sequence=number) for number in (1, 5, 9)])
    api.ok("PUT", "/v1/devices/door-1/config", json={"config": {"log_level": "DEBUG"}})
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page(api).get_data(as_text=True)))
    for shown in (
        "83 °C",
        "throttled",
        "Switched off liveness",
        "&lt;b&gt;clock",
        "3 of 9 faces were good enough",
        "turned away 5",
        "too small 1",
        "revision 1 waiting",
        "6 missing",
        "6–8, 2–4",
    ):
        assert shown in text, shown


def test_an_invitation_is_for_an_admin_and_shown_as_a_picture(make_api):
    api = make_api(open_page=True, public_url="https://muster.example")
    api.ok("POST", "/v1/devices", json={"name": "door-1"})
    path = "/devices/door-1/invite"

    def post(key):
        return api.client.post(path, data={"key": key}, base_url="http://localhost")

    assert page(api, path).status_code == 200
    assert post("nonsense").status_code == 401
    assert post(api.key("viewer")).status_code == 403
    made = post(api.key("admin"))
    text = made.get_data(as_text=True)
    assert made.status_code == 200
    assert "<svg" in text
    assert "style=" not in text, "the page's policy allows no inline styles"
    code = re.search(r"[0-9A-Z]{4}-[0-9A-Z]{4}", text).group()
    assert f"--server https://muster.example {code}" in text
    granted = api.ok("POST", "/v1/devices/enroll", None, json={"code": code})
    assert granted["device"] == "door-1"
    assert Invitation.read(f"muster:enroll?server=https://muster.example&code={code}")
    missing = api.client.post(
        "/devices/nobody/invite", data={"key": api.key("admin")}, base_url="http://localhost"
    )
    assert missing.status_code == 404


def test_an_invitation_never_names_a_server_that_the_browser_named(make_api):
    api = make_api()
    api.ok("POST", "/v1/devices", json={"name": "door-1"})
    api.client.post("/login", data={"key": api.key("viewer")})
    cookie = f"muster_session={api.client.get_cookie('muster_session').value}"
    browser = api.client.application.test_client(use_cookies=False)

    def invite(scheme):
        return browser.post(
            "/devices/door-1/invite",
            data={"key": api.key("admin")},
            headers={"Host": "evil.example", "Cookie": cookie},
            environ_overrides={"wsgi.url_scheme": scheme},
        )

    made = invite("http").get_data(as_text=True)
    assert "--server http://localhost:80 " in made
    assert "evil.example" not in made
    by_tls = invite("https")
    assert by_tls.status_code == 409
    assert "public_url" in by_tls.get_data(as_text=True)


def test_boxes_that_need_somebody_come_first(make_api):
    api = make_api(open_page=True)
    for name in ("door-1", "door-2", "door-3"):
        api.ok("POST", "/v1/devices", json={"name": name})
    api.ok("POST", "/v1/devices/door-2/health", json=health(api.clock, device="door-2"))
    ill = health(api.clock, device="door-3", problems=["The disk is full"])
    api.ok("POST", "/v1/devices/door-3/health", json=ill)
    text = page(api).get_data(as_text=True)
    assert re.findall(r"<h2>(door-\d)</h2>", text) == ["door-3", "door-1", "door-2"]
    assert "2 online, <strong>1 offline</strong>, <strong>1 with problems</strong>" in text

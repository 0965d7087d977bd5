"""Pages in a real browser: people in view, connections to the server, and enrollment."""

import base64
import shutil
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import cv2
import numpy as np
import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from models.samples import sample_path
from shared.ids import new_id
from tests.end_to_end.conftest import RunningServer

_TIMEOUT_S = 60

pytestmark = pytest.mark.skipif(
    shutil.which("chromium") is None or shutil.which("chromedriver") is None,
    reason="needs Debian's chromium and chromium-driver (./dev setup --all)",
)


@pytest.fixture(scope="module")
def browser():
    options = webdriver.ChromeOptions()
    for switch in ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
                   "--disable-background-networking", "--disable-sync",
                   "--host-resolver-rules=MAP *.lan 127.0.0.1"):  # fmt: skip
        options.add_argument(switch)
    service = webdriver.ChromeService(executable_path=shutil.which("chromedriver"))
    with webdriver.Chrome(options=options, service=service) as driver:
        driver.set_page_load_timeout(_TIMEOUT_S)
        yield driver


@pytest.fixture
def server(running_server):
    return Site(running_server)


class Site:
    """A server, the messages of a box, and a visitor of its pages."""

    def __init__(self, running: RunningServer) -> None:
        self.base = running.url
        self._admin = running.session("admin")

    def post(self, path, body):
        answer = self._admin.post(self.base + path, json=body, timeout=_TIMEOUT_S)
        assert answer.ok, answer.text

    def probe(self, track, captured_at):
        vector = np.eye(512, dtype="<f2")[0]
        message = {
            "schema_version": 1, "probe_id": new_id(), "device": "box", "camera": "front",
            "sequence": 1, "captured_at": captured_at.isoformat(), "track_id": track,
            "model_id": "compact-mobilefacenet-512@1",
            "template": base64.b64encode(vector.tobytes()).decode(),
            "quality": {"score": 0.8, "factors": []}, "detection_score": 0.95,
            "box": [10.0, 20.0, 110.0, 140.0], "frame_size": [1280, 720],
        }  # fmt: skip
        self.post("/v1/probes", message)

    def track(self, track, state, in_view):
        now = datetime.now(UTC).isoformat()
        self.post(
            "/v1/tracks",
            {"device": "box", "camera": "front", "track_id": track, "state": state}
            | {"at": now, "began_at": now, "in_view": in_view, "probes": 1},
        )

    def persons(self):
        path = f"{self.base}/v1/collections/default/persons"
        return self._admin.get(path, timeout=_TIMEOUT_S).json()["items"]

    def sign_in(self, browser, base=None):
        self._give_key(browser, "/login", base)
        text_is(browser, "#state-text", "Live")

    def edit_people(self, browser):
        self.sign_in(browser)
        self._give_key(browser, "/edit?next=/people")
        WebDriverWait(browser, _TIMEOUT_S).until(
            lambda driver: driver.find_elements(By.CSS_SELECTOR, "form.enroll")
        )

    def _give_key(self, browser, page, base=None):
        browser.get((base or self.base) + page)
        browser.find_element(By.NAME, "key").send_keys(
            self._admin.headers["Authorization"].removeprefix("Bearer ")
        )
        browser.find_element(By.CSS_SELECTOR, "form button:not([type=button])").click()


def text_is(browser, selector, *texts):
    def shown(driver):
        return driver.find_element(By.CSS_SELECTOR, selector).text in texts

    WebDriverWait(browser, _TIMEOUT_S, ignored_exceptions=()).until(shown, f"{selector}: {texts}")


class _Foreign(BaseHTTPRequestHandler):
    """A page of another site, whose button signs the visitor in with a foreign key."""

    def do_GET(self):
        address, key = self.server.signs_in
        page = f'<form method="post" action="{address}/login"><input name="key" value="{key}">'
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(f"{page}<button>Win</button></form>".encode())

    def log_message(self, *_about):
        pass


@contextmanager
def _foreign_page(base, key):
    with ThreadingHTTPServer(("127.0.0.1", 0), _Foreign) as foreign:
        foreign.signs_in = base, key
        thread = Thread(target=foreign.serve_forever)
        thread.start()
        yield f"http://evil.lan:{foreign.server_port}/"
        foreign.shutdown()
        thread.join()


def test_without_tls_our_own_form_signs_in_and_that_of_another_site_does_not(browser, server):
    """Under a local network name a browser sends the origin of a form in `Origin` only."""
    base = server.base.replace("127.0.0.1", "muster.lan")
    key = server._admin.headers["Authorization"].removeprefix("Bearer ")
    with _foreign_page(base, key) as address:
        browser.get(address)
        browser.find_element(By.CSS_SELECTOR, "button").click()
        text_is(browser, "main p", "This form was sent by a page of another site: open the page "
                "and try again.")  # fmt: skip
        assert browser.get_cookie("muster_session") is None
    server.sign_in(browser, base)


def test_who_stands_still_is_there_until_the_box_says_otherwise(browser, server):
    track = new_id()
    ago = datetime.now(UTC) - timedelta(minutes=10)
    server.track(track, "began", 1)
    server.probe(track, ago)
    server.sign_in(browser)
    text_is(browser, ".camera-card .presence", "now")
    text_is(browser, ".camera-card .present .name", "Unknown")
    server.track(track, "ended", 0)
    text_is(browser, ".camera-card .presence", "last seen 10 min ago", "last seen 11 min ago")


def test_page_after_page_and_tab_after_tab_stays_connected(browser, server):
    """A closed page uses no stream of the server, a hidden one no connection."""
    server.sign_in(browser)
    for _ in range(6):
        browser.get(f"{server.base}/people")
        browser.get(f"{server.base}/")
    text_is(browser, "#state-text", "Live")
    for _ in range(8):
        browser.switch_to.new_window("tab")
        browser.get(f"{server.base}/")
        text_is(browser, "#state-text", "Live", "Live, updated every 5 s")


def test_of_a_photo_with_two_faces_the_one_that_is_pressed_is_enrolled(browser, server, tmp_path):
    photo = tmp_path / "two.png"
    cv2.imwrite(str(photo), side_by_side("obama.jpg", "biden.jpg"))
    server.edit_people(browser)
    form = browser.find_element(By.CSS_SELECTOR, "form.enroll")
    form.find_element(By.NAME, "name").send_keys("Joe")
    form.find_element(By.NAME, "photos").send_keys(str(photo))
    form.find_element(By.CSS_SELECTOR, ".actions button").click()
    verdict = (By.CSS_SELECTOR, "form.enroll .verdicts li")
    faces = WebDriverWait(browser, _TIMEOUT_S).until(
        lambda driver: driver.find_elements(By.CSS_SELECTOR, ".verdicts .faces button")
    )
    assert len(faces) == 2
    assert "Which one is meant?" in browser.find_element(*verdict).text
    assert not server.persons()
    faces[1].click()
    (line,) = WebDriverWait(browser, _TIMEOUT_S).until(
        lambda driver: driver.find_elements(By.CSS_SELECTOR, ".verdicts li[data-state=good]")
    )
    assert "Face 2 of 2 by size was taken." in line.text
    assert browser.find_element(By.CSS_SELECTOR, ".verdicts .outcome").text == "See the person"
    assert [(one["name"], one["templates"]) for one in server.persons()] == [("Joe", 1)]


def side_by_side(*names):
    pictures = [cv2.imread(str(sample_path(name))) for name in names]
    return np.hstack([cv2.resize(picture, (480, 600)) for picture in pictures])

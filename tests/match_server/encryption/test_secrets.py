"""Secrets that the server needs are stored encrypted if there is a master key."""

import json

import pytest
from click.testing import CliRunner
from sqlalchemy import select

from match_server.commands.cli import main
from match_server.db.tables import DeviceConfiguration, Webhook
from match_server.process.notifiers import webhook_deliverer
from match_server.schemas.devices import ConfigPut, DeviceCreate
from match_server.schemas.webhooks import WebhookCreate
from match_server.services.webhooks.calls import Outcome, Result
from match_server.services.webhooks.signing import secret_text
from shared.encryption import Key, Keyring
from shared.errors import KeyMissing

PASSWORD = "camera-password-4711"
DESIRED = {"cameras": [{"name": "front", "source": f"rtsp://u:{PASSWORD}@192.0.2.1/1"}]}


@pytest.fixture
def key_file(tmp_path):
    file = tmp_path / "master.keys"
    file.write_text(Key.new().text)
    return file


def _fill(services):
    """Store a webhook and a desired configuration. Returns the secret of the webhook."""
    services.devices.announce(DeviceCreate(name="door-1", site="home"))
    services.configurations.desire("door-1", ConfigPut(config=DESIRED))
    made = services.webhooks.create(WebhookCreate(url="http://127.0.0.1:9/hook"))
    return made.secret


def _rows(services):
    with services.database.read() as session:
        return session.scalars(select(Webhook)).one(), session.scalars(
            select(DeviceConfiguration)
        ).one()


def _lies_open(services):
    webhook, configuration = _rows(services)
    return (len(webhook.secret) == 32, PASSWORD in json.dumps(configuration.desired))


def _secret(services):
    return secret_text(services.secrets.of_webhook(_rows(services)[0]))


def test_they_are_sealed_and_still_known(make_services, key_file):
    services = make_services(encryption_key_file=key_file)
    secret = _fill(services)
    assert _lies_open(services) == (False, False)
    assert _secret(services) == secret
    assert services.configurations.get("door-1").config == DESIRED
    assert services.configurations.desired()[0].desired.config == DESIRED
    again = services.configurations.desire("door-1", ConfigPut(config=DESIRED))
    assert again.revision == 1  # the same is no news, however it is sealed


def test_without_a_master_key_they_are_kept_as_they_are_and_sealed_when_there_is_one(
    make_services, key_file
):
    open_ = make_services()
    secret = _fill(open_)
    assert _lies_open(open_) == (True, True)
    services = make_services(encryption_key_file=key_file)  # the next start
    assert _lies_open(services) == (False, False)
    assert _secret(services) == secret
    assert services.configurations.get("door-1").config == DESIRED


@pytest.mark.backends("sqlite")
def test_a_rotation_covers_them_and_the_list_counts_them(make_services, key_file):
    services = make_services(encryption_key_file=key_file)
    secret = _fill(services)
    old = Keyring.from_file(key_file).current.id.hex()
    environment = {"MUSTER_ENCRYPTION_KEY_FILE": str(key_file)}

    def run(*arguments):
        command = ["keyring", *arguments, "--json", "--data-dir", str(services.settings.data_dir)]
        return json.loads(CliRunner().invoke(main, command, env=environment).stdout)

    assert run("rotate")["secrets"] == 2
    listed = {one["id"]: one["secrets"] for one in run("list")["keys"]}
    assert (listed[old], sum(listed.values())) == (0, 2)
    key_file.write_text(Keyring.from_file(key_file).current.text)  # the old key goes
    assert _secret(make_services(encryption_key_file=key_file)) == secret
    assert _secret(services) == secret  # the running server finds the new key by itself


@pytest.mark.backends("sqlite")
def test_without_their_key_the_receiver_is_tried_later_and_the_doctor_says_why(
    make_services, key_file
):
    services = make_services(encryption_key_file=key_file)
    _fill(services)
    keyless = make_services()
    with pytest.raises(KeyMissing):
        keyless.configurations.get("door-1")
    assert keyless.secrets.locked(keyless.database) == 2
    deliverer = webhook_deliverer(keyless)

    class Progress:
        taken, failed, failures, failing_since, gone = [], [], 0, None, None

    progress = Progress()
    notification = type("Told", (), {"event": type("Event", (), {"id": "e"})()})()
    deliverer._call(_rows(keyless)[0], notification, progress)
    ((_, answer),) = progress.failed
    assert answer.outcome is Outcome.LATER
    assert "secret cannot be decrypted" in answer.reason
    assert isinstance(answer, Result)
    command = ["doctor", "--json", "--data-dir", str(services.settings.data_dir)]
    checks = json.loads(CliRunner().invoke(main, command).stdout)["checks"]
    (one,) = [one for one in checks if one["name"] == "encryption"]
    assert (one["ok"], one["message"][:9]) == (False, "2 secrets")


@pytest.mark.backends("sqlite")
def test_a_configuration_that_looks_like_a_sealed_one_is_refused(api):
    api.ok("POST", "/v1/devices", json={"name": "door-1"})
    body = {"config": {"sealed": "AAAA"}}
    assert "sealed" in api.refused(400, "PUT", "/v1/devices/door-1/config", json=body)["message"]

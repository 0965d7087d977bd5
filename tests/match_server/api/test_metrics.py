"""Metrics for Prometheus: they count for all processes, and contain no names of people."""

import re

import pytest
from prometheus_client.parser import text_string_to_metric_families

on_sqlite = pytest.mark.backends("sqlite")  # nothing in it depends on the database


@pytest.fixture
def figures():
    """Reads the samples of /metrics, by name and labels."""

    def read(api, role=None):
        response = api.call("GET", "/metrics", role)
        assert response.status_code == 200, response.get_data(as_text=True)
        families = text_string_to_metric_families(response.get_data(as_text=True))
        return {
            (sample.name, *sorted(sample.labels.items())): sample.value
            for family in families
            for sample in family.samples
        }

    return read


def test_probes_and_requests_are_counted(api, helpers, figures):
    ann = helpers.unit_vector(1)
    api.person("Ann", ann)
    probe = api.probe(ann)
    api.send(probe, probe, {**api.probe(ann), "model_id": "other@1"})
    api.search(ann)
    values = figures(api)
    for status in ("accepted", "duplicate", "refused"):
        assert values["muster_probes_total", ("status", status)] == 1
    decision = ("muster_probe_decisions_total", ("decision", "identified"), ("live", "true"))
    assert values[decision] == 1
    for stage in ("decode", "search", "store"):
        assert values["muster_probe_stage_seconds_count", ("stage", stage)] == 1
    assert values["muster_gallery_scan_searches_count",] >= 2
    request = (
        "muster_request_seconds_count",
        ("method", "POST"),
        ("rule", "/v1/collections/<collection>/search"),
        ("status", "200"),
    )
    assert values[request] == 1


def test_a_process_reports_the_lag_of_its_galleries_and_its_connections(api, helpers, figures):
    api.person("Ann", helpers.unit_vector(1))
    api.search(helpers.unit_vector(1))
    assert figures(api)["muster_gallery_lag",] == 0
    api.person("Bob")
    api.person("Eve")
    values = figures(api)
    assert values["muster_gallery_lag",] == 2
    assert values["muster_gallery_damaged_templates",] == 0
    assert values["muster_database_connections", ("state", "most")] >= 20
    with api.services.database.read() as session:
        session.connection()
        busy = figures(api)["muster_database_connections", ("state", "in_use")]
    assert busy == figures(api)["muster_database_connections", ("state", "in_use")] + 1
    api.search(helpers.unit_vector(1))
    assert figures(api)["muster_gallery_lag",] == 0


def test_a_process_counts_the_lookups_of_its_cache_of_persons(api, helpers, figures):
    ann = api.person("Ann", helpers.unit_vector(1))
    api.search(helpers.unit_vector(1))
    values = figures(api)
    assert values["muster_person_cache_lookups", ("outcome", "miss")] == 1
    assert values["muster_person_cache_bytes",] > 0
    api.search(helpers.unit_vector(1))
    assert figures(api)["muster_person_cache_lookups", ("outcome", "hit")] == 1
    api.ok("PATCH", f"/v1/collections/default/persons/{ann}", json={"name": "Anna"})
    api.search(helpers.unit_vector(1))
    assert figures(api)["muster_person_cache_lookups", ("outcome", "miss")] == 2


def test_gauges_are_read_from_the_database(api, helpers, figures):
    api.person("Ann", helpers.unit_vector(1))
    api.send(*(api.probe(helpers.unit_vector(1), sequence=n) for n in (1, 5)))
    made = api.ok("POST", "/v1/webhooks", json={"url": "http://127.0.0.1:9/"})
    api.send(api.probe(helpers.unit_vector(2), sequence=6))
    values = figures(api)
    assert values["muster_gallery_templates", ("collection", "default")] == 1
    assert values["muster_device_missing_probes", ("device", "door-1")] == 3
    assert values["muster_webhook_waiting", ("webhook", made["id"])] == 1
    assert values["muster_webhook_dead", ("webhook", made["id"])] == 0
    assert values["muster_change_feed_position",] >= 2
    assert values["muster_disk_free_bytes",] > 0


@on_sqlite
def test_no_name_of_a_person_and_no_path_is_a_label(api, helpers, figures):
    person = api.person("Ann Onymous", helpers.unit_vector(1), id="onymous")
    api.ok("GET", f"/v1/collections/default/persons/{person}")
    api.call("GET", "/no/such/onymous")
    text = api.call("GET", "/metrics", None).get_data(as_text=True)
    assert "nymous" not in text
    assert 'rule="(none)"' in text


@on_sqlite
def test_a_key_is_needed_where_the_settings_say_so(make_api, figures):
    api = make_api(metrics_need_key=True)
    api.refused(401, "GET", "/metrics", None)
    api.refused(403, "GET", "/metrics", "device")
    assert figures(api, "viewer")


@on_sqlite
def test_every_metric_has_a_help_text(api):
    text = api.call("GET", "/metrics", None).get_data(as_text=True)
    named = set(re.findall(r"^# TYPE (\S+)", text, re.MULTILINE))
    explained = set(re.findall(r"^# HELP (\S+) \S", text, re.MULTILINE))
    assert named
    assert named == explained

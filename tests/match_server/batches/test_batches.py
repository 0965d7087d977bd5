"""Batches: a verdict for each item, independent failures, bounded memory."""

import base64
import io
import json
import tracemalloc
from functools import partial
from itertools import chain

import pytest
from PIL import Image
from sqlalchemy import func, select

from match_server.db.tables import Change, Person, Template
from match_server.schemas.batches import AcceptedTemplate, BatchLine, BatchQuery, BatchVerdict
from match_server.schemas.persons import PersonName
from match_server.services.batches import bulk
from shared.errors import NotFound

ENROLL = "/v1/collections/default/enroll"
PERSONS = "/v1/collections/default/persons"
NDJSON = "application/x-ndjson"
RED, GREEN, BLUE, DARK = (0, 0, 200), (0, 200, 0), (200, 0, 0), (10, 20, 5)


def _verdicts(response):
    assert response.status_code == 200, response.get_data(as_text=True)
    assert response.mimetype == NDJSON
    return [json.loads(line) for line in response.get_data(as_text=True).splitlines()]


def _files(api, *files, role="admin", **query):
    parts = [(io.BytesIO(data), name) for name, data in files]
    return _verdicts(api.call("POST", ENROLL, role, data={"images": parts}, query_string=query))


def _lines(api, *lines, **query):
    text = "".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines)
    arguments = {"data": text.encode(), "content_type": NDJSON, "query_string": query}
    return _verdicts(api.call("POST", ENROLL, **arguments))


def _vector_line(helpers, name, seed, **more):
    vector = helpers.encode(helpers.unit_vector(seed))
    return {"name": name, "template": vector, "model_id": helpers.MODEL, **more}


def _statuses(verdicts):
    return [one["status"] for one in verdicts]


def test_files_named_by_person_are_enrolled_and_found(api, helpers):
    verdicts = _files(
        api,
        ("Ann/a.png", helpers.paint((RED, 80))),
        ("Ann/b.png", helpers.paint((RED, 70))),
        ("Zoë Ångström/c.png", helpers.paint((GREEN, 80))),
    )
    assert _statuses(verdicts) == ["accepted"] * 3
    assert [one["file"] for one in verdicts] == ["Ann/a.png", "Ann/b.png", "Zoë Ångström/c.png"]
    assert [one["index"] for one in verdicts] == [0, 1, 2]
    assert verdicts[0]["person"] == verdicts[1]["person"]
    persons = api.ok("GET", PERSONS)["items"]
    assert [(one["name"], one["images"]) for one in persons] == [("Ann", 2), ("Zoë Ångström", 1)]
    red = helpers.unit_vector(int.from_bytes(bytes(RED), "big"))
    assert api.names(red, limit=1, min_seq=verdicts[-1]["seq"]) == ["Ann"]


def test_one_bad_picture_never_fails_the_rest_and_makes_no_person(api, helpers):
    verdicts = _files(
        api,
        ("Ann/good.png", helpers.paint((RED, 80))),
        ("Bob/none.png", helpers.paint()),
        ("Cleo/dark.png", helpers.paint((DARK, 80))),
        ("Dan/text.png", b"no picture at all"),
        ("Eve/same.png", helpers.paint((RED, 90))),
        ("nobody.png", helpers.paint((GREEN, 80))),
        ("Fay/empty.png", b""),
        ("Gus/good.png", helpers.paint((BLUE, 80))),
    )
    assert [one.get("code") for one in verdicts] == [
        None,
        "no_face",
        "quality_refused",
        "unsupported_media",
        "conflict",
        "malformed",
        "malformed",
        None,
    ]
    assert verdicts[2]["details"]["reasons"] == ["brightness"]
    assert verdicts[4]["details"]["lookalike"]["name"] == "Ann"
    assert [one["name"] for one in api.ok("GET", PERSONS)["items"]] == ["Ann", "Gus"]
    assert api.ok("GET", "/v1/collections/default")["persons"] == 2


@pytest.mark.backends("sqlite")
def test_an_unexpected_fault_at_one_picture_is_its_verdict_and_goes_to_the_log(
    api, helpers, monkeypatch, caplog
):
    analyze = helpers.PaintedFaces.analyze

    def failing(self, image, *arguments, **options):
        if image[20, 20].tolist() == list(GREEN):
            raise ZeroDivisionError("in a decoder")
        return analyze(self, image, *arguments, **options)

    monkeypatch.setattr(helpers.PaintedFaces, "analyze", failing)
    verdicts = _files(
        api,
        ("Ann/a.png", helpers.paint((RED, 80))),
        ("Bob/b.png", helpers.paint((GREEN, 80))),
        ("Cleo/c.png", helpers.paint((BLUE, 80))),
    )
    assert [one.get("code") for one in verdicts] == [None, "internal", None]
    (record,) = [one for one in caplog.records if one.exc_info]
    assert (record.getMessage(), record.index) == ("Failed to enroll a picture", 1)
    assert [one["name"] for one in api.ok("GET", PERSONS)["items"]] == ["Ann", "Cleo"]


@pytest.mark.backends("sqlite")
def test_an_unexpected_fault_at_one_template_refuses_that_one_alone(
    api, helpers, monkeypatch, caplog
):
    write = bulk._write

    def failing(session, collection, ready, *others):
        if any(template.line.name == "P5" for template in ready):
            raise OverflowError("in a driver")
        return write(session, collection, ready, *others)

    monkeypatch.setattr(bulk, "_write", failing)
    verdicts = _lines(api, *[_vector_line(helpers, f"P{seed}", seed) for seed in range(9)])
    assert [verdict["index"] for verdict in verdicts if verdict.get("code") == "internal"] == [5]
    assert _statuses(verdicts).count("accepted") == 8
    assert [record.index for record in caplog.records if record.exc_info] == [5]
    assert api.ok("GET", "/v1/collections/default")["templates"] == 8


@pytest.mark.backends("sqlite")
def test_what_is_decoded_at_a_fraction_is_enrolled_beyond_the_limit_of_the_library(
    api, monkeypatch
):
    picture = Image.new("RGB", (128, 128))
    picture.paste((200, 200, 200), (16, 16, 96, 96))  # whole blocks: they stay one colour
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=100, subsampling=0)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    (verdict,) = _files(api, ("Ann/a.jpg", stream.getvalue()))
    assert verdict["status"] == "accepted"
    assert api.ok("GET", f"/v1/images/{verdict['image_id']}")["media_type"] == "image/jpeg"


def test_the_same_file_twice_is_recognised(api, helpers):
    picture = helpers.paint((RED, 80))
    first = _files(api, ("Ann/a.png", picture), ("Ann/copy.png", picture))
    assert _statuses(first) == ["accepted", "duplicate"]
    assert first[0]["template_id"] == first[1]["template_id"]
    again = _files(api, ("Ann/a.png", picture), ("Ann/b.png", helpers.paint((RED, 60))))
    assert _statuses(again) == ["duplicate", "accepted"]
    assert api.ok("GET", "/v1/collections/default")["templates"] == 2


def test_a_photo_that_was_not_kept_then_may_come_again_to_be_kept(api, helpers):
    picture = helpers.paint((RED, 80))
    _files(api, ("Ann/a.png", picture))
    kept = _files(api, ("Ann/a.png", picture), store=1)
    assert _statuses(kept) == ["accepted"]
    assert api.call("GET", f"/v1/images/{kept[0]['image_id']}/content").data == picture
    assert _statuses(_files(api, ("Ann/a.png", picture), store=1)) == ["duplicate"]


def test_force_enrolls_what_would_be_refused(api, helpers):
    dark, red = helpers.paint((DARK, 80)), helpers.paint((RED, 80))
    verdicts = _files(api, ("A/a.png", dark), ("B/b.png", red), ("C/c.png", red), force=1)
    assert _statuses(verdicts) == ["accepted"] * 3


def test_a_folder_may_be_named_by_a_persons_id(api, helpers):
    api.person("Ann", id="p-1")
    (verdict,) = _files(api, ("p-1/a.png", helpers.paint((RED, 80))))
    assert verdict["person"] == {"id": "p-1", "name": "Ann"}


def test_a_name_that_several_have_is_refused_until_the_id_is_given(api, helpers):
    api.person("Ann", id="a1")
    api.person("Ann", id="a2")
    picture = helpers.paint((RED, 80))
    (verdict,) = _files(api, ("Ann/a.png", picture))
    assert verdict["code"] == "conflict"
    image = base64.b64encode(picture).decode()
    vector = _vector_line(helpers, "Ann", 3)
    verdicts = _lines(
        api, {"person": "a2", "image": image}, vector, {**vector, "name": "x", "person": "a1"}
    )
    assert _statuses(verdicts) == ["accepted", "refused", "accepted"]
    assert [one.get("person", {}).get("id") for one in verdicts] == ["a2", None, "a1"]


def test_lines_bring_pictures_and_templates_with_what_is_known_of_the_person(api, helpers):
    api.ok("POST", "/v1/groups", json={"collection": "default", "name": "Day", "id": "day"})
    image = base64.b64encode(helpers.paint((RED, 80))).decode()
    verdicts = _lines(
        api,
        {"name": "Ann", "image": image, "metadata": {"floor": 1}, "file": "a.png"},
        _vector_line(helpers, "Bob", 1, metadata={"floor": 2}),
        _vector_line(helpers, "Bob", 2, metadata={"floor": 3}),
        _vector_line(helpers, "Cleo", 3, external_id="x-1", groups=["day"], person="cleo"),
        "\n",
        _vector_line(helpers, "Dan", 4, groups=["night"]),
    )
    assert _statuses(verdicts) == ["accepted"] * 4 + ["refused"]
    assert [one["index"] for one in verdicts] == [0, 1, 2, 3, 5]
    assert verdicts[0]["file"] == "a.png"
    persons = {one["name"]: one for one in api.ok("GET", PERSONS)["items"]}
    assert {name: one["metadata"] for name, one in persons.items()} == {
        "Ann": {"floor": 1},
        "Bob": {"floor": 2},
        "Cleo": {},
    }
    assert (persons["Bob"]["templates"], persons["Cleo"]["groups"]) == (2, ["day"])
    assert persons["Cleo"]["id"] == "cleo"
    condition = {"field": "metadata.floor", "op": "eq", "value": 2}
    assert api.names(helpers.unit_vector(1), filter=[condition]) == ["Bob"]


def test_a_line_that_cannot_be_read_is_named_and_the_others_go_on(api, helpers):
    good = _vector_line(helpers, "Ann", 1)
    verdicts = _lines(
        api,
        "not json\n",
        good,
        {"name": "x"},
        {"image": "AAAA"},
        {**good, "template": helpers.encode(helpers.unit_vector(1) * 2)},
        {**good, "model_id": "other@2"},
        {**good, "nam": "x"},
        {**good, "template": [0.1]},
        '{"name": "Ann", "template": "' + "x",
    )
    assert [one.get("code") for one in verdicts] == [
        "malformed",
        None,
        "malformed",
        "malformed",
        "malformed",
        "model_mismatch",
        "malformed",
        "malformed",
        "malformed",
    ]
    assert [one["index"] for one in verdicts] == list(range(9))
    assert api.ok("GET", "/v1/collections/default")["templates"] == 1


@pytest.mark.backends("sqlite")
def test_a_byte_order_mark_is_passed_over(api, helpers):
    lines = ["\ufeff", json.dumps(_vector_line(helpers, "Ann", 1)) + "\n"]
    assert _statuses(_lines(api, *lines)) == ["accepted"]
    assert _statuses(_lines(api, "\ufeff\n", lines[1])) == ["accepted"]
    assert _statuses(_lines(api, lines[1], *lines)) == ["accepted"] * 2  # two files put together
    body = json.dumps({"name": "Bob"}).encode("utf-8-sig")
    api.ok("POST", PERSONS, data=body, content_type="application/json")


def test_many_vectors_lie_in_the_database_as_if_they_had_come_one_by_one(api, helpers):
    lines = [_vector_line(helpers, f"P{seed % 300}", seed) for seed in range(1300)]
    verdicts = _lines(api, *lines)
    assert _statuses(verdicts) == ["accepted"] * 1300
    seqs = [one["seq"] for one in verdicts]
    assert seqs == sorted(set(seqs))
    view = api.ok("GET", "/v1/collections/default")
    assert (view["persons"], view["templates"]) == (300, 1300)
    with api.services.database.read() as session:
        feed = session.execute(
            select(Change.seq, Change.subject, Template.number, Person.name)
            .join(Template, Template.number == Change.template_number)
            .join(Person, Person.number == Template.person_number)
            .where(Change.kind == "template_added", Template.id == Change.subject)
        ).all()
        created = session.scalar(
            select(func.count()).select_from(Change).where(Change.kind == "person_created")
        )
        highest = session.scalar(select(func.max(Change.seq)))
        rows = session.scalar(select(func.count()).select_from(Change))
    by_template = {one["template_id"]: one for one in verdicts}
    assert len(feed) == 1300
    for seq, template_id, _, name in feed:
        assert by_template[template_id]["seq"] == seq
        assert by_template[template_id]["person"]["name"] == name
    assert created == 300
    assert rows == highest  # no number is missing or given twice
    for seed in (0, 299, 1299):
        assert api.names(helpers.unit_vector(seed), limit=1) == [f"P{seed % 300}"]


def test_a_batch_fills_a_collection_to_its_limit_and_no_further(api, helpers):
    api.ok("PATCH", "/v1/collections/default", json={"max_templates": 5})
    verdicts = _lines(api, *(_vector_line(helpers, f"P{seed}", seed) for seed in range(8)))
    assert _statuses(verdicts) == ["accepted"] * 5 + ["refused"] * 3
    assert {one["code"] for one in verdicts[5:]} == {"conflict"}
    view = api.ok("GET", "/v1/collections/default")
    assert (view["persons"], view["templates"]) == (5, 5)
    (late,) = _files(api, ("Late/a.png", helpers.paint((RED, 80))))
    assert late["code"] == "conflict"
    assert api.ok("GET", "/v1/collections/default")["persons"] == 5


def test_a_body_that_is_cut_off_ends_with_a_line_that_says_so(api, helpers):
    picture = helpers.paint((RED, 80))
    body = (
        b'--x\r\nContent-Disposition: form-data; name="images"; filename="Ann/a.png"\r\n\r\n'
        + picture
        + b'\r\n--x\r\nContent-Disposition: form-data; name="images"; filename="Bob/b.png"\r\n\r\n'
        + picture[:20]
    )
    content_type = "multipart/form-data; boundary=x"
    verdicts = _verdicts(api.call("POST", ENROLL, data=body, content_type=content_type))
    assert _statuses(verdicts) == ["accepted", "refused"]
    assert "ends too soon" in verdicts[1]["message"]


@pytest.mark.backends("sqlite")
def test_a_file_name_that_is_not_utf8_costs_the_others_nothing(api, helpers):
    names = [b"Ann/caf\xe9.png", b"M\xfcller/a.png", "Zoë/a.png".encode()]
    colours = (RED, GREEN, BLUE)
    body = b"".join(
        b'--x\r\nContent-Disposition: form-data; name="images"; filename="%s"\r\n\r\n%s\r\n'
        % (name, helpers.paint((colour, 80)))
        for name, colour in zip(names, colours, strict=True)
    )
    content_type = "multipart/form-data; boundary=x"
    arguments = {"data": body + b"--x--\r\n", "content_type": content_type}
    verdicts = _verdicts(api.call("POST", ENROLL, **arguments))
    assert _statuses(verdicts) == ["accepted", "refused", "accepted"]
    assert verdicts[0]["file"] == "Ann/caf\ufffd.png"
    assert "not UTF-8" in verdicts[1]["message"]


@pytest.mark.backends("sqlite")
def test_a_form_that_cannot_be_read_is_not_taken_for_an_empty_one(api, helpers):
    head = b'--x\r\nContent-Disposition: form-data; name="image"; filename="caf\xe9.png"\r\n\r\n'
    body = head + helpers.paint((RED, 80)) + b"\r\n--x--\r\n"
    content_type = "multipart/form-data; boundary=x"
    answer = api.refused(400, "POST", "/v1/detect", data=body, content_type=content_type)
    assert "the name of a file is not UTF-8" in answer["message"]


def test_a_part_that_is_no_file_of_images_is_refused_alone(api, helpers):
    data = {
        "store": "1",
        "images": [(io.BytesIO(helpers.paint((RED, 80))), "Ann/a.png")],
        "photos": [(io.BytesIO(helpers.paint((RED, 80))), "Bob/a.png")],
    }
    verdicts = _verdicts(api.call("POST", ENROLL, data=data))
    assert sorted(_statuses(verdicts)) == ["accepted", "refused", "refused"]


def test_the_whole_may_be_larger_than_a_body_and_each_picture_may_not(make_api, helpers):
    api = make_api(max_body_bytes=20_000)
    small = helpers.paint((RED, 80)) + bytes(15_000)
    pictures = [(f"Ann/{place}.png", small + bytes([place])) for place in range(5)]
    verdicts = _files(api, *pictures, ("Ann/large.png", small + bytes(10_000)))
    assert _statuses(verdicts) == ["accepted"] * 5 + ["refused"]
    assert verdicts[5]["code"] == "too_large"
    long = json.dumps({"name": "x" * 60_000}) + "\n"
    verdicts = _lines(api, long, _vector_line(helpers, "Bob", 1))
    assert [one.get("code") for one in verdicts] == ["too_large", None]


@pytest.mark.parametrize("file", ["../../etc/passwd", "/root/Ann/a.png"])
def test_a_path_of_a_client_is_in_no_path_of_ours(api, helpers, file):
    _files(api, (file, helpers.paint((RED, 80))), store=1)
    kept = [one for one in api.services.settings.data_dir.rglob("photos/*/*") if one.is_file()]
    assert len(kept) == 1
    assert api.ok("GET", PERSONS)["items"][0]["name"] in ("etc", "Ann")


def test_what_is_wrong_with_the_whole_is_said_at_once(api, helpers):
    api.refused(404, "POST", "/v1/collections/none/enroll", data=b"", content_type=NDJSON)
    api.refused(415, "POST", ENROLL, data=b"{}", content_type="application/json")
    api.refused(415, "POST", ENROLL, data=b"{}", content_type="multipart/form-data")
    api.refused(400, "POST", f"{ENROLL}?stoer=1", data=b"", content_type=NDJSON)
    for role in ("viewer", "searcher", "device"):
        api.refused(403, "POST", ENROLL, role, data=b"", content_type=NDJSON)
    assert "empty" in api.refused(400, "POST", ENROLL, data=b"", content_type=NDJSON)["message"]
    (verdict,) = _files(api, ("Ann/a.png", helpers.paint((RED, 80))), role="enroller")
    assert verdict["status"] == "accepted"


def test_verdicts_come_while_the_rest_is_still_being_sent(api, helpers):
    sent = []

    class Slow(io.RawIOBase):
        """A client that sends one line at a time and counts them."""

        def __init__(self, lines):
            self._lines = iter(lines)

        def readable(self):
            return True

        def read(self, size=-1):
            line = next(self._lines, b"")
            sent.append(line)
            return line

    pictures = [helpers.paint((colour, 80)) for colour in (RED, GREEN, BLUE)]
    lines = [
        json.dumps({"name": f"P{place}", "image": base64.b64encode(one).decode()}).encode() + b"\n"
        for place, one in enumerate(pictures)
    ]
    from match_server.services.batches.reader import lines_of

    groups = api.services.batches.run("default", lines_of(Slow(lines), 10_000), BatchQuery())
    verdicts = chain.from_iterable(groups)
    assert next(verdicts).status == "accepted"
    assert len(sent) == 2  # pictures are compared where another person's begin
    assert [one.status for one in verdicts] == ["accepted", "accepted"]


def test_memory_does_not_grow_with_the_length_of_the_batch(api, helpers):
    """Ten times as many items need the same memory, within a twentieth of the input."""
    from match_server.services.batches.reader import lines_of

    def peak(first, count):
        vectors = (helpers.unit_vector(seed) for seed in range(first, first + count))
        lines = (
            json.dumps(
                {"name": "Ann", "template": helpers.encode(vector), "model_id": helpers.MODEL}
            ).encode()
            + b"\n"
            for vector in vectors
        )

        class Stream:
            def read(self, size):
                return next(lines, b"")

        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        run = api.services.batches.run("default", lines_of(Stream(), 10_000), BatchQuery())
        assert sum(one.status == "accepted" for one in chain.from_iterable(run)) == count
        return tracemalloc.get_traced_memory()[1] - before

    tracemalloc.start()
    try:
        peak(0, 2048)  # allocated once
        few, many = peak(10_000, 2048), peak(20_000, 10_240)
    finally:
        tracemalloc.stop()
    came_in = 10_240 * 1400
    assert many - few < came_in / 20


def test_a_client_that_falls_silent_keeps_what_was_written_and_is_told(api, helpers):
    class Silent(io.BytesIO):
        """Sends one line, then nothing until the socket's timeout."""

        def readinto(self, buffer):
            read = super().readinto(buffer)
            if not read:
                raise TimeoutError
            return read

    line = json.dumps(_vector_line(helpers, "Ann", 1)).encode() + b"\n"
    response = api.call(
        "POST",
        ENROLL,
        input_stream=Silent(line),
        content_type=NDJSON,
        environ_overrides={"wsgi.input_terminated": True},
    )
    assert [one.get("code") for one in _verdicts(response)] == [None, "malformed"]
    assert api.ok("GET", "/v1/collections/default")["templates"] == 1


def test_a_collection_that_is_erased_while_vectors_are_read_takes_none(api, helpers, monkeypatch):
    api.ok("POST", "/v1/collections", json={"name": "short"})
    lines = [_vector_line(helpers, f"P{seed}", seed) for seed in range(3)]
    original = bulk.stored_forms

    def erasing(vectors, collection):
        api.ok("DELETE", "/v1/collections/short")
        return original(vectors, collection)

    monkeypatch.setattr(bulk, "stored_forms", erasing)
    items = [(place, BatchLine(**line)) for place, line in enumerate(lines)]
    with pytest.raises(NotFound, match="erased"):
        api.services.bulk.add("short", items)
    monkeypatch.setattr(bulk, "stored_forms", original)
    assert _statuses(_lines(api, *lines)) == ["accepted"] * 3


class _Lines:
    """A body that arrives line by line; a function is called before the last line."""

    def __init__(self, lines, before_the_last):
        self._lines = [(json.dumps(line) + "\n").encode() for line in lines]
        self._before_the_last = before_the_last

    def read(self, size=-1):
        if len(self._lines) == 1:
            self._before_the_last()
        return self._lines.pop(0) if self._lines else b""


def test_a_batch_enrolls_nobody_once_its_collection_was_deleted(api, helpers):
    lines = [_vector_line(helpers, f"Vera {seed}", seed) for seed in range(3)]
    api.ok("POST", "/v1/collections", json={"name": "guests"})
    response = api.call(
        "POST",
        "/v1/collections/guests/enroll",
        content_type=NDJSON,
        environ_overrides={
            "wsgi.input": _Lines(lines, lambda: api.ok("DELETE", "/v1/collections/guests")),
            "wsgi.input_terminated": True,
        },
    )
    assert {(one["status"], one.get("code")) for one in _verdicts(response)} == {
        ("refused", "not_found")
    }


def test_a_batch_enrolls_nobody_once_its_key_has_been_revoked(api, helpers):
    images = [base64.b64encode(helpers.paint((one, 80))).decode() for one in (RED, GREEN)]
    vectors = [_vector_line(helpers, f"Vera {seed}", seed) for seed in range(2)]
    pictures = [{"name": f"Pia {n}", "image": image} for n, image in enumerate(images)]
    for lines, counts in ((pictures + vectors, [2, 2]), (vectors + pictures, [2, 1])):
        revoke = partial(api.services.keys.revoke, api.key("enroller").split("_")[1])
        response = api.call(
            "POST",
            ENROLL,
            "enroller",
            content_type=NDJSON,
            environ_overrides={
                "wsgi.input": _Lines(lines, revoke),
                "wsgi.input_terminated": True,
            },
        )
        del api.keys["enroller"]
        verdicts = _verdicts(response)
        statuses = _statuses(verdicts)
        assert [statuses.count("accepted"), statuses.count("refused")] == counts, verdicts
        assert verdicts[-1]["code"] == "unauthenticated"


@pytest.mark.parametrize("file", [None, 'Zoë "Z"/\\1.png'])
def test_the_verdict_for_a_template_is_written_as_any_other_verdict(file):
    person, template_id = PersonName(id="p1", name='Zoë "Z" \\ Ärger'), "0199-x"
    verdict = BatchVerdict(
        index=7, file=file, status="accepted", person=person, template_id=template_id, seq=12
    )
    accepted = AcceptedTemplate(7, file, person, person.model_dump_json(), template_id, 12)
    assert accepted.line() == verdict.line()


@pytest.mark.parametrize("length", [0.9948, 0.99491, 0.9951, 1.0, 1.0049, 1.00509, 1.0052])
def test_vectors_in_bulk_are_held_to_the_same_length_as_a_single_vector(api, helpers, length):
    template = helpers.encode(length * helpers.unit_vector(1))
    single = {"template": template, "model_id": helpers.MODEL}
    api.ok("POST", "/v1/collections/default/persons", json={"id": "ann", "name": "Ann"})
    status = api.call("POST", "/v1/collections/default/persons/ann/templates", json=single)
    accepted = ["accepted"] if status.status_code == 201 else ["refused"]
    assert _statuses(_lines(api, {"name": "Ann", **single})) == accepted


def test_a_line_of_a_template_is_read_as_a_line_with_more_fields_is(api, helpers):
    """Lines of three fields have a schema of their own: it takes and refuses the same values."""
    usual = _vector_line(helpers, "Ann", 1)
    changed = [
        {},
        {"name": " Ann\u00a0"},
        {"name": "Zo\u00eb\\"},
        {"name": ""},
        {"name": "A\u0000nn"},
        {"name": "A\u0007nn"},
        {"name": 7},
        {"name": "x" * 201},
        {"model_id": ""},
        {"model_id": "other@1"},
        {"model_id": f"{helpers.MODEL}\u0000"},
        {"template": "AAA"},
        {"template": usual["template"].replace("=", "")},
        {"template": usual["template"].replace("A", "-", 1)},
        {"template": usual["template"].replace("A", "\\u0041", 1)},
        {"template": usual["template"].replace("A", "\u0000", 1)},
        {"template": None},
    ]
    for change in changed:
        line = usual | change
        short, long = (
            [one.get(field) for field in ("status", "code", "message", "details")]
            for one in _lines(api, line, line | {"metadata": {}})
        )
        assert short == long, change

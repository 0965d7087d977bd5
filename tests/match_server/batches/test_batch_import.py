"""`match-server import`: folders, files, verdicts, and continuing after an interruption."""

import json
import os
from itertools import chain
from pathlib import Path

import pytest
from click.testing import CliRunner

from match_server.commands.cli import main
from match_server.picture_folder import BY_FOLDER, Naming
from match_server.schemas.batches import BatchQuery
from match_server.schemas.collections import CollectionCreate
from match_server.schemas.persons import PersonQuery
from match_server.services.batches import bulk
from match_server.services.faces.engines import face_engine
from shared.errors import ConfigurationError, NotFound

PERSONS = "/v1/collections/default/persons"
RED, GREEN, BLUE, DARK = (0, 0, 200), (0, 200, 0), (200, 0, 0), (10, 20, 5)


@pytest.fixture
def faces(tmp_path, helpers):
    folder = tmp_path / "faces"
    pictures = {
        "Ann/1.png": helpers.paint((RED, 80)),
        "Ann/2.png": helpers.paint((RED, 70)),
        "Bob/dark.png": helpers.paint((DARK, 80)),
        "Zoë/1.png": helpers.paint((GREEN, 80)),
        "Zoë/.hidden.png": b"",
        ".git/x.png": b"",
        "alone.png": helpers.paint((BLUE, 80)),
    }
    for name, data in pictures.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


@pytest.fixture
def vectors(tmp_path, helpers):
    def write(count, name="vectors.ndjson"):
        lines = [
            {
                "name": f"P{seed % 50}",
                "template": helpers.encode(helpers.unit_vector(seed)),
                "model_id": helpers.MODEL,
            }
            for seed in range(count)
        ]
        file = tmp_path / name
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return file

    return write


def _verdicts(api, source, *, again=False, naming=BY_FOLDER, stop_after=None, **options):
    planned = api.services.imports.plan("default", Path(source), again=again, naming=naming)
    run = api.services.imports.run("default", planned, BatchQuery(**options))
    verdicts = []
    for verdict in chain.from_iterable(run):
        verdicts.append(verdict)
        if len(verdicts) == stop_after:
            break
    return planned, verdicts


def test_a_folder_a_person_is_enrolled_in_a_steady_order(api, faces):
    planned, verdicts = _verdicts(api, faces)
    assert planned.total == 5
    assert [(one.file, one.status) for one in verdicts] == [
        ("alone.png", "refused"),
        ("Ann/1.png", "accepted"),
        ("Ann/2.png", "accepted"),
        ("Bob/dark.png", "refused"),
        ("Zoë/1.png", "accepted"),
    ]
    assert [one["name"] for one in api.ok("GET", PERSONS)["items"]] == ["Ann", "Zoë"]


def test_an_import_goes_on_where_it_was_interrupted(api, faces):
    _, first = _verdicts(api, faces, stop_after=2)
    _, second = _verdicts(api, faces)
    assert [one.status for one in second] == [
        "refused",
        "duplicate",
        "duplicate",  # enrolled together with the person's other picture
        "refused",
        "accepted",
    ]
    assert second[1].template_id == first[1].template_id
    assert api.ok("GET", "/v1/collections/default")["templates"] == 3


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_that_cannot_be_read_is_refused_alone(api, faces):
    (faces / "Ann/1.png").chmod(0)
    _, verdicts = _verdicts(api, faces)
    assert [one.status for one in verdicts][1:3] == ["refused", "accepted"]


def test_a_file_of_templates_goes_on_with_the_first_line_that_is_missing(api, vectors):
    file = vectors(5000)
    _, first = _verdicts(api, file, stop_after=3000)  # within the second batch: 4,096 are written
    assert api.ok("GET", "/v1/collections/default")["templates"] == 4096
    planned, second = _verdicts(api, file)
    assert (planned.done_before, planned.total) == (4096, 5000)
    assert [one.index for one in second] == list(range(4096, 5000))
    view = api.ok("GET", "/v1/collections/default")
    assert (view["templates"], view["persons"]) == (5000, 50)
    planned, third = _verdicts(api, file)
    assert (planned.done_before, third) == (5000, [])
    assert len(first) == 3000


def test_a_process_killed_at_any_moment_leaves_whole_batches_only(api, vectors, monkeypatch):
    file = vectors(3000)
    commits = []
    original = bulk._note

    def dying(session, collection, resume, lines):
        original(session, collection, resume, lines)
        commits.append(lines)
        if len(commits) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(bulk, "_note", dying)
    with pytest.raises(KeyboardInterrupt):
        _verdicts(api, file)
    assert api.ok("GET", "/v1/collections/default")["templates"] == 2048
    monkeypatch.setattr(bulk, "_note", original)
    planned, _ = _verdicts(api, file)
    assert planned.done_before == 2048
    assert api.ok("GET", "/v1/collections/default")["templates"] == 3000


def test_again_takes_a_file_from_its_first_line(api, vectors):
    file = vectors(20)
    _verdicts(api, file)
    _, again = _verdicts(api, file, again=True)
    assert len(again) == 20
    assert api.ok("GET", "/v1/collections/default")["templates"] == 40


def test_another_file_of_the_same_name_is_another_file(api, vectors):
    _verdicts(api, vectors(20))
    planned, verdicts = _verdicts(api, vectors(21))
    assert (planned.done_before, len(verdicts)) == (0, 21)


def test_an_unknown_collection_is_said_before_anything_is_read(api, faces):
    with pytest.raises(NotFound):
        api.services.imports.plan("nowhere", faces, again=False)


def _write(folder, **pictures):
    for name, data in pictures.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def _refused(verdicts):
    return {one.file: one.message for one in verdicts if one.status == "refused"}


@pytest.mark.backends("sqlite")
def test_a_folder_that_is_imported_by_force_twice_is_recognised(api, faces):
    _, first = _verdicts(api, faces, force=True)
    assert [one.status for one in first if one.file != "alone.png"] == ["accepted"] * 4
    templates = api.ok("GET", "/v1/collections/default")["templates"]
    _, second = _verdicts(api, faces, force=True)
    assert [one.status for one in second if one.file != "alone.png"] == ["duplicate"] * 4
    assert api.ok("GET", "/v1/collections/default")["templates"] == templates


@pytest.mark.backends("sqlite")
def test_what_systems_put_beside_pictures_is_passed_over(api, helpers, tmp_path):
    red = helpers.paint((RED, 80))
    junk = [
        *("Ann/Thumbs.db", "Ann/desktop.ini", "Ann/.DS_Store", "Ann/._1.png", "Ann/1.png.json"),
        *("Ann/1.AAE", "Ann/1.xmp", "Ann/@eaDir/1.png/SYNO.jpg", "__MACOSX/Ann/._1.png"),
        *("$RECYCLE.BIN/x.png", "System Volume Information/IndexerVolumeGuid", "#recycle/a.jpg"),
    ]
    folder = _write(tmp_path / "p", **{"Ann/1.png": red}, **dict.fromkeys(junk, b"junk"))
    planned, verdicts = _verdicts(api, folder)
    assert planned.total == 1
    assert [(one.file, one.status) for one in verdicts] == [("Ann/1.png", "accepted")]


@pytest.mark.backends("sqlite")
def test_a_name_that_is_not_utf8_is_shown_and_only_a_persons_must_be(api, helpers, tmp_path):
    odd = os.fsdecode(b"caf\xe9\x1b.png")
    folder = _write(
        tmp_path / "p",
        **{
            f"Ann/{odd}": helpers.paint((RED, 80)),
            f"{os.fsdecode(bytes([0xE9]))}/a.png": helpers.paint((GREEN, 80)),
            "\u0622\u200c\u0628/a.png": helpers.paint((BLUE, 80)),  # with a joiner, as in Persian
        },
    )
    _, verdicts = _verdicts(api, folder)
    assert {one.file: one.status for one in verdicts} == {
        r"Ann/caf\xe9\x1b.png": "accepted",
        r"\xe9/a.png": "refused",
        "\u0622\u200c\u0628/a.png": "accepted",
    }
    assert all(one.model_dump_json().encode() for one in verdicts)
    assert "folder's name is not UTF-8" in _refused(verdicts)[r"\xe9/a.png"]


@pytest.mark.backends("sqlite")
def test_in_a_flat_folder_the_file_names_say_whose_the_pictures_are(api, helpers, tmp_path):
    folder = _write(
        tmp_path / "p",
        **{
            "Ann Lee.png": helpers.paint((RED, 80)),
            "Ann Lee 2.png": helpers.paint((RED, 70)),
            "Ann Lee (3).png": helpers.paint((RED, 60)),
            "Bob_0001.png": helpers.paint((GREEN, 80)),
            "4711.png": helpers.paint((BLUE, 80)),
            "IMG_2042.png": helpers.paint(((90, 90, 90), 80)),
        },
    )
    with pytest.raises(ConfigurationError, match="a folder for each person, or give --by-file-nam"):
        _verdicts(api, folder)
    naming = Naming(by_file_name=True)
    _, verdicts = _verdicts(api, folder, naming=naming)
    assert list(_refused(verdicts)) == ["IMG_2042.png"]
    assert "a camera gave it" in _refused(verdicts)["IMG_2042.png"]
    persons = {one["name"]: one["images"] for one in api.ok("GET", PERSONS)["items"]}
    assert persons == {"Ann Lee": 3, "Bob": 1, "4711": 1}


@pytest.mark.backends("sqlite")
def test_all_pictures_of_a_folder_or_a_single_one_can_be_one_persons(api, helpers, tmp_path):
    red = helpers.paint((RED, 80))
    folder = _write(tmp_path / "p", **{"1.png": red, "more/2.png": helpers.paint((RED, 70))})
    naming = Naming(name="Ann Lee")
    assert [one.person.name for one in _verdicts(api, folder, naming=naming)[1]] == ["Ann Lee"] * 2
    (verdict,) = _verdicts(api, folder / "1.png", naming=naming)[1]
    assert (verdict.status, verdict.file) == ("duplicate", "1.png")
    with pytest.raises(ConfigurationError, match="a PNG picture: give --name"):
        _verdicts(api, folder / "1.png")


@pytest.mark.backends("sqlite")
def test_a_name_for_pictures_is_refused_for_a_file_of_templates(api, vectors):
    with pytest.raises(ConfigurationError, match="--name and --by-file-name are for pictures"):
        _verdicts(api, vectors(3), naming=Naming(name="Ann"))


@pytest.mark.models
@pytest.mark.backends("sqlite")
@pytest.mark.skipif("MUSTER_TEST_FACES" not in os.environ, reason="needs pictures of real people")
def test_real_people_are_imported_and_told_apart(make_services):
    services = make_services(face_engine("compact"))
    folder = Path(os.environ["MUSTER_TEST_FACES"])
    services.collections.create(CollectionCreate(name="people"))
    planned = services.imports.plan("people", folder, again=False)
    verdicts = list(chain.from_iterable(services.imports.run("people", planned, BatchQuery())))
    people = {Path(one.file).parent.name for one in verdicts if one.status == "accepted"}
    persons = services.persons.page("people", PersonQuery(size=1000))
    assert {one.name for one in persons.items} == people
    assert len(people) > 5
    assert sum(one.images for one in persons.items) == sum(
        one.status == "accepted" for one in verdicts
    )


class TestCommand:
    """The command itself, with templates: they need no face models."""

    def _run(self, data_dir, *arguments):
        command = ["import", *map(str, arguments), "--data-dir", str(data_dir)]
        return CliRunner().invoke(main, command)

    @pytest.fixture
    def file(self, tmp_path, helpers):
        from models.packs.manifest import built_in_manifest

        model = built_in_manifest().pack("compact").model_id
        vector = helpers.encode(helpers.unit_vector(1))
        lines = [{"name": "Ann", "template": vector, "model_id": model}]
        lines.append({"name": "Bob", "template": vector, "model_id": "other@1"})
        file = tmp_path / "v.ndjson"
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return file

    def test_json_is_a_line_for_each_and_the_sums(self, tmp_path, file):
        result = self._run(tmp_path / "data", file, "--json")
        assert result.exit_code == 1  # one was refused
        first, second, sums = (json.loads(line) for line in result.stdout.splitlines())
        assert (first["status"], first["person"]["name"]) == ("accepted", "Ann")
        assert second["code"] == "model_mismatch"
        assert sums == {"accepted": 1, "duplicate": 0, "refused": 1, "done_before": 0}
        result = self._run(tmp_path / "data", file, "--json")
        assert result.exit_code == 0
        assert json.loads(result.stdout)["done_before"] == 2

    def test_text_names_what_was_refused_and_why(self, tmp_path, file):
        result = self._run(tmp_path / "data", file)
        assert "refused    line 2: collection 'default' holds templates of" in result.stdout
        assert "1 accepted, 0 duplicate, 1 refused." in result.stdout

    def test_an_unknown_collection_is_one_sentence(self, tmp_path, file):
        result = self._run(tmp_path / "data", file, "--collection", "nowhere")
        assert result.exit_code == 1
        assert "there is no collection 'nowhere'" in result.stderr
        assert "Traceback" not in result.output

    def test_the_help_has_an_example(self):
        result = CliRunner().invoke(main, ["import", "--help"])
        assert "match-server import faces/ --collection staff" in result.output

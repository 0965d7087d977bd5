"""Sources good and bad, and what a feed makes of them."""

import struct
import threading
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_agent.capture.feed import Feed, Frame, Manner
from edge_agent.capture.sources import is_live, open_source, read
from edge_agent.capture.streams import Asked, without_secrets
from models.types import BgrImage
from shared.errors import SourceError

from .films import Actor, write_film

FILM = Manner(live=False, reconnect=False)


def frames_of(spec: Path | str, manner: Manner = FILM) -> list[Frame]:
    return list(Feed("door", lambda: open_source(str(spec)), manner, threading.Event()))


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    square = np.full((40, 40, 3), 250, np.uint8)
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    way = lambda time_s: (20 + 100 * time_s, 60.0, 40.0)  # noqa: E731
    return write_film(path, [Actor(square, way)], 2.0, (320, 120))


def square_at(image: BgrImage) -> float:
    bright = np.argwhere(image[:, :, 1] > 220)
    return float(bright[:, 1].mean())


def test_a_film_gives_every_frame_in_order(film: Path) -> None:
    frames = frames_of(film)
    assert [frame.index for frame in frames] == list(range(50))
    assert frames[25].time_s == pytest.approx(1.0)
    assert {(frame.camera, frame.size, frame.alone) for frame in frames} == {
        ("door", (320, 120), False)
    }
    places = [square_at(frame.image) for frame in frames]
    assert places == sorted(places)
    assert places[25] == pytest.approx(120, abs=3)
    assert all(frame.captured_at.utcoffset() is not None for frame in frames)


def test_a_film_that_is_cut_short_gives_what_it_has_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = tmp_path / "whole.avi"
    writer = cv2.VideoWriter(str(whole), cv2.VideoWriter.fourcc(*"MJPG"), 25, (320, 240))
    chance = np.random.default_rng(0)
    for _ in range(40):
        writer.write(chance.integers(0, 255, (240, 320, 3), dtype=np.uint8))
    writer.release()
    cut = tmp_path / "cut.avi"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    frames = frames_of(cut)
    assert 5 < len(frames) < 30
    said = [record.getMessage() for record in caplog.records]
    assert any(str(cut) in line and "of 40 frames" in line for line in said), said


def test_a_film_without_its_index_is_named_in_the_error(film: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(film.read_bytes()[:3000])
    with pytest.raises(SourceError, match=r"cut\.mp4 is no film or picture.*cut short"):
        frames_of(cut)


def test_what_is_neither_film_nor_picture_is_named_in_the_error(tmp_path: Path) -> None:
    text = tmp_path / "notes.mp4"
    text.write_text("this is not a film " * 100)
    with pytest.raises(SourceError, match=r"notes\.mp4 is no film"):
        frames_of(text)


def test_an_empty_file_is_named_in_the_error(tmp_path: Path) -> None:
    (tmp_path / "nothing.mp4").touch()
    with pytest.raises(SourceError, match=r"nothing\.mp4 is empty"):
        frames_of(tmp_path / "nothing.mp4")


@pytest.mark.parametrize("spec", ["/dev/video97", "97"])
def test_a_missing_camera_is_named_in_the_error(spec: str) -> None:
    with pytest.raises(SourceError, match=r"no camera /dev/video97: is it plugged in"):
        open_source(spec)


def test_a_source_of_no_known_kind_is_told_what_there_is() -> None:
    with pytest.raises(SourceError, match=r"no /nowhere/at/all: a source is a camera .*rtsp"):
        open_source("/nowhere/at/all")


def test_an_address_where_nobody_answers_is_named_without_its_password() -> None:
    with pytest.raises(SourceError, match="cannot be opened") as caught:
        open_source("rtsp://me:secret@127.0.0.1:9/stream")
    assert "secret" not in caught.value.message
    assert "127.0.0.1:9" in caught.value.message


def test_a_picture_is_one_frame_that_stands_alone(tmp_path: Path) -> None:
    path = tmp_path / "face.png"
    cv2.imwrite(str(path), np.full((60, 80, 3), (10, 20, 30), np.uint8))
    (frame,) = frames_of(path)
    assert frame.alone
    assert frame.size == (80, 60)
    assert frame.image[0, 0].tolist() == [10, 20, 30]


def test_a_picture_is_known_by_its_content_too(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "face.jpg"), np.full((60, 80, 3), 90, np.uint8))
    renamed = (tmp_path / "face.jpg").rename(tmp_path / "upload")
    assert frames_of(renamed)[0].alone


def test_a_picture_that_is_no_picture_is_named_in_the_error(tmp_path: Path) -> None:
    (tmp_path / "face.jpg").write_bytes(b"\xff\xd8\xff and then nothing of the kind")
    with pytest.raises(SourceError, match=r"face\.jpg cannot be used"):
        frames_of(tmp_path / "face.jpg")


def test_a_picture_of_a_billion_pixels_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    with pytest.raises(SourceError, match=r"bomb\.png cannot be used"):
        frames_of(tmp_path / "bomb.png")


def test_one_bad_picture_does_not_stop_a_folder(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name, level in (("a.png", 10), ("c.JPG", 200), ("d.bmp", 90)):
        cv2.imwrite(str(tmp_path / name), np.full((60, 80, 3), level, np.uint8))
    (tmp_path / "b.jpg").write_bytes(b"no picture")
    (tmp_path / "e.png").touch()
    (tmp_path / "notes.txt").write_text("not even meant as one")
    frames = frames_of(tmp_path)
    assert [int(frame.image[0, 0, 0]) for frame in frames] == [10, 200, 90]
    said = "\n".join(record.getMessage() for record in caplog.records)
    assert "b.jpg" in said
    assert "e.png" in said
    assert "notes.txt" not in said


def test_a_folder_without_pictures_is_named_in_the_error(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="holds no pictures"):
        frames_of(tmp_path)


def test_a_gstreamer_pipeline_is_read_through_a_child_process(gst_launch: str) -> None:
    spec = "videotestsrc num-buffers=20 pattern=blue ! video/x-raw,width=322,height=241"
    source = open_source(spec)
    images = [taken[0] for _ in range(20) if (taken := read(source)) is not None]
    with pytest.raises(SourceError, match="no pictures any more"):
        read(source)
    source.close()
    assert len(images) == 20
    assert images[0].shape == (241, 322, 3)
    assert np.abs(images[-1].reshape(-1, 3).astype(int) - [255, 0, 0]).max() < 8


def test_a_wrong_gstreamer_pipeline_is_said_in_gstreamers_words(gst_launch: str) -> None:
    with pytest.raises(SourceError, match='no element "nosuchelement"'):
        open_source("nosuchelement ! videoconvert")


def test_without_gstreamer_it_is_said_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(SourceError, match=r"needs gst-launch-1\.0.*gstreamer1\.0-tools"):
        open_source("videotestsrc ! videoconvert")
    with pytest.raises(SourceError, match="rpicam-apps"):
        open_source("rpicam:0")


def test_a_raspberry_pi_camera_is_read_from_planar_frames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in for rpicam-vid, which writes I420 as the real one does with these options."""
    program = tmp_path / "rpicam-vid"
    program.write_text(
        "#!/bin/sh\n"
        'while [ $# -gt 1 ]; do case "$1" in --output) out=$2;; --width) w=$2;;'
        " --height) h=$2;; --codec) codec=$2;; esac; shift; done\n"
        '[ "$codec" = yuv420 ] || exit 3\n'
        'n=$((w * h)); for i in 1 2; do head -c $n /dev/zero | tr "\\000" "\\220";'
        ' head -c $((n / 2)) /dev/zero | tr "\\000" "\\200"; done > "$out"\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    source = open_source("rpicam:0", Asked(size=(64, 48), fps=10))
    for _ in range(2):
        taken = read(source)
        assert taken is not None
        assert taken[0].shape == (48, 64, 3)
        assert np.ptp(taken[0]) == 0, "grey: 128 is no colour"
        assert int(taken[0][0, 0, 0]) == pytest.approx((0x90 - 16) * 1.164, abs=2)
    with pytest.raises(SourceError, match="no pictures any more"):
        read(source)
    source.close()


@pytest.mark.parametrize(
    ("spec", "live"),
    [
        ("0", True),
        ("/dev/video2", True),
        ("rtsp://host/x", True),
        ("http://host/mjpeg", True),
        ("rpicam:0", True),
        ("v4l2src ! videoconvert", True),
        ("door.mp4", False),
        ("/srv/pictures", False),
    ],
)
def test_what_is_live_is_known_from_its_name(spec: str, live: bool) -> None:
    assert is_live(spec) == live


def test_a_password_is_not_part_of_a_name() -> None:
    assert without_secrets("rtsp://a:b@host/1") == "rtsp://…@host/1"
    assert without_secrets("/dev/video0") == "/dev/video0"

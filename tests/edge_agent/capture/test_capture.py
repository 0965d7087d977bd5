"""Valid and invalid sources, and their frames."""

import re
import struct
import threading
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_agent.capture.camera import Capture, Frame, ReadMode
from edge_agent.capture.source import is_live, open_source, read
from edge_agent.config.camera import ConnectionSettings as Settings
from models.types import BgrImage
from shared.errors import SourceError
from tests.support.films import Actor, write_film

FILM = ReadMode(live=False, reconnect=False)


def frames_of(spec: Path | str, manner: ReadMode = FILM) -> list[Frame]:
    return list(Capture("door", lambda: open_source(str(spec)), manner, threading.Event()))


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


def test_a_film_that_is_cut_short_gives_what_it_has_and_then_fails(tmp_path: Path) -> None:
    whole = tmp_path / "whole.avi"
    writer = cv2.VideoWriter(str(whole), cv2.VideoWriter.fourcc(*"MJPG"), 25, (320, 240))
    chance = np.random.default_rng(0)
    for _ in range(40):
        writer.write(chance.integers(0, 255, (240, 320, 3), dtype=np.uint8))
    writer.release()
    cut = tmp_path / "cut.avi"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    frames = []
    capture = Capture("door", lambda: open_source(str(cut)), FILM, threading.Event())
    with pytest.raises(SourceError, match=r"cut\.avi: \d+ of about 40 frames could not be read"):
        frames.extend(capture)
    assert 5 < len(frames) < 30


def damaged(film: Path, path: Path, frames: range) -> Path:
    """A copy of a film whose packets are noise in these frames."""
    data = bytearray(film.read_bytes())
    chance = np.random.default_rng(0)
    packets = [match.start() for match in re.finditer(rb"00dc", data)]
    for at in (packets[frame] for frame in frames):
        length = int.from_bytes(data[at + 4 : at + 8], "little")
        data[at + 8 : at + 8 + length] = chance.integers(0, 255, length, np.uint8).tobytes()
    path.write_bytes(data)
    return path


@pytest.fixture(scope="module")
def long_film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("film") / "long.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 25, (160, 120))
    for index in range(150):
        picture = np.full((120, 160, 3), 90, np.uint8)
        cv2.circle(picture, (index, 60), 9, (250, 250, 250), -1)
        writer.write(picture)
    writer.release()
    return path


def test_a_film_goes_on_after_damaged_packets_and_reports_lost_frames(
    long_film: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    frames = frames_of(damaged(long_film, tmp_path / "damaged.avi", range(13, 16)))
    assert 145 <= len(frames) < 150
    assert frames[-1].time_s == pytest.approx(149 / 25)
    assert re.search(r"damaged\.avi: [3-5] of about 150 frames could not be read", caplog.text)


def test_a_film_of_which_much_is_damaged_is_read_to_its_end_and_fails(
    long_film: Path, tmp_path: Path
) -> None:
    frames = []
    path = damaged(long_film, tmp_path / "damaged.avi", range(20, 100))
    capture = Capture("door", lambda: open_source(str(path)), FILM, threading.Event())
    with pytest.raises(SourceError, match=r"8\d of about 150 frames could not be read"):
        frames.extend(capture)
    assert frames[-1].time_s == pytest.approx(149 / 25)
    assert 80 <= capture.unreadable < 90


def test_a_films_times_are_those_of_its_container(tmp_path: Path) -> None:
    """An MP4 whose frames last 13 times as long as the frame rate in its header."""
    path = tmp_path / "uneven.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 25, (160, 120))
    for index in range(25):
        writer.write(np.full((120, 160, 3), 10 * index, np.uint8))
    writer.release()
    data = bytearray(path.read_bytes())
    times = data.index(b"stts")  # entries, then frames and duration of each
    entries, count, step = struct.unpack_from(">III", data, times + 8)
    assert (entries, count) == (1, 25)
    struct.pack_into(">I", data, times + 16, 13 * step)
    part = data.index(b"elst")  # entries, then duration of each
    (length,) = struct.unpack_from(">I", data, part + 12)
    struct.pack_into(">I", data, part + 12, 13 * length)
    path.write_bytes(data)
    frames = frames_of(path)
    assert len(frames) == 25
    assert np.diff([frame.time_s for frame in frames]) == pytest.approx(13 / 25, abs=0.002)


def test_a_film_without_its_index_is_named_in_the_error(film: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(film.read_bytes()[:3000])
    with pytest.raises(SourceError, match=r"cut\.mp4 is no film or picture.*cut short"):
        frames_of(cut)


def test_a_file_that_is_no_film_and_no_picture_is_named_in_the_error(tmp_path: Path) -> None:
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


def test_the_error_for_an_unknown_kind_of_source_names_the_known_ones() -> None:
    with pytest.raises(SourceError, match=r"no /nowhere/at/all: a source is a camera .*rtsp"):
        open_source("/nowhere/at/all")


def test_an_unreachable_address_is_named_without_its_password() -> None:
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
    warnings = "\n".join(record.getMessage() for record in caplog.records)
    assert "b.jpg" in warnings
    assert "e.png" in warnings
    assert "notes.txt" not in warnings


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


def test_the_error_for_an_invalid_gstreamer_pipeline_is_gstreamers(gst_launch: str) -> None:
    with pytest.raises(SourceError, match='no element "nosuchelement"'):
        open_source("nosuchelement ! videoconvert")


def test_the_error_without_gstreamer_names_the_missing_package(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(SourceError, match=r"needs gst-launch-1\.0.*gstreamer1\.0-tools"):
        open_source("videotestsrc ! videoconvert")
    with pytest.raises(SourceError, match="rpicam-apps"):
        open_source("rpicam:0")


@pytest.mark.parametrize(("width", "row"), [(128, 128), (64, 128), (200, 256), (200, 200)])
def test_a_raspberry_pi_camera_is_read_with_and_without_row_padding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, width: int, row: int
) -> None:
    """A replacement of rpicam-vid that writes I420 frames for these options."""
    ramp = np.arange(width, dtype=np.uint8) // 2 + 60
    luma = np.pad(np.tile(ramp, (48, 1)), ((0, 0), (0, row - width)), constant_values=235)
    chroma = np.pad(
        np.full((48, width // 2), 128, np.uint8),
        ((0, 0), (0, (row - width) // 2)),
        constant_values=9,
    )
    (tmp_path / "frame").write_bytes(luma.tobytes() + chroma.tobytes())
    program = tmp_path / "rpicam-vid"
    program.write_text(
        "#!/bin/sh\n"
        'n=2; while [ $# -gt 1 ]; do case "$1" in --output) out=$2;; --codec) codec=$2;;'
        " --frames) n=$2;; esac; shift; done\n"
        '[ "$codec" = yuv420 ] || exit 3\n'
        f'[ "$out" = - ] && exec cat {tmp_path}/frame\n'
        f'cat {tmp_path}/frame {tmp_path}/frame > "$out"\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    source = open_source("rpicam:0", Settings(width=width, height=48, fps=10))
    for _ in range(2):
        taken = read(source)
        assert taken is not None
        assert taken[0].shape == (48, width, 3)
        grey = (ramp.astype(float) - 16) * 1.164
        assert np.abs(taken[0].astype(float) - grey[np.newaxis, :, np.newaxis]).max() < 3
    with pytest.raises(SourceError, match="no pictures any more"):
        read(source)
    source.close()


@pytest.mark.parametrize("address", ["rtsp://[::1", "rtsp://me:hun/ter@cam/1", "http://:80/x"])
def test_an_invalid_address_is_an_error_of_one_camera(address: str) -> None:
    assert is_live(address)
    with pytest.raises(SourceError, match="is not an address: give name and password as") as caught:
        open_source(address)
    assert "hun" not in caught.value.message


def test_the_error_for_a_misspelt_scheme_holds_no_password() -> None:
    with pytest.raises(SourceError, match=r"there is no rtps://…@cam/1") as caught:
        open_source("rtps://me:secret@cam/1")
    assert "secret" not in str(caught.value.details)


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
        ("/dev/shm/door.mp4", False),
    ],
)
def test_a_live_source_is_known_by_its_name(spec: str, live: bool) -> None:
    assert is_live(spec) == live

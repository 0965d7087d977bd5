"""What of an address is shown, and that no password ever is."""

import pytest

from shared.addresses import pipeline_secrets, redacted, redacted_text


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("/dev/video0", "/dev/video0"),
        ("films/door@night.mp4", "films/door@night.mp4"),
        ("rtsp://cam.local:554/Streaming/Channels/101", None),
        ("rtsp://[fe80::1]:554/h264Preview_01_main", None),
        ("http://cam/video?channel=1&subtype=0", None),
        ("rtsp://admin:secret@cam/1", "rtsp://…@cam/1"),
        ("rtsp://admin:p@ssecret@cam:9/live", "rtsp://…@cam:9/live"),
        ("rtsp://admin:hun/tersecret@cam:9/live", "rtsp://…@cam:9"),
        ("rtsp://admin:12/34secret@cam/live", "rtsp://…@cam"),
        ("rtsp://admin:12?34secret@cam/live", "rtsp://admin/…"),
        ("rtsp://admin:a#secret@cam/live", "rtsp://…@cam"),
        ("rtsp://admin:my secret@cam/live", "rtsp://…@cam/live"),
        ("rtsp://admin:secret", "rtsp://…"),
        ("http://cam/x?cmd=snapPicture2&usr=admin&pwd=secret", "http://cam/x?cmd=snapPicture2&…"),
        ("http://cam/x?pwd=se@secret", "http://cam/…"),
        ("http://cam/x?pwd=se&secret", "http://cam/x?…"),
        ("http://cam/x?channel=%73ecret;pwd=secret", "http://cam/x?…"),
        ("rtsp://cam/user=admin_password=secret_channel=1.sdp", "rtsp://cam/…"),
        ("rtsp://cam/0/admin:secret/main", "rtsp://cam/0/…/main"),
        ("rtsps://nvr:7441/1DMkhUsecretnnoAbG", "rtsps://nvr:7441/…"),
        ("admin:secret@cam/live", "…@cam"),
        ("http:/admin:secret@cam/live", "…@cam"),
        ('rtspsrc location="rtsp://a:secret@c/" user-pw="s ! secret" ! decodebin ! videoconvert',
         "rtspsrc ! decodebin ! videoconvert"),
        ("rtspsrc user-pw='secret ! decodebin", "a GStreamer pipeline"),
    ],
)  # fmt: skip
def test_an_address_is_shown_without_what_may_be_secret(address: str, shown: str | None) -> None:
    assert redacted(address) == (shown or address)


def test_the_words_of_libraries_and_programs_are_shown_without_passwords() -> None:
    pipeline = (
        "rtspsrc location=rtsp://me:secret@cam/1 user-id=warden user-pw='hid den' ! decodebin"
    )
    shown = 'could not set "user-pw" to "hid den" for warden at rtsp://me:secret@cam/1, pwd=secret'
    shown = redacted_text(shown, pipeline_secrets(pipeline))
    assert "secret" not in shown
    assert "hid den" not in shown
    assert "warden" not in shown
    assert shown.startswith('could not set "user-pw" to')

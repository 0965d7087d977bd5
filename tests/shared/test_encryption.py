"""Envelopes open for their key and for what they are about, and for nothing else."""

import hashlib
import logging
from pathlib import Path

import pytest

from shared.encryption import OVERHEAD_BYTES, SALT_BYTES, Key, Keyring, about, key_id_of
from shared.errors import ConfigurationError, Damaged, KeyMissing

PLAIN = b"a template, or a photo" * 10
ABOUT = about("template", 1, "0197")


def test_what_was_sealed_opens_and_is_not_in_the_envelope() -> None:
    ring = Keyring([Key.new()])
    sealed = ring.seal(PLAIN, ABOUT)
    assert ring.open(sealed, ABOUT) == PLAIN
    assert len(sealed) == len(PLAIN) + OVERHEAD_BYTES
    assert PLAIN[:8] not in sealed
    assert ring.seal(PLAIN, ABOUT) != sealed  # another nonce


def test_an_envelope_in_anothers_place_does_not_open() -> None:
    ring = Keyring([Key.new()])
    sealed = ring.seal(PLAIN, ABOUT)
    for other in (
        about("template", 2, "0197"),
        about("template", 1, "0198"),
        about("photo", 1, "0197"),
    ):
        with pytest.raises(Damaged, match="another's place"):
            ring.open(sealed, other)


def test_a_single_changed_bit_anywhere_is_noticed() -> None:
    ring = Keyring([Key.new()])
    sealed = ring.seal(PLAIN, ABOUT)
    for place in range(len(sealed)):
        changed = bytearray(sealed)
        changed[place] ^= 0x10
        with pytest.raises((Damaged, KeyMissing)):
            ring.open(bytes(changed), ABOUT)


@pytest.mark.parametrize("stub", [b"", b"MUE", b"MUE\x01" + bytes(20), PLAIN])
def test_what_is_no_envelope_is_said_to_be_damaged(stub: bytes) -> None:
    with pytest.raises(Damaged, match="no envelope"):
        Keyring([Key.new()]).open(stub, ABOUT)


def test_parts_that_join_to_the_same_text_are_about_different_things() -> None:
    assert about("a", "bc") != about("ab", "c") != about("abc")
    assert about("a", 1, "2") != about("a", 12)


def test_a_missing_key_is_named_by_its_id_and_told_from_damage() -> None:
    old, new = Key.new(), Key.new()
    sealed = Keyring([old]).seal(PLAIN, ABOUT)
    assert key_id_of(sealed) == old.id
    with pytest.raises(KeyMissing, match=old.id.hex()):
        Keyring([new]).open(sealed, ABOUT)


def test_a_ring_seals_with_its_first_key_and_opens_with_all() -> None:
    old, new = Key.new(), Key.new()
    sealed = Keyring([old]).seal(PLAIN, ABOUT)
    both = Keyring.from_text(f"# of this autumn\n{new.text}\n{old.text}  # of the spring\n")
    assert both.open(sealed, ABOUT) == PLAIN
    assert key_id_of(both.seal(PLAIN, ABOUT)) == new.id
    assert [key.id for key in both] == [new.id, old.id]
    assert old.id in both
    assert Key.new().id not in both


def test_keys_come_from_one_line_of_an_environment_variable_too() -> None:
    first, second = Key.new(), Key.new()
    ring = Keyring.from_text(f"{first.text},{second.text}")
    assert [key.id for key in ring] == [first.id, second.id]


@pytest.mark.parametrize("text", ["", "# nothing\n", "c2hvcnQ=", "not base64 at all", "é"])
def test_texts_that_hold_no_key_are_refused_without_being_shown(text: str) -> None:
    with pytest.raises(ConfigurationError, match="keyring new") as refused:
        Keyring.from_text(text)
    assert not text.strip() or text not in refused.value.message


def test_a_key_file_is_read_or_named_in_the_error(tmp_path: Path) -> None:
    key, file = Key.new(), tmp_path / "master.keys"
    with pytest.raises(ConfigurationError, match=r"master\.keys cannot be read"):
        Keyring.from_file(file)
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigurationError, match=r"master\.keys is not a text file"):
        Keyring.from_file(file)
    file.write_text("nonsense")
    with pytest.raises(ConfigurationError, match=r"master\.keys: a key has"):
        Keyring.from_file(file)
    file.write_text(key.text + "\n")
    assert Keyring.from_file(file).current.id == key.id


def test_a_passphrase_makes_the_same_key_with_the_same_salt_only() -> None:
    one, other = bytes(SALT_BYTES), bytes([1]) * SALT_BYTES
    key = Key.from_passphrase("correct horse", one)
    costs = {"n": 2**17, "r": 8, "p": 1, "maxmem": 2**28}
    assert key.secret == hashlib.scrypt(b"correct horse", salt=one, dklen=32, **costs)
    sealed = key.seal(PLAIN, ABOUT)
    with pytest.raises(KeyMissing):
        Keyring([Key.from_passphrase("correct horse", other)]).open(sealed, ABOUT)


def test_no_text_about_a_key_shows_its_secret(caplog: pytest.LogCaptureFixture) -> None:
    key = Key.new()
    ring = Keyring([key])
    with caplog.at_level(logging.DEBUG):
        logging.getLogger("test").info("%r %r %s", key, ring, key)
    shown = caplog.text + repr(key) + repr(ring) + str(ring)
    assert key.text not in shown
    assert key.secret.hex() not in shown
    assert key.id.hex() in shown

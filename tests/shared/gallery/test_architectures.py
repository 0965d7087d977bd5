"""The kernels of ARM processors, compiled across and run under emulation.

Needs Debian's gcc-aarch64-linux-gnu, libc6-dev-arm64-cross and qemu-user-static; skipped, and says
so, where they are missing.
"""

import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
KERNEL = Path(__file__).parents[3] / "shared" / "gallery" / "kernel"
FLAGS = ["-O3", "-std=gnu11", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror", "-Wno-psabi"]


def needed(*programs: str) -> None:
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed")


def built(compiler: str, folder: Path) -> Path:
    binary = folder / compiler
    source = str(HERE / "kernels_agree.c")
    build = [compiler, *FLAGS, "-static", f"-I{KERNEL}", source, "-o", str(binary)]
    subprocess.run([*build, "-lm", "-pthread"], check=True)
    return binary


def digests(*command: str) -> dict[str, str]:
    """What each kernel computes, by kernel name."""
    run = subprocess.run(command, check=True, capture_output=True, text=True)
    return dict(line.split() for line in run.stdout.splitlines())


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    needed("gcc")
    return digests(str(built("gcc", tmp_path_factory.mktemp("native"))))


@pytest.fixture(scope="module")
def arm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    needed("aarch64-linux-gnu-gcc", "qemu-aarch64-static")
    return built("aarch64-linux-gnu-gcc", tmp_path_factory.mktemp("arm"))


def test_the_kernels_of_this_processor_agree_to_the_bit(native: dict[str, str]) -> None:
    assert len(set(native.values())) == 1


@pytest.mark.parametrize(
    ("processor", "kernels"),
    [
        ("max", {"neon-dotprod", "neon", "portable"}),
        ("cortex-a72", {"neon", "portable"}),  # Raspberry Pi 4: no dot product
    ],
)
def test_the_kernels_of_arm_processors_agree_with_this_one_to_the_bit(
    native: dict[str, str], arm: Path, processor: str, kernels: set[str]
) -> None:
    there = digests("qemu-aarch64-static", "-cpu", processor, str(arm))
    assert there.keys() == kernels
    assert set(there.values()) == {native["portable"]}

"""How much memory a process may use, told from files as the kernel writes them."""

from pathlib import Path

from shared.malloc_trim import memory_limit_bytes


def test_the_tightest_limit_of_all_control_groups_holds(tmp_path: Path) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/system.slice/edge-agent.service\n")
    service = tmp_path / "sys/fs/cgroup/system.slice/edge-agent.service"
    service.mkdir(parents=True)
    installed = memory_limit_bytes(tmp_path)
    assert installed > 2**26
    (service / "memory.max").write_text("max\n")
    (service.parent / "memory.max").write_text(f"{2**25}\n")
    assert memory_limit_bytes(tmp_path) == 2**25
    (service / "memory.max").write_text(f"{2**24}\n")
    assert memory_limit_bytes(tmp_path) == 2**24

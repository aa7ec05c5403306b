"""Where the kernel's count is read, and what an end is taken for."""

from pathlib import Path

import pytest

from worker import memory_kills as kills


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Of our cgroup and of the machine; neither is there yet."""
    found = tmp_path / "memory.events", tmp_path / "vmstat"
    monkeypatch.setattr(kills, "counters", lambda: found)
    return found


def test_our_own_cgroup_counts_before_the_machine(places: tuple[Path, Path]) -> None:
    own, machine = places
    assert kills.memory_kills() is None
    machine.write_text("nr_free_pages 12\noom_kill 5\noom_kill_group 1\n")
    assert kills.memory_kills() == 5
    own.write_text("low 0\nhigh 0\nmax 40\noom 3\noom_kill 2\noom_group_kill 0\n")
    assert kills.memory_kills() == 2


def test_a_machine_without_counters_has_no_proof(places: tuple[Path, Path]) -> None:
    assert kills.memory_sentence(-9, None, ()) is None
    places[0].write_text("oom_kill 1\n")
    assert kills.memory_sentence(-9, None, ()) is None, "nobody counted before"


@pytest.mark.parametrize(
    ("code", "before", "words", "proved"),
    [
        (-9, 0, "", True),
        (-9, 1, "", False),
        (-11, 0, "", False),
        (1, 0, "", False),
        (-6, 1, "terminate called after throwing an instance of 'std::bad_alloc'", True),
        (-6, 1, "mmap: Cannot allocate memory", True),
        (-6, 1, "Check failed: dst", False),
        (-11, 1, "std::bad_alloc", False),
    ],
)
def test_what_an_end_is_taken_for(places: tuple[Path, Path], code: int, before: int, words: str, proved: bool) -> None:
    places[0].write_text("oom_kill 1\n")
    assert (kills.memory_sentence(code, before, ["noise", words]) is not None) is proved


def test_on_linux_the_machine_is_among_the_places() -> None:
    found = kills.counters()
    assert not found or found[-1] == Path("/proc/vmstat")

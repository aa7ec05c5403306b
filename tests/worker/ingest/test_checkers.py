"""Checker processes: in order, side by side, and a decoder that crashes or hangs costs one picture."""

import sys
import textwrap
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from tests.worker.ingest.corpus import picture
from worker.ingest.checkers import AHEAD, Checkers, Job
from worker.ingest.entries import Code, Refusal
from worker.training.pictures import PictureLimits, Reason

Write = Callable[[bytes], Path]


@pytest.fixture
def fragile(tmp_path: Path) -> tuple[str, ...]:
    """A checker that crashes on, or never answers for, pictures that begin with such a word."""
    script = tmp_path / "fragile.py"
    script.write_text(
        textwrap.dedent(
            """
            import os, time
            from pathlib import Path
            from worker.ingest import checker

            honest = checker.check

            def check(question):
                source = Path(question["source"])
                body = source.read_bytes()
                if body.startswith(b"crash"):
                    os.abort()
                if body.startswith(b"once"):
                    source.write_bytes(body[4:])
                    os._exit(1)
                if body.startswith(b"hang"):
                    time.sleep(60)
                if body.startswith(b"tell"):
                    source.with_suffix(".env").write_text(chr(10).join(os.environ))
                if body.startswith(b"raise"):
                    raise KeyError("nobody foresaw this")
                return honest(question)

            checker.check = check
            checker.main()
            """
        )
    )
    return (sys.executable, "-c", f"import sys; sys.path.insert(0, '.'); exec(open({str(script)!r}).read())")


def jobs(bodies: Iterable[bytes], write: Write) -> Iterator[Job]:
    for number, body in enumerate(bodies):
        source = write(body)
        yield Job(number, f"{number}.png", "0" * 64, source, source.with_suffix(".jpg"))


def test_pictures_come_out_in_order_with_facts_and_thumbnail(write_file: Write) -> None:
    bodies = [picture(seed) if seed % 3 else b"no picture" for seed in range(30)]
    with Checkers(3, PictureLimits()) as checkers:
        done = list(checkers.check(jobs(bodies, write_file)))
    assert [job.ordinal for job in done] == list(range(30))
    for job in done:
        if job.ordinal % 3:
            assert job.facts is not None
            assert (job.facts.format, job.facts.width, job.facts.height) == ("PNG", 24, 16)
            assert job.thumbnail is not None
            assert job.thumbnail.read_bytes().startswith(b"\xff\xd8")
        else:
            assert job.refusal is not None
            assert job.refusal.code == Reason.NOT_AN_IMAGE


def test_what_is_refused_already_passes_through(write_file: Write) -> None:
    refusal = Refusal(Code.JUNK, "Junk.", skipped=True)
    with Checkers(1, PictureLimits()) as checkers:
        coming = [Job(0, "a", refusal=refusal), *jobs([picture(1)], write_file), Job(2, "b", refusal=refusal)]
        assert [job.refusal is refusal for job in checkers.check(coming)] == [True, False, True]


def test_jobs_are_taken_only_when_somebody_is_free(write_file: Write) -> None:
    taken = []

    def coming() -> Iterator[Job]:
        for job in jobs([picture(seed) for seed in range(60)], write_file):
            taken.append(job.ordinal)
            yield job

    with Checkers(2, PictureLimits()) as checkers:
        for number, job in enumerate(checkers.check(coming())):
            assert job.ordinal == number
            assert len(taken) - number <= 4 * AHEAD * 2 + 1


def test_limits_reach_the_checkers(write_file: Write) -> None:
    with Checkers(1, PictureLimits(max_pixels=10)) as checkers:
        (job,) = checkers.check(jobs([picture(1)], write_file))
    assert job.refusal is not None
    assert job.refusal.code == Reason.TOO_MANY_PIXELS


@pytest.mark.parametrize("word", [b"crash", b"raise"])
def test_a_crash_costs_one_picture(word: bytes, fragile: tuple[str, ...], write_file: Write) -> None:
    bodies = [picture(1), word, picture(2), picture(3), word, picture(4)]
    with Checkers(2, PictureLimits(), command=fragile) as checkers:
        done = list(checkers.check(jobs(bodies, write_file)))
    assert [job.refusal.code if job.refusal else "kept" for job in done] == [
        "kept", Code.DECODER_CRASHED, "kept", "kept", Code.DECODER_CRASHED, "kept",
    ]  # fmt: skip


def test_what_decodes_strangers_pictures_knows_no_secret(
    fragile: tuple[str, ...], write_file: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THAW_DATABASE_URL", "postgresql://thaw:hidden@db/thaw")
    source = write_file(b"tell")
    with Checkers(1, PictureLimits(), command=fragile) as checkers:
        list(checkers.check([Job(0, "a.png", "0" * 64, source, source.with_suffix(".jpg"))]))
    told = source.with_suffix(".env").read_text().splitlines()
    assert "PATH" in told
    assert "THAW_DATABASE_URL" not in told


def test_a_crash_that_does_not_come_again_costs_nothing(fragile: tuple[str, ...], write_file: Write) -> None:
    with Checkers(1, PictureLimits(), command=fragile) as checkers:
        (job,) = checkers.check(jobs([b"once" + picture(1)], write_file))
    assert job.facts is not None


def test_a_decoder_that_hangs_is_stopped(fragile: tuple[str, ...], write_file: Write) -> None:
    began = time.monotonic()
    with Checkers(2, PictureLimits(), seconds=4, command=fragile) as checkers:
        done = list(checkers.check(jobs([picture(1), b"hang", picture(2), picture(3)], write_file)))
    assert [job.refusal.code if job.refusal else "kept" for job in done] == [
        "kept",
        Code.DECODER_TOO_SLOW,
        "kept",
        "kept",
    ]
    assert time.monotonic() - began < 30


def test_nothing_is_left_running(write_file: Write) -> None:
    with Checkers(2, PictureLimits()) as checkers:
        coming = checkers.check(jobs([picture(seed) for seed in range(20)], write_file))
        next(coming)
        running = [checker.process for checker in checkers._all if checker.process is not None]
        assert running
    assert all(process.returncode is not None for process in running)

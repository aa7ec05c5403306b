"""The `thaw` command: what it prints, and that every error is one sentence and exit code 2."""

import io
import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import typer
import typer.core
import typer.main
from sqlalchemy import select

from cli.main import app, main
from core import accounts
from core.config import VERSION, Settings
from core.database import open_database
from core.tables import ApiToken, Scope, User


@dataclass
class Said:
    """What a command has printed."""

    code: int
    out: str
    error: str


Thaw = Callable[..., Said]


@pytest.fixture
def thaw(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Thaw:
    """Run `thaw` with a temporary data folder, in this process."""
    monkeypatch.setenv("THAW_DATA_DIR", str(tmp_path / "data"))

    def run(*arguments: str) -> Said:
        monkeypatch.setattr(sys, "argv", ["thaw", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        said = capsys.readouterr()
        return Said(int(end.value.code or 0), said.out, said.err)

    return run


def settings_of(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path / "data")


def test_the_version_is_printed(thaw: Thaw) -> None:
    assert thaw("--version").out == f"thaw {VERSION}\n"


def test_a_token_is_alone_on_the_last_line_and_works(thaw: Thaw, tmp_path: Path) -> None:
    said = thaw("token", "create", "my script", "--read-only", "--days", "3")
    token = said.out.splitlines()[-1]
    database = open_database(settings_of(tmp_path))
    with database.read() as session:
        found = accounts.find_token(session, token)
    database.close()
    assert said.code == 0
    assert found is not None
    assert (found[0].name, found[1].scope, found[1].name) == ("local", Scope.READ, "my script")
    assert found[1].expires_at is not None


def test_every_command_that_ends_has_json() -> None:
    group = typer.main.get_command(app)
    assert isinstance(group, typer.core.TyperGroup)
    commands = dict(group.commands)
    for name in ("token", "user"):
        below = commands.pop(name)
        assert isinstance(below, typer.core.TyperGroup)
        commands |= {f"{name} {verb}": command for verb, command in below.commands.items()}
    without = {name for name, command in commands.items() if not any("--json" in one.opts for one in command.params)}
    assert without == {"serve", "web", "worker"}, "these run until they are stopped"
    assert len(commands) > 10


def test_a_migration_says_the_schema(thaw: Thaw) -> None:
    schema = json.loads(thaw("migrate", "--json").out)["schema"]
    assert thaw("migrate").out == f"The database is up to date (schema {schema}).\n"


def test_scripts_read_what_was_made_as_json(thaw: Thaw, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = json.loads(thaw("token", "create", "mine", "--json").out)
    database = open_database(settings_of(tmp_path))
    with database.read() as session:
        found = accounts.find_token(session, made["token"])
    database.close()
    assert found is not None
    assert (found[1].id, found[1].name, found[1].scope.value) == (made["id"], made["name"], made["scope"])
    assert json.loads(thaw("link", "--json").out)["link"].startswith("http://127.0.0.1:8000/start?key=")
    monkeypatch.setattr(sys, "stdin", io.StringIO("a long enough password\n"))
    user = json.loads(thaw("user", "create", "Ada", "--password-stdin", "--json").out)
    assert (user["name"], user["is_admin"]) == ("Ada", False)


def test_a_token_without_days_never_expires_and_may_write(thaw: Thaw, tmp_path: Path) -> None:
    thaw("token", "create", "other")
    database = open_database(settings_of(tmp_path))
    with database.read() as session:
        token = session.scalars(select(ApiToken)).one()
    database.close()
    assert (token.scope, token.expires_at) == (Scope.WRITE, None)


def test_a_token_for_nobody_is_refused(thaw: Thaw) -> None:
    said = thaw("token", "create", "x", "--user", "nobody")
    assert said.code == 2
    assert 'There is no user "nobody"' in said.error


def test_a_user_can_be_made_with_a_password_from_a_pipe(
    thaw: Thaw, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("a long enough password\n"))
    assert thaw("user", "create", "Ada", "--admin", "--password-stdin").code == 0
    database = open_database(settings_of(tmp_path))
    with database.read() as session:
        assert accounts.sign_in(session, "Ada", "a long enough password").is_admin
        assert accounts.admin_exists(session)
    database.close()


def test_a_user_is_asked_for_the_password_twice(thaw: Thaw, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    answers = iter(["a long enough password", "another one"])
    monkeypatch.setattr("getpass.getpass", lambda _: next(answers))
    said = thaw("user", "create", "Ada")
    assert (said.code, said.error) == (2, "The two passwords differ. Nothing was made.\n")
    database = open_database(settings_of(tmp_path))
    with database.read() as session:
        assert session.scalars(select(User)).all() == []
    database.close()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("user", "create", "Ada", "--password-stdin"), "A password has at least 10 characters. Received: 5."),
        (("worker", "--queues", "dance"), "Unknown queue. Received: 'dance'"),
        (("serve", "--host", "0.0.0.0", "--port", "0"), "Run `thaw user create NAME --admin` first"),
        (("serve", "--port", "70000"), "THAW_PORT: "),
        (("web", "--port", "0"), "No broker is configured."),
        (("worker", "--queues", "train"), "No broker is configured."),
    ],
)
def test_errors_are_one_sentence_and_exit_code_2(
    thaw: Thaw, arguments: tuple[str, ...], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("short\n"))
    monkeypatch.setattr("cli.main.log_to_stderr", lambda _: None)
    said = thaw(*arguments)
    assert said.code == 2
    assert sentence in said.error
    assert said.error.count("\n") == 1
    assert "Traceback" not in said.error


def test_migrating_twice_changes_nothing(thaw: Thaw) -> None:
    first, again = thaw("migrate").out, thaw("migrate").out
    assert first == again
    assert re.fullmatch(r"The database is up to date \(schema \d{4}\)\.\n", first)


def test_a_start_link_can_be_used_once(thaw: Thaw, tmp_path: Path) -> None:
    link = thaw("link").out.strip()
    assert link.startswith("http://127.0.0.1:8000/start?key=")
    database = open_database(settings_of(tmp_path))
    with database.write() as session:
        assert accounts.use_start_link(session, link.partition("key=")[2]).name == "local"
    database.close()


def test_the_command_never_loads_tensorflow() -> None:
    code = "import sys, cli.main; sys.exit('tensorflow' in sys.modules or 'keras' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0


def test_the_web_server_alone_is_open_to_others_only_once_somebody_has_a_password(thaw: Thaw) -> None:
    said = thaw("web", "--host", "0.0.0.0", "--port", "0")
    assert said.code == 2
    assert "does not listen on 0.0.0.0 before somebody can sign in" in said.error

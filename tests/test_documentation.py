"""What the documents say is what the code does."""

import ast
import re
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
import typer.core
import typer.main

from app.main import create_app
from app.presenting import API
from app.reasons import WORDS
from app.rest_guide import rest_guide
from cli.main import app as command_line
from core.config import Settings, settings_table
from core.config_fields import fields_of_phase, fields_of_run, reference
from tests.samples import sample_folder
from worker.ingest.entries import Code
from worker.training.pictures import PictureRefused, Reason, inspect

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


def test_every_setting_is_documented_as_it_is() -> None:
    assert settings_table() in (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")


def test_every_code_of_a_receipt_is_documented_and_has_words() -> None:
    text = (ROOT / "docs" / "receipt.md").read_text(encoding="utf-8")
    codes = {one.value for one in (*Code, *Reason)}
    assert {code for code in codes if f"`{code}`" not in text} == set()
    assert codes <= set(WORDS)


def test_every_awkward_sample_has_a_documented_row() -> None:
    folder = sample_folder("awkward")
    if folder is None:
        pytest.skip("the awkward samples are not beside this checkout")
    text = (ROOT / "docs" / "receipt.md").read_text(encoding="utf-8")
    rows, said = Counter[str](), set[str]()
    for path in sorted(folder.iterdir()):
        try:
            fixes = inspect(path).fixes
            rows["fixed" if fixes else "kept"] += 1
            said |= {f"| {re.sub('orientation [0-9]', 'orientation N', fix)} |" for fix in fixes}
        except PictureRefused as refused:
            rows["refused"] += 1
            said.add(f"`{refused.reason}`")
    assert {words for words in said if words not in text} == set()
    assert rows == {"kept": 31, "fixed": 46, "refused": 18}
    assert "77 are kept (46 of them fixed), 18 refused" in text


def test_every_setting_has_help() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


def test_every_field_of_a_training_config_is_documented_as_it_is() -> None:
    assert reference() in (ROOT / "docs" / "training_config.md").read_text(encoding="utf-8")


def test_every_field_of_a_training_config_has_help() -> None:
    fields = [*fields_of_run(), *fields_of_phase("frozen"), *fields_of_phase("fine_tune")]
    assert len(fields) > 50
    assert [one.path for one in fields if not one.help or not one.allowed] == []


def test_the_rest_guide_is_what_the_contract_says() -> None:
    written = (ROOT / "docs" / "rest.md").read_text(encoding="utf-8")
    assert written == rest_guide(), "Write it again: .venv/bin/python -m app.rest_guide"


def test_every_address_of_the_contract_is_in_the_rest_guide() -> None:
    guide = rest_guide()
    with tempfile.TemporaryDirectory() as folder:
        app = create_app(Settings(data_dir=Path(folder), redis_url="redis://127.0.0.1:1/0"))
        paths = app.openapi()["paths"]
        app.state.house.queue.close()
        app.state.house.database.close()
    headings = {f"### {method.upper()} {path.removeprefix(API)}" for path in paths for method in paths[path]}
    assert len(headings) > 50
    assert headings <= set(guide.splitlines())


def commands_of(group: typer.core.TyperGroup, before: str = "thaw") -> Iterator[tuple[str, list[str]]]:
    """Every command of `thaw` with its options."""
    for name, command in group.commands.items():
        if isinstance(command, typer.core.TyperGroup):
            yield from commands_of(command, f"{before} {name}")
        elif not command.hidden:
            shown = [one for one in command.params if not getattr(one, "hidden", False)]
            yield f"{before} {name}", [max(one.opts, key=len) for one in shown if one.opts[0].startswith("-")]


def test_every_command_and_its_options_are_documented() -> None:
    page = (ROOT / "docs" / "command-line.md").read_text(encoding="utf-8")
    group = typer.main.get_command(command_line)
    assert isinstance(group, typer.core.TyperGroup)
    commands = dict(commands_of(group))
    assert {"thaw serve", "thaw upload", "thaw token create"} <= set(commands)
    for command, options in commands.items():
        assert f"`{command}" in page, command
        assert [one for one in options if f"`{one}`" not in page and f"{one} " not in page] == [], command


def slowness_of_tests() -> dict[str, str]:
    """Name of every test function -> "slow", "partly slow" (some of its cases are), or "" (it runs in `make test`)."""

    def says_slow(node: ast.AST) -> bool:
        return any(isinstance(part, ast.Attribute) and part.attr == "slow" for part in ast.walk(node))

    found = {}
    for path in (ROOT / "tests").rglob("test_*.py"):
        body = ast.parse(path.read_text(encoding="utf-8")).body
        assigned = [one for one in body if isinstance(one, ast.Assign | ast.AnnAssign) and says_slow(one)]
        slow_lists = {name.id for one in assigned for name in ast.walk(one) if isinstance(name, ast.Name)} - {"pytest"}
        for function in body:
            if isinstance(function, ast.FunctionDef) and function.name.startswith("test_"):
                marks = function.decorator_list
                whole = any(isinstance(mark, ast.Attribute) and mark.attr == "slow" for mark in marks)
                names = {part.id for mark in marks for part in ast.walk(mark) if isinstance(part, ast.Name)}
                partly = any(says_slow(mark) for mark in marks) or names & slow_lists
                found[function.name] = "slow" if whole else "partly slow" if partly else ""
    return found


def test_every_test_that_the_engines_page_names_exists_and_is_called_slow_where_it_is() -> None:
    slowness = slowness_of_tests()
    page = (ROOT / "docs" / "engine.md").read_text(encoding="utf-8")
    named = dict(re.findall(r"`(test_\w+)`(?: \*(slow|partly slow)\*)?", page))
    assert len(named) > 20
    assert set(named) - set(slowness) == set()
    assert {name: mark for name, mark in named.items() if mark != slowness[name]} == {}
    assert {"slow", "partly slow"} <= set(named.values())


def slugs(document: Path) -> set[str]:
    """Anchors of a document's headings, as GitHub makes them."""
    text = re.sub(r"```.*?```", "", document.read_text(encoding="utf-8"), flags=re.DOTALL)
    found: Counter[str] = Counter()
    made = set()
    for title in re.findall(r"^#{1,6} +(.+?) *$", text, re.MULTILINE):
        plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", title)
        slug = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        made.add(f"{slug}-{found[slug]}" if found[slug] else slug)
        found[slug] += 1
    return made


def links_of(document: Path) -> list[str]:
    """Links to files of ours, with their anchors."""
    links = re.findall(r"\]\(([^)\s]+)\)", document.read_text(encoding="utf-8"))
    return [link for link in links if "://" not in link and not link.startswith("mailto:")]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_between_documents_lead_somewhere(document: Path) -> None:
    targets = [(link, document.parent / (link.partition("#")[0] or document.name)) for link in links_of(document)]
    assert [link for link, target in targets if not target.exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_anchors_in_links_are_headings(document: Path) -> None:
    missing = []
    for link in links_of(document):
        path, _, anchor = link.partition("#")
        target = document.parent / path if path else document
        if anchor and target.suffix == ".md" and target.exists() and anchor not in slugs(target):
            missing.append(link)
    assert missing == []

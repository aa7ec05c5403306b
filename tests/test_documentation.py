"""What the documents say is what the code does."""

import re
from pathlib import Path

import pytest

from core.config import Settings, settings_table
from core.config_fields import fields_of_phase, fields_of_run, reference

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


def test_every_setting_is_documented_as_it_is() -> None:
    assert settings_table() in (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")


def test_every_setting_has_help() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


def test_every_field_of_a_training_config_is_documented_as_it_is() -> None:
    assert reference() in (ROOT / "docs" / "training_config.md").read_text(encoding="utf-8")


def test_every_field_of_a_training_config_has_help() -> None:
    fields = [*fields_of_run(), *fields_of_phase("frozen"), *fields_of_phase("fine_tune")]
    assert len(fields) > 50
    assert [one.path for one in fields if not one.help or not one.allowed] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_between_documents_lead_somewhere(document: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", document.read_text(encoding="utf-8"))
    local = [link for link in links if "://" not in link and not link.startswith("mailto:")]
    assert [link for link in local if not (document.parent / link).exists()] == []

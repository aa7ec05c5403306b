"""Settings fail at start with a sentence that names the variable."""

import pytest

from core.config import SettingsInvalid, read_settings


def test_the_environment_is_read_and_a_flag_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THAW_PORT", "1234")
    assert read_settings().port == 1234
    assert read_settings(port=99).port == 99


def test_the_usual_names_of_database_and_broker_are_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql+psycopg://x/y")
    monkeypatch.setenv("REDIS_URL", "redis://elsewhere:6379/0")
    settings = read_settings()
    assert settings.database_address == "postgresql+psycopg://x/y"
    assert settings.redis_url == "redis://elsewhere:6379/0"


@pytest.mark.parametrize(("name", "value"), [("THAW_PORT", "many"), ("THAW_PORT", "70000"), ("THAW_LOG_LEVEL", "LOUD")])
def test_a_wrong_setting_stops_the_start_with_its_name(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsInvalid, match=f"{name}.*{value}"):
        read_settings()


def test_a_lease_shorter_than_two_renewals_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THAW_LEASE_SECONDS", "12")
    with pytest.raises(SettingsInvalid, match="half of THAW_LEASE_SECONDS"):
        read_settings()

"""One real server for all end-to-end tests that only use it."""

from collections.abc import Iterator

import pytest

from tests.end_to_end.house import House, running_house

ON_BOTH_DATABASES = ("sqlite", pytest.param("postgresql", marks=pytest.mark.slow))


def database_of(request: pytest.FixtureRequest) -> dict[str, str]:
    """The environment of a server on the database that this fixture's parameter names."""
    return {"DATABASE_URL": request.getfixturevalue("postgres").create()} if request.param == "postgresql" else {}


@pytest.fixture(scope="session", params=ON_BOTH_DATABASES)
def house(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A running `thaw serve`; see tests/end_to_end/house.py."""
    with running_house(tmp_path_factory.mktemp("house"), **database_of(request)) as running:
        yield running

"""One real server for all end-to-end tests that only use it."""

from collections.abc import Iterator

import pytest

from tests.end_to_end.house import House, running_house


@pytest.fixture(scope="session")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A running `thaw serve`; see tests/end_to_end/house.py."""
    with running_house(tmp_path_factory.mktemp("house")) as running:
        yield running

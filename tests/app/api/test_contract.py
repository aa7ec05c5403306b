"""Every answer of the API conforms to its OpenAPI document: generated requests, good and bad, over a real server with real rows."""

import itertools
from collections.abc import Iterator
from dataclasses import asdict

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis import Case, GenerationMode
from schemathesis.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

import migrations
from app.main import create_app
from core.config import Settings
from core.database import open_database
from tests.app.people import Caller, belongings, caller
from tests.app.server import serving

CHECKS = [
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
schemathesis.serializer.alias("application/offset+octet-stream", "application/octet-stream")
STREAMS = "/events"  # they have no end
EXAMPLES = 4


@pytest.fixture(scope="module")
def served(
    database_url: str | None, redis_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Caller]]:
    """One server for all generated requests: its address, and Ada."""
    values = {"database_url": database_url, "redis_url": redis_url, "disk_reserve_bytes": 0, "predict_timeout": 0.1}
    settings = Settings(**values, data_dir=tmp_path_factory.mktemp("served"), sweep_seconds=600)
    database = open_database(settings)
    migrations.upgrade(database)
    database.close()
    web = create_app(settings)
    with serving(web) as address:
        yield address, caller(web, web.state.house, "ada")


def test_every_answer_conforms_to_the_document(served: tuple[str, Caller]) -> None:
    address, ada = served
    house = ada.client.app.state.house
    owned = {**asdict(belongings(house, ada.user)), "file_format": "saved_model"}
    schema = schemathesis.openapi.from_dict(ada.client.app.openapi())
    operations = [one.ok() for one in schema.get_all_operations()]
    asked = [one for one in operations if not one.path.endswith(STREAMS)]
    assert len(asked) > 45
    statuses: set[int] = set()
    real = itertools.count()

    def ask(case: Case) -> None:
        if case.method.upper() != "DELETE" and next(real) % 3:
            case.path_parameters = {name: owned.get(name, value) for name, value in case.path_parameters.items()}
        answer = case.call(base_url=address, headers={"Authorization": f"Bearer {ada.token}"}, timeout=20)
        assert answer.status_code != 500, answer.text
        statuses.add(answer.status_code)
        case.validate_response(answer, checks=CHECKS)

    for operation in asked:
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            if mode == GenerationMode.NEGATIVE and not list(operation.iter_parameters()) and not operation.body:
                continue
            run_examples(operation.as_strategy(generation_mode=mode), ask)
    assert {200, 201, 202, 404, 422} <= statuses, statuses


def run_examples(strategy: object, ask: object) -> None:
    """A few examples, the same in every run."""
    few = settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    few(seed(7)(given(strategy)(ask)))()

"""The OpenAPI document: FastAPI's own, with the problem details that every route may answer."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from app.api.schemas.base import ProblemBody

INTRODUCTION = """Everything a page can do, this can do. Send `Authorization: Bearer <token>` (`thaw token create NAME`).
Lists: `?limit=` (at most 200) and `?cursor=`. Unknown fields are refused (422). `Idempotency-Key` is honoured for 24 hours on
every POST that creates."""


def describe(app: FastAPI) -> None:
    """Have `app.openapi()` give the whole contract, made once."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _document(app: FastAPI) -> dict[str, Any]:
    document = get_openapi(title=app.title, version=app.version, routes=app.routes, description=INTRODUCTION)
    schema = ProblemBody.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    schemas.update(schema.pop("$defs", {}))
    schemas["ProblemBody"] = schema
    return document

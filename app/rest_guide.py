"""`python -m app.rest_guide` writes docs/rest.md from the OpenAPI document; a test compares the two."""

import json
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from app.main import create_app
from app.presenting import API
from core.config import Settings

TITLES = {
    "system": "This installation",
    "tokens": "API tokens",
    "sessions": "Browser sessions",
    "users": "People",
    "datasets": "Datasets",
    "label desk": "Label desk",
    "uploads": "Uploads",
    "runs": "Runs",
    "events": "Event streams",
    "models": "Models",
    "weights": "Weights",
}
BEGINNING = """# REST guide

Everything a page can do, the REST API can do, and `thaw upload`, `thaw train`, `thaw watch` and `thaw download`
([command line](command-line.md)) are made of it. A whole story with curl stands in the
[README](../README.md#the-same-by-rest). The document that programs read is at `/api/v1/openapi.json`; this page is
generated from it by `python -m app.rest_guide`.

## Rules for all addresses

- **Base** `/api/v1`. JSON in UTF-8, snake_case. Times are RFC 3339 in UTC. Ids are opaque strings that sort by
  creation.
- **Who calls**: `Authorization: Bearer <token>`, made by `thaw token create NAME` or `POST /tokens`. Without a valid
  one: 401. A token with the scope `read` may look and not change (403).
- **Lists** take `limit` (50, at most 200) and `cursor`, and answer `{"items": [...], "next_cursor": ...}`;
  `next_cursor` is null at the end. A cursor belongs to the sort and filter that it came with.
- **Errors** are `application/problem+json` (RFC 9457): `{"type", "title", "status", "detail"}`, for wrong input also
  `"errors": [{"field", "message", "received"}]`. `detail` is one sentence for people. An unexpected error (500) has a
  `request_id` that the log has too.
- **Unknown fields** are refused with 422, in bodies and in queries: a misspelt filter must not pass as no filter.
- **Twice is once**: every POST that creates honours an `Idempotency-Key` header for 24 hours. The same key with
  another body: 422; while the first is still running: 409. For bodies that stream, address, kind and length are
  compared.
- **Work is queued**: a POST that starts work answers 202 at once; its progress is read by GET or followed as an event
  stream.
- Fields may be added; none is renamed within `/api/v1`.

| status | means |
|---|---|
| 400 | a header that cannot be understood |
| 401, 403 | no valid token; a token that may only read, or somebody else's business |
| 404 | there is nothing, or it belongs to somebody else (never told apart) |
| 409 | its state forbids it: a model that is not ready, a dataset in use |
| 413, 415 | more than this address reads; a kind of body that it does not read |
| 422 | the input is wrong: `errors` says which field, what was received and what is allowed |
| 408, 410, 412 | resumable uploads: the connection went silent; nobody went on for too long; another version of tus |
| 423, 460 | resumable uploads: another request sends this file now; the bytes do not have their checksum |
| 429, 503 | too much at once, or nobody answers in time: try again after `Retry-After` seconds |
| 507 | the disk is full; nothing was changed |
"""
METHODS = ("options", "head", "get", "post", "patch", "put", "delete")


class Guide:
    """Writes one OpenAPI document as Markdown."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._document = document
        self._schemas: Mapping[str, Any] = document["components"]["schemas"]

    def lines(self) -> Iterator[str]:
        """The page, line by line."""
        yield BEGINNING
        for tag, title in TITLES.items():
            yield f"## {title}\n"
            for path, method, operation in self._operations(tag):
                yield from self._operation(path.removeprefix(API), method, operation)
        yield "## Bodies\n"
        for name in sorted(self._schemas):
            yield from self._schema(name)

    def _operations(self, tag: str) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
        for path, operations in self._document["paths"].items():
            for method in METHODS:
                if tag in operations.get(method, {}).get("tags", []):
                    yield path, method, operations[method]

    def _operation(self, path: str, method: str, operation: Mapping[str, Any]) -> Iterator[str]:
        yield f"### {method.upper()} {path}\n"
        yield f"{operation['description']}\n"
        query = [one for one in operation.get("parameters", []) if one["in"] == "query"]
        if paged := {"limit", "cursor"} <= {one["name"] for one in query}:  # said once, in the rules
            query = [one for one in query if one["name"] not in {"limit", "cursor"}]
        if query:
            yield "| query | type | |\n|---|---|---|"
            yield from (self._field(one["name"], one["schema"], one.get("description", "")) for one in query)
            yield ""
        if headers := [f"`{one['name']}`" for one in operation.get("parameters", []) if one["in"] == "header"]:
            yield f"Headers: {', '.join(headers)}\n"
        for part, said in (("Send", self._body(operation)), ("Answer", self._answers(operation))):
            if said:
                yield f"{part}: {said}{', in pages' if paged and part == 'Answer' else ''}\n"

    def _body(self, operation: Mapping[str, Any]) -> str:
        content = operation.get("requestBody", {}).get("content", {})
        return " or ".join(self._content(kind, one) for kind, one in content.items())

    def _answers(self, operation: Mapping[str, Any]) -> str:
        said = []
        for status, answer in operation["responses"].items():
            if status != "default":
                kinds = [self._content(kind, one) for kind, one in answer.get("content", {}).items()]
                said.append(f"{status} {' or '.join(kinds)}".strip())
        return "; ".join(said)

    def _content(self, kind: str, content: Mapping[str, Any]) -> str:
        schema = content.get("schema", {})
        if kind == "application/json" and schema:
            return self.kind(schema)
        fields = ", ".join(f"`{name}`" for name in schema.get("properties", {}))
        return f"`{kind}`" + (f" with {fields}" if fields else "")

    def _schema(self, name: str) -> Iterator[str]:
        schema = self._schemas[name]
        if name.startswith("Listed_"):  # every list has the same two fields
            return
        yield f"### {name}\n"
        if schema.get("description"):
            yield f"{_one_line(schema['description'])}\n"
        if "enum" in schema:
            yield f"{self.kind(schema)}\n"
        if schema.get("properties"):
            yield "| field | type | |\n|---|---|---|"
            required = schema.get("required", [])
            for field, about in schema["properties"].items():
                # what comes in: a field without a default must be there
                more = "needed" if field in required and schema.get("additionalProperties") is False else ""
                yield self._field(field, about, ". ".join(filter(None, [more, about.get("description", "")])))
            yield ""

    def _field(self, name: str, schema: Mapping[str, Any], description: str) -> str:
        default = schema.get("default")
        notes = [
            _one_line(description).removesuffix("."),
            # what a part has by default is said where the part is
            f"default `{json.dumps(default)}`"
            if default not in (None, "", []) and not isinstance(default, dict)
            else "",
            _bounds(schema),
        ]
        return f"| `{name}` | {self.kind(schema)} | {'; '.join(note for note in notes if note)} |"

    def kind(self, schema: Mapping[str, Any]) -> str:
        """A schema in a few words, with links to the bodies it names."""
        if "$ref" in schema:
            return self._link(schema["$ref"].rpartition("/")[2])
        if arms := schema.get("anyOf") or schema.get("oneOf"):
            return " or ".join(dict.fromkeys(self.kind(one) for one in arms))
        if "enum" in schema or "const" in schema:
            return " or ".join(f'"{one}"' for one in schema.get("enum", [schema.get("const")]))
        if schema.get("type") == "array":
            places = ", ".join(self.kind(one) for one in schema.get("prefixItems", []))
            return f"[{places}]" if places else f"list of {self.kind(schema.get('items', {}))}"
        if schema.get("format") == "date-time":
            return "time"
        return str({None: "anything", "object": "object"}.get(schema.get("type"), schema.get("type")))

    def _link(self, name: str) -> str:
        if name.startswith("Listed_"):
            inner = self._schemas[name]["properties"]["items"]["items"]
            return f"list of {self.kind(inner)}"
        return f"[{name}](#{name.lower()})"


def _one_line(text: str) -> str:
    return re.sub(r"\s+", " ", text).replace("|", "\\|").strip()


def _bounds(schema: Mapping[str, Any]) -> str:
    """The range that a number or a text must be in, if any."""
    arms = [one for one in (schema, *schema.get("anyOf", [])) if "prefixItems" not in one]
    names = {
        "minimum": "at least",
        "exclusiveMinimum": "more than",
        "maximum": "at most",
        "exclusiveMaximum": "less than",
    }
    names |= {"maxLength": "at most", "maxItems": "at most"}
    units = {"maxLength": " characters", "maxItems": " items"}
    found = [f"{words} {arm[key]}{units.get(key, '')}" for arm in arms for key, words in names.items() if key in arm]
    return ", ".join(found)


def rest_guide() -> str:
    """docs/rest.md as it should be."""
    with tempfile.TemporaryDirectory() as folder:
        # the document needs no database and no broker; neither is asked
        app = create_app(Settings(data_dir=Path(folder), redis_url="redis://127.0.0.1:1/0"))
        try:
            return "\n".join(Guide(app.openapi()).lines()).rstrip() + "\n"
        finally:
            app.state.house.queue.close()
            app.state.house.database.close()


def main() -> int:
    """Write the page beside the other documents."""
    target = Path(__file__).resolve().parents[1] / "docs" / "rest.md"
    target.write_text(rest_guide(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The REST API as the commands for scripts use it: which server, which token, and errors as one sentence."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote, urlsplit

import httpx

from cli.exits import ServerAway
from core import accounts
from core.config import LOOPBACK, Settings
from core.database import open_database
from core.errors import NotAuthenticated, NotFound, ThawError

API = "/api/v1"
TOKEN_FILE = "command-line-token"  # noqa: S105 - a file's name
TOKEN_NAME = "thaw on the command line"  # noqa: S105
TIMEOUT = httpx.Timeout(30.0, read=120.0)
BUSY = frozenset({429, 502, 503, 504})
_MOST = 200


class Remote:
    """A Thaw server that a token lets us use.

    Args:
        address: e.g. `http://127.0.0.1:8000`.
        token: an API token.
    """

    def __init__(self, address: str, token: str) -> None:
        self.address = address
        # a proxy of the environment cannot reach this machine's own loopback
        ours = urlsplit(address).hostname in LOOPBACK
        headers = {"Authorization": f"Bearer {token}"}
        self.client = httpx.Client(
            base_url=address + API, headers=headers, timeout=TIMEOUT, trust_env=not ours, follow_redirects=False
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()

    def get(self, path: str, **query: Any) -> dict[str, Any]:
        """The JSON answer of a GET.

        Raises:
            ThawError: the sentence of the server.
            ServerAway: it cannot be reached or is not able to answer now.
        """
        return self.ask("GET", path, params={name: value for name, value in query.items() if value is not None})

    def post(self, path: str, **request: Any) -> dict[str, Any]:
        """The JSON answer of a POST; `request` as httpx takes it. Raises as `get` does."""
        return self.ask("POST", path, **request)

    def ask(self, method: str, path: str, **request: Any) -> dict[str, Any]:
        """The JSON answer of any request. Raises as `get` does."""
        with self.reaching():
            answer = self.client.request(method, path, **request)
        return self.checked(answer)

    def raw(self, method: str, path: str, *, busy: frozenset[int] = frozenset(), **request: Any) -> httpx.Response:
        """A good answer as it is. Raises as `get` does; statuses in `busy` mean "not now", too."""
        with self.reaching():
            answer = self.client.request(method, path, **request)
        if answer.status_code in busy:
            raise ServerAway(f"The server answered {answer.status_code}.")
        if not answer.is_success:
            self.checked(answer)
        return answer

    @contextmanager
    def reaching(self) -> Iterator[None]:
        """Errors of the connection as one sentence."""
        try:
            yield
        except httpx.TimeoutException as error:
            raise ServerAway(f"The server at {self.address} did not answer in time.") from error
        except httpx.ConnectError as error:
            message = (
                f"No Thaw answers at {self.address}. Start it with `thaw serve`, or name another one with --server."
            )
            raise ServerAway(message) from error
        except httpx.HTTPError as error:
            raise ServerAway(f"The connection to {self.address} broke: {error}.") from error

    def checked(self, answer: httpx.Response) -> dict[str, Any]:
        """The body of a good answer.

        Raises:
            ThawError: the sentence of the server.
        """
        try:
            body = answer.json()
        except (ValueError, UnicodeDecodeError):
            body = None
        if answer.is_success and isinstance(body, dict):
            return body
        detail = body.get("detail") if isinstance(body, dict) else None
        if not isinstance(detail, str):
            detail = f"{self.address} does not answer like Thaw (HTTP {answer.status_code})."
        raise _error(answer.status_code, detail)

    def items(self, path: str, most: int | None = None, **query: Any) -> Iterator[dict[str, Any]]:
        """The items of a list, page by page; at most `most`."""
        cursor, left = None, most
        while left is None or left > 0:
            page = self.get(path, limit=min(_MOST, left or _MOST), cursor=cursor, **query)
            yield from page["items"]
            cursor = page["next_cursor"]
            if cursor is None:
                return
            left = None if left is None else left - len(page["items"])

    def find(self, kind: str, wanted: str) -> dict[str, Any]:
        """A dataset, run or model by its id, or by its name where only one has it.

        Args:
            kind: `datasets`, `runs` or `models`.
            wanted: id or exact name.

        Raises:
            NotFound: neither.
            ThawError: several have this name.
        """
        found = self.look_for(kind, wanted)
        if found is None:
            one = kind.removesuffix("s")
            raise NotFound(f'There is no {one} with the id or name "{wanted}". `thaw {kind}` lists them.')
        return found

    def look_for(self, kind: str, wanted: str) -> dict[str, Any] | None:
        """As `find`, but None where there is none."""
        try:
            return self.get(f"/{kind}/{quote(wanted, safe='')}")
        except NotFound:
            named = [one for one in self.items(f"/{kind}", search=wanted[:200]) if one["name"] == wanted]
        if len(named) > 1:
            ids = ", ".join(one["id"] for one in named[:5])
            raise ThawError(f'{len(named)} {kind} are called "{wanted}". Name one by its id: {ids}.')
        return named[0] if named else None


def _error(status: int, detail: str) -> ThawError:
    if status in BUSY:
        return ServerAway(detail)
    if status in {httpx.codes.NOT_FOUND, httpx.codes.GONE}:
        return NotFound(detail)
    if status == httpx.codes.UNAUTHORIZED:
        return NotAuthenticated(
            "The server does not know this token. Make one with `thaw token create NAME` on its machine, "
            "and give it with --token or THAW_TOKEN."
        )
    return ThawError(detail)


def connect(settings: Settings, server: str | None, token: str | None) -> Remote:
    """The server that a person means.

    Args:
        settings: its data folder says where the server of this machine listens.
        server: address given by the person; None: THAW_SERVER, else the server of the data folder.
        token: token given by the person; None: THAW_TOKEN, else one that is made in the data folder's database.

    Raises:
        NotAuthenticated: no token is given, and the server is not that of the data folder.
        ServerAway: no address is given, and no server has used the data folder.
    """
    given = server or os.environ.get("THAW_SERVER")
    local = local_address(settings)
    if given is None and local is None:
        raise ServerAway(
            f"No server has run in {settings.folder} yet. Start one with `thaw serve`, or name one with --server."
        )
    address = _normal(given or local or "")
    secret = token or os.environ.get("THAW_TOKEN")
    if secret is None and address != local:
        raise NotAuthenticated(
            f"A token is needed for {address}. Make one with `thaw token create NAME` on its machine, "
            "and give it with --token or THAW_TOKEN."
        )
    return Remote(address, secret or own_token(settings))


def _normal(given: str) -> str:
    text = given if "://" in given else f"http://{given}"
    return text.rstrip("/").removesuffix(API).rstrip("/")


def local_address(settings: Settings) -> str | None:
    """Where the server of the data folder listens or listened last."""
    try:
        facts: Mapping[str, Any] = json.loads((settings.folder / "server.json").read_text(encoding="utf-8"))
        return _normal(str(facts["address"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def own_token(settings: Settings) -> str:
    """The command line's own token for the local user: kept in the data folder, readable by its owner alone; made when needed."""
    path = settings.folder / TOKEN_FILE
    database = open_database(settings)
    try:
        kept = _read(path)
        with database.read() as session:
            if kept and accounts.find_token(session, kept) is not None:
                return kept
        with database.write() as session:
            _, secret = accounts.create_token(session, accounts.local_user(session), TOKEN_NAME)
        _keep(path, secret)
        return secret
    finally:
        database.close()


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return None


def _keep(path: Path, secret: str) -> None:
    aside = path.with_name(f"{path.name}.{os.getpid()}")
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(secret + "\n")
    aside.replace(path)

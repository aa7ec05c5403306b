"""The Jinja2 environment and `render`. A page is a dataclass with the name of its template: a typed context per page.

Nothing in a template may be missing: `StrictUndefined` makes a wrong name an error in every test that renders the page.
"""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

from fastapi import Request
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from starlette.responses import HTMLResponse

from app import wording
from core.config import VERSION

TEMPLATES = Path(__file__).resolve().parents[1] / "templates"
THEMES = frozenset({"light", "dark"})
THEME_COOKIE = "thaw_theme"


@dataclass(frozen=True)
class View:
    """Base of every page's context. `nav` is the id of the entry of the main navigation that is current."""

    template: ClassVar[str]
    nav: ClassVar[str] = ""


@dataclass(frozen=True)
class Frame:
    """What every page has around its content."""

    version: str
    theme: str | None
    user_name: str | None
    local: bool
    nav: str
    path: str


def build_environment() -> Environment:
    """The environment with the filters of `app.wording`."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=select_autoescape(default=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(wording.FILTERS)
    environment.globals.update(static=static, thumbnail=thumbnail, display=display, original=original)
    return environment


def static(path: str) -> str:
    """Address of a file below `app/static`."""
    return f"/static/{path}"


def thumbnail(image_id: str) -> str:
    """Address of the small picture, made by us from the original."""
    return f"/api/v1/images/{image_id}/thumbnail"


def display(image_id: str) -> str:
    """Address of the large picture, made by us from the original."""
    return f"/api/v1/images/{image_id}/display"


def original(image_id: str) -> str:
    """Address of the picture as it was uploaded (a download)."""
    return f"/api/v1/images/{image_id}/original"


_environment = build_environment()


def frame_of(request: Request, nav: str) -> Frame:
    """Read the theme and the person from the request; works too where nobody is signed in."""
    theme = request.cookies.get(THEME_COOKIE)
    user = getattr(request.state, "user", None)
    return Frame(
        version=VERSION,
        theme=theme if theme in THEMES else None,
        user_name=user.name if user is not None else None,
        local=user is not None and user.password_hash is None,
        nav=nav,
        path=request.url.path,
    )


def render(request: Request, view: View, status_code: int = 200) -> HTMLResponse:
    """The page, or the partial, of a view."""
    context: dict[str, Any] = {field.name: getattr(view, field.name) for field in fields(view)}
    frame = frame_of(request, view.nav)
    return HTMLResponse(_environment.get_template(view.template).render(frame=frame, **context), status_code)


@dataclass(frozen=True)
class ErrorView(View):
    """What went wrong, as a page of the same house."""

    template = "error.html"
    status: int
    title: str
    sentence: str
    problems: tuple[tuple[str, str], ...] = ()


def render_error(
    request: Request, status: int, title: str, sentence: str, problems: tuple[tuple[str, str], ...] = ()
) -> HTMLResponse:
    """An error page; `problems` are (field, sentence)."""
    return render(request, ErrorView(status=status, title=title, sentence=sentence, problems=problems), status)

"""Plain forms: fields as texts, checked by the verbs they go to, not here."""

from typing import Annotated

from fastapi import Depends, Request
from starlette.responses import RedirectResponse


async def _fields(request: Request) -> dict[str, str]:
    form = await request.form()
    return {name: value for name, value in form.items() if isinstance(value, str)}


Fields = Annotated[dict[str, str], Depends(_fields)]


def see_other(address: str) -> RedirectResponse:
    """303: the form did its work, the answer is over there."""
    return RedirectResponse(address, 303)


def own_path(address: str) -> str:
    """A path of this site to go on to; anything else becomes the first page."""
    inside = address.startswith("/") and not address.startswith(("//", "/\\"))
    return address if inside and address.isprintable() else "/"

"""Blocking work of a request that must not be left out, whatever becomes of the request."""

from collections.abc import Callable
from typing import TypeVar

import anyio
from starlette.concurrency import run_in_threadpool

Result = TypeVar("Result")


async def to_its_end(call: Callable[..., Result], *given: object) -> Result:
    """Call on a thread and wait for it, although this request is cancelled already or meanwhile."""
    with anyio.CancelScope(shield=True):
        result = await run_in_threadpool(call, *given)
    return result  # noqa: RET504 - mypy: a scope might swallow its body

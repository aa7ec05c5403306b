"""HTML pages. `routers` is what `app/main.py` includes; each module has one `router`."""

from fastapi import APIRouter

routers: list[APIRouter] = []

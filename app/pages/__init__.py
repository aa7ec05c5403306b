"""HTML pages. `routers` is what `app/main.py` includes; each module has one `router`."""

from fastapi import APIRouter

from app.pages import (
    account,
    batches,
    changing,
    compare,
    datasets,
    gate,
    home,
    label_desk,
    looking,
    models,
    new_run,
    runs,
    sending,
    system,
    weights,
)

# new_run and compare before runs: /runs/new is not a run's id
routers: list[APIRouter] = [
    home.router,
    datasets.router,
    changing.router,
    label_desk.router,
    sending.router,
    new_run.router,
    compare.router,
    looking.router,
    runs.router,
    models.router,
    batches.router,
    weights.router,
    system.router,
    account.router,
    gate.router,
]

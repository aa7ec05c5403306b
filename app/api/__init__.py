"""The REST API, version 1. `routers` is what `app/main.py` includes."""

from fastapi import APIRouter

from app.api import (
    account,
    batch_predictions,
    datasets,
    judging,
    label_desk,
    live,
    models,
    previews,
    runs,
    system,
    tus,
    uploads,
    weights,
)

routers: list[APIRouter] = [
    system.router,
    account.tokens,
    account.sessions,
    account.users,
    datasets.router,
    label_desk.router,
    uploads.router,
    tus.router,
    previews.router,
    runs.router,
    judging.router,
    live.router,
    models.router,
    judging.model_router,
    weights.router,
    batch_predictions.router,
    batch_predictions.creating,
]

"""SQLAlchemy classes and status enums. ("Model" is kept for trained networks: see `TrainedModel`.)

Times people see are UTC datetimes; lease times are seconds by the database's clock (`core.database.database_now`).
Every table that holds a person's things has its owner. Whoever needs one imports it from here, so that all of them are known to `Base`.
"""

from core.tables.base import Base, UtcDateTime, utc_now
from core.tables.datasets import Dataset, DatasetVersion, Image, ImageLook, NearPair, Split, VersionImage, VersionIssue
from core.tables.house import FreedFile, HouseNumber, IdempotencyKey, Singleton, WorkerRow
from core.tables.label_desk import Decision, LabelCheck, LabelCheckStatus, LabelDecision, LabelSuggestion
from core.tables.models import (
    BatchPrediction,
    BatchRow,
    BatchStatus,
    Export,
    ExportStatus,
    TrainedModel,
    Weights,
    WeightsStatus,
)
from core.tables.near_checks import NearCheck, NearCheckStatus
from core.tables.people import ApiToken, BrowserSession, Scope, StartLink, User
from core.tables.runs import LogLine, Metric, Prediction, Run, RunDocument, RunStatus
from core.tables.uploads import (
    Outcome,
    ReceiptRow,
    ShareStatus,
    Transfer,
    Upload,
    UploadFile,
    UploadShare,
    UploadStatus,
)

__all__ = [
    "ApiToken",
    "Base",
    "BatchPrediction",
    "BatchRow",
    "BatchStatus",
    "BrowserSession",
    "Dataset",
    "DatasetVersion",
    "Decision",
    "Export",
    "ExportStatus",
    "FreedFile",
    "HouseNumber",
    "IdempotencyKey",
    "Image",
    "ImageLook",
    "LabelCheck",
    "LabelCheckStatus",
    "LabelDecision",
    "LabelSuggestion",
    "LogLine",
    "Metric",
    "NearCheck",
    "NearCheckStatus",
    "NearPair",
    "Outcome",
    "Prediction",
    "ReceiptRow",
    "Run",
    "RunDocument",
    "RunStatus",
    "Scope",
    "ShareStatus",
    "Singleton",
    "Split",
    "StartLink",
    "TrainedModel",
    "Transfer",
    "Upload",
    "UploadFile",
    "UploadShare",
    "UploadStatus",
    "User",
    "UtcDateTime",
    "VersionImage",
    "VersionIssue",
    "Weights",
    "WeightsStatus",
    "WorkerRow",
    "utc_now",
]

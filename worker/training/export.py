"""The download: a SavedModel with three signatures, checked in a clean process, and a zip that explains and proves itself.

`exporting` writes into `folder`: `saved_model/` and, once that is checked, `saved_model.zip` (saved_model/, labels.json, model_card.md,
training_config.json, golden/, golden_generated/, verify.py). The reference is the trainer's own network on the same pixels; a download
that answers otherwise is never given out.
"""

import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from core.backbones import BACKBONES
from core.errors import ThawError, is_full_disk
from core.training_config import TrainingConfig
from worker.training.answering import answering_model, whole_model
from worker.training.doubt import VERDICTS, WISHED_PRECISION, Doubt
from worker.training.explain import explaining
from worker.training.golden import (
    CHECKED_PICTURES,
    GOLDEN_PICTURES,
    GOLDEN_SIDE,
    TOLERANCE,
    Pixels,
    Reference,
    patterns,
    spread,
    write_checked,
    write_pictures,
)
from worker.training.network import Network
from worker.training.orders import Cancelled, Drained

KERAS_FILE = "classifier.keras"
_CHECK_SECONDS = 900
_PACKAGE = "export-"  # begins the name of the folder in which the zip's other members are made
_TOLD = (ThawError, Cancelled, Drained, MemoryError)  # what ends a run with a reason of its own
_LOOK_SECONDS = 0.5  # between two looks at whether the check is done
_VERIFY = Path(__file__).with_name("verify_template.py")
_ZIP_TIME = (1980, 1, 1, 0, 0, 0)
_COMPRESSED = {".json", ".md", ".py", ".pb", ".txt"}


_CARD_INTRODUCTION = """\
An image classifier with {classes} classes, trained with Thaw on {backbone} (weights: {weights}, licence: {licence}).

Pictures are resized to {height} x {width} pixels ({resize}) inside the model."""
_CARD_SIGNATURES = """\
- `serving_default`: `images` uint8 [n, h, w, 3], RGB, upright, any h and w
- `serving_resized`: `images` uint8 [n, {height}, {width}, 3], already resized
- `serving_bytes`: `images` string [n], bytes of upright JPEG or PNG files (an EXIF orientation is not applied)

Each gives three outputs; `python verify.py` checks them on this machine.

- `probabilities` float32 [n, classes], {calibration}
- `known_score` float32 [n], 0 to 1: below 0.5 the picture is unlike those the model learnt from
- `verdict` int32 [n]: 0 confident (its class was right in at least {precision:.0%} of such answers on held-out pictures), 1 unsure,
  2 unknown"""


class ExportDisagrees(ThawError):
    """The exported graph does not answer as the trained network did, or could not be asked."""


@dataclass(frozen=True)
class Agreement:
    """How the export compares with the trained network.

    Attributes:
        top1: share of pictures with the same first class, over all signatures: 1.0, or there is no export.
        max_abs_diff: largest difference of any probability.
        end_to_end_top1: share of original JPEG and PNG files whose bytes lead to the same first class; None without such files.
        same_verdict: share of pictures with the same verdict; one exactly on a limit may fall on either side.
        max_known_score_diff: largest difference of `known_score`.
        count: pictures compared.
    """

    top1: float
    max_abs_diff: float
    end_to_end_top1: float | None
    same_verdict: float
    max_known_score_diff: float
    count: int


@dataclass(frozen=True)
class ExportResult:
    """A finished export, as `result.json` lists it."""

    format: str
    size_bytes: int
    sha256: str
    agreement: Agreement

    def as_json(self) -> dict[str, Any]:
        """`{"format", "size_bytes", "sha256", "agreement": {...}}`."""
        return asdict(self)


@contextlib.contextmanager
def exporting(
    network: Network,
    *,
    config: TrainingConfig,
    doubt: Doubt,
    class_names: Sequence[str],
    folder: Path,
    test_pictures: Sequence[Path],
    decode: Callable[[Path], Pixels],
) -> Iterator[Callable[[Sequence[str], Callable[[], None]], ExportResult]]:
    """Write `folder/saved_model/`, and let a process of its own prove it while what is inside the `with` goes on: judging, say.

    Args:
        network: trained; unchanged.
        config: of the run.
        doubt: what the export knows of its own limits.
        class_names: by label.
        folder: made if missing; an earlier export in it is replaced.
        test_pictures: files to compare on; at most 64 are taken, spread evenly.
        decode: file -> uint8 [h, w, 3], upright RGB.

    Yields:
        What waits for the proof and writes `folder/saved_model.zip`. It is given the model card's paragraphs in Markdown, from
        `worker.training.card`, and what is called a few times a second and may raise to end the waiting; it raises ExportDisagrees
        where a signature differs from the trained network.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob(f"{_PACKAGE}*"):  # of an attempt that was killed
        shutil.rmtree(left, ignore_errors=True)
    reference = Reference(network, config, doubt)
    saved = folder / "saved_model"
    shutil.rmtree(saved, ignore_errors=True)
    classifier = answering_model(network, doubt)
    # the heat map looks through the same layers, so that no weight is written twice
    explain = explaining(replace(network, backbone=classifier.get_layer(network.backbone.name)))
    write_saved_model(classifier, reference.resizer, config.image_size, saved, (explain, network.head.variables))
    whole_model(reference.resizer, classifier).save(folder / KERAS_FILE)
    checked = spread(test_pictures, CHECKED_PICTURES)
    del classifier, explain  # what goes on beside the check needs the memory
    with tempfile.TemporaryDirectory(prefix=_PACKAGE, dir=folder) as temporary:
        package = Path(temporary)
        write_checked(package / "checked", checked, decode, reference)
        pictures = map(decode, spread(checked, GOLDEN_PICTURES)) if checked else patterns(config.seed)
        write_pictures(package / "golden", pictures, reference, side=GOLDEN_SIDE)
        # for who gives the model away without showing the pictures: the site then leaves golden/ out (app/downloading.py)
        write_pictures(package / "golden_generated", patterns(config.seed), reference, side=GOLDEN_SIDE)
        del reference
        with checking(saved, *(package / name for name in ("checked", "golden", "golden_generated"))) as wait:

            def complete(card: Sequence[str], check: Callable[[], None]) -> ExportResult:
                agreement = wait(check)
                _write_papers(package, config, class_names, agreement, doubt, card)
                size, digest = write_zip(folder / "saved_model.zip", _members(saved, package))
                return ExportResult("saved_model", size, digest, agreement)

            try:
                yield complete
            except _TOLD:
                raise
            except Exception as error:
                if not is_full_disk(error):
                    wait(lambda: None)  # an export that disagrees is why it could not be asked, then
                raise


def write_saved_model(
    model: keras.Model, resizer: keras.Model, size: tuple[int, int], folder: Path, explain: tuple[Any, Sequence[Any]]
) -> None:
    """Write the SavedModel: `serving_default`, `serving_resized`, `serving_bytes`, each giving the outputs of `answering_model`.

    `explain` (see `worker.training.explain`) goes with it as a function of the module, which is no signature, with the variables that it
    reads and `model` has not.
    """

    def resized(images: Any) -> dict[str, Any]:
        return dict(model(images, training=False))

    def whole(images: Any) -> dict[str, Any]:
        return resized(resizer(images))

    def one(data: Any) -> Any:
        pixels = tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE")  # decodes PNG too
        return resizer(pixels[None])[0]

    def encoded(images: Any) -> dict[str, Any]:
        return resized(tf.map_fn(one, images, fn_output_signature=tf.TensorSpec((*size, 3), tf.uint8)))

    signatures = {
        "serving_default": (whole, tf.TensorSpec((None, None, None, 3), tf.uint8, name="images")),
        "serving_resized": (resized, tf.TensorSpec((None, *size, 3), tf.uint8, name="images")),
        "serving_bytes": (encoded, tf.TensorSpec((None,), tf.string, name="images")),
    }
    module = tf.Module()
    # Keras' own ExportArchive writes every weight twice (3.15.1)
    module.weights = [variable.value for variable in model.variables]
    functions = {name: tf.function(call, input_signature=[spec]) for name, (call, spec) in signatures.items()}
    module.functions = functions
    module.explain, others = explain
    module.explain_weights = [variable.value for variable in others]
    options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)  # it answers, it does not learn
    tf.saved_model.save(module, str(folder), signatures=functions, options=options)


@contextlib.contextmanager
def checking(saved_model: Path, *golden: Path) -> Iterator[Callable[[Callable[[], None]], Agreement]]:
    """Ask every signature in a process that knows nothing but TensorFlow and the files; it ends with the `with` at the latest.

    Yields:
        What waits for its answer, calling what it is given a few times a second; it raises ExportDisagrees where an answer differs,
        or the process failed.
    """
    command = [sys.executable, "-I", str(_VERIFY), "--json", "--model", str(saved_model)]
    command += ["--golden", *(str(folder) for folder in golden)]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
    with subprocess.Popen(  # noqa: S603 - our own script by our own interpreter
        command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:

        def wait(check: Callable[[], None]) -> Agreement:
            ends = time.monotonic() + _CHECK_SECONDS
            while True:
                check()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    out, said = process.communicate(timeout=_LOOK_SECONDS)
                    return _agreement(process.returncode, out, said)
                if time.monotonic() > ends:
                    raise ExportDisagrees(f"The export was not checked within {_CHECK_SECONDS} seconds.")

        try:
            yield wait
        finally:
            process.kill()


def _agreement(code: int, out: bytes, said: bytes) -> Agreement:
    if code == -signal.SIGKILL:  # nobody else would: Linux takes memory back without a word
        raise MemoryError("The check of the export was killed.")
    if not out.strip():
        raise ExportDisagrees(
            f"The export could not be checked in a clean process (exit code {code}): "
            f"{said.decode(errors='replace').strip()[-500:]}"
        )
    found = json.loads(out.splitlines()[-1])
    results = found["signatures"].values()
    top1 = min(one["top1"] for one in results)
    difference = max(max(one["max_abs_diff"], one["max_known_score_diff"]) for one in results)
    if not found["agrees"]:
        raise ExportDisagrees(
            f"The exported model does not answer as the trained network: same class on {top1:.1%}, largest difference "
            f"{difference:.2g}. Allowed: 100 % and {TOLERANCE}. Nothing is given out."
        )
    return Agreement(
        top1,
        max(one["max_abs_diff"] for one in results),
        found["end_to_end_top1"],
        min(one["same_verdict"] for one in results),
        max(one["max_known_score_diff"] for one in results),
        min(one["pictures"] for one in results),
    )


def _write_papers(
    package: Path,
    config: TrainingConfig,
    class_names: Sequence[str],
    agreement: Agreement,
    doubt: Doubt,
    card: Sequence[str],
) -> None:
    labels = {"class_names": list(class_names), "verdicts": VERDICTS, "doubt": doubt.as_json(class_names)}
    papers = {
        "labels.json": json.dumps(labels, ensure_ascii=False, indent=1),
        "training_config.json": json.dumps(config.model_dump(mode="json"), ensure_ascii=False, indent=1),
        "model_card.md": _card(config, class_names, agreement, doubt, card),
        "verify.py": _VERIFY.read_text(encoding="utf-8"),
    }
    for name, text in papers.items():
        (package / name).write_text(text + ("" if text.endswith("\n") else "\n"), encoding="utf-8")


def _card(
    config: TrainingConfig,
    class_names: Sequence[str],
    agreement: Agreement,
    doubt: Doubt,
    judged: Sequence[str],
) -> str:
    backbone = BACKBONES[config.backbone]
    height, width = config.image_size
    names = "\n".join(f"{label}. `{name.replace('`', ' ')}`" for label, name in enumerate(class_names))
    checked = f"Largest difference to the trained network, in a clean process: {agreement.max_abs_diff:.1e}."
    if agreement.end_to_end_top1 is not None:
        checked += f" Same class from the bytes of the original JPEG and PNG files: {agreement.end_to_end_top1:.1%}."
    lines = [
        "# Model card",
        _CARD_INTRODUCTION.format(
            classes=len(class_names),
            backbone=backbone.title,
            weights=config.weights,
            licence=backbone.licence,
            height=height,
            width=width,
            resize=config.resize,
        ),
        checked,
        *judged,
        "## Classes, by column of `probabilities`",
        names,
        "## Signatures",
        _CARD_SIGNATURES.format(
            height=height,
            width=width,
            calibration=doubt.calibration_text(),
            precision=WISHED_PRECISION,
        ),
    ]
    return "\n\n".join(lines) + "\n"


def _members(saved: Path, package: Path) -> list[tuple[str, Path]]:
    """(name in the zip, file), sorted."""
    found = [(f"saved_model/{path.relative_to(saved).as_posix()}", path) for path in saved.rglob("*") if path.is_file()]
    for path in package.rglob("*"):
        name = path.relative_to(package).as_posix()
        if path.is_file() and not name.startswith("checked/"):
            found.append((name, path))
    return sorted(found)


def write_zip(target: Path, members: Sequence[tuple[str, Path]]) -> tuple[int, str]:
    """Write a zip whose bytes depend on names and contents only; file by file, renamed into place when whole.

    Returns:
        Size in bytes and SHA-256 (hex).
    """
    part = target.with_suffix(".part")
    with zipfile.ZipFile(part, "w") as archive:
        for name, path in members:
            entry = zipfile.ZipInfo(name, _ZIP_TIME)
            entry.external_attr = 0o644 << 16
            entry.create_system = 3  # the same bytes from every operating system
            entry.compress_type = zipfile.ZIP_DEFLATED if path.suffix in _COMPRESSED else zipfile.ZIP_STORED
            with path.open("rb") as source, archive.open(entry, "w", force_zip64=True) as sink:
                shutil.copyfileobj(source, sink, 1 << 20)
    with part.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    part.replace(target)
    return target.stat().st_size, digest

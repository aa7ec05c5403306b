"""A newcomer without pictures: from `thaw serve` in an empty folder, by "Try with a sample", to a result and a prediction, in Chromium.

    python -m benchmarks newcomer

Prints seconds since the button was pressed (`start_s`: from the command to the first page), and how the run spent its own.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from playwright.sync_api import Page

from tests.browser.watched import running_chromium

PATIENCE = 900_000  # milliseconds


def tell(page: Page, address: str, started: float) -> dict[str, object]:
    """Do what a newcomer does; returns the figures."""
    found: dict[str, object] = {}
    page.set_default_timeout(PATIENCE)
    page.goto(address)
    found["start_s"] = round(time.monotonic() - started, 1)
    pressed = time.monotonic()

    def mark(name: str) -> None:
        found[name] = round(time.monotonic() - pressed, 1)

    page.click("text=Try with a sample")
    page.wait_for_url("**/datasets/*")
    page.wait_for_url("**/runs/*", wait_until="commit")
    mark("run_page_s")
    page.wait_for_selector("[data-metrics] tbody tr", state="attached")
    mark("first_epoch_s")
    page.wait_for_selector("text=Try the model")
    mark("result_s")
    run = page.url.rpartition("/")[2].partition("?")[0]
    home = page.url.partition("/runs/")[0]
    answer = page.request.get(f"{home}/api/v1/runs/{run}").json()
    found["run"] = answer["summary"]["seconds"]
    found["test_accuracy"] = answer["summary"]["test_accuracy"]
    version = answer["dataset_version_id"]
    images = page.request.get(f"{home}/api/v1/dataset-versions/{version}/images?split=test&limit=1").json()["items"]
    picture = page.request.get(f"{home}{images[0]['original_url']}").body()
    page.click("text=Try the model")
    page.wait_for_url("**/models/*")  # loaded: before that nobody listens for the picture
    page.set_input_files(
        "[data-predict] input[type=file]", [{"name": "one.jpg", "mimeType": "image/jpeg", "buffer": picture}]
    )
    page.wait_for_selector("[data-answer]")
    mark("prediction_s")
    return found


def main() -> None:
    """Measure and print one JSON object."""
    thaw = Path(sys.executable).with_name("thaw")
    with tempfile.TemporaryDirectory(prefix="thaw-newcomer-") as folder, running_chromium() as browser:
        started = time.monotonic()
        command = [thaw, "serve", "--port", "0", "--no-browser"]
        environment = {**os.environ, "THAW_DATA_DIR": folder}
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        try:
            assert process.stdout is not None
            address = next(found[0] for line in process.stdout if (found := re.search(r"http://\S+key=\S+", line)))
            print(json.dumps(tell(browser.new_page(), address, started)), flush=True)
        finally:
            process.terminate()
            process.wait(30)


if __name__ == "__main__":
    main()

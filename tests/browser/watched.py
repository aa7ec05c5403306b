"""Chromium that fails a test for anything a person would find in the console: errors, refused content, failed requests."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Response, sync_playwright

FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--no-first-run", "--disable-dev-shm-usage",
]  # fmt: skip


def chromium_path() -> str | None:
    """Where Chromium is: `THAW_CHROMIUM`, or on the PATH; None where there is none."""
    named = os.environ.get("THAW_CHROMIUM")
    return named or next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@contextmanager
def running_chromium() -> Iterator[Browser]:
    """One browser."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium_path(), args=FLAGS)
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class Watched:
    """A browser window whose complaints are collected."""

    context: BrowserContext
    page: Page
    complaints: list[str] = field(default_factory=list)
    allowed: tuple[str, ...] = ()

    def must_be_content(self) -> None:
        """No complaint but those that the test has allowed."""
        bad = [one for one in self.complaints if not any(part in one for part in self.allowed)]
        assert bad == []


@contextmanager
def watched_window(
    browser: Browser, *, width: int = 1280, dark: bool = False, scripts: bool = True, allowed: tuple[str, ...] = ()
) -> Iterator[Watched]:
    """A fresh window; whoever uses it ends with `must_be_content`, which leaving does too."""
    context = browser.new_context(
        viewport={"width": width, "height": 900},
        color_scheme="dark" if dark else "light",
        java_script_enabled=scripts,
        reduced_motion="reduce",
    )
    watched = Watched(context, context.new_page(), allowed=allowed)

    def console(message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"}:
            watched.complaints.append(f"{message.type}: {message.text}")

    def response(answer: Response) -> None:
        if answer.status >= 400:
            watched.complaints.append(f"{answer.status} {answer.url}")

    watched.page.on("console", console)
    watched.page.on("pageerror", lambda error: watched.complaints.append(f"page error: {error}"))
    watched.page.on("response", response)
    try:
        yield watched
        watched.must_be_content()
    finally:
        context.close()

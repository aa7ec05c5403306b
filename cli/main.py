"""The `thaw` command: thin. Errors are one sentence on standard error and exit code 2, never a traceback."""

import typer

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@app.callback()
def thaw() -> None:
    """Thaw: a folder of labelled images in, an honestly judged image classifier out."""


def main() -> None:
    """Entry point of `thaw`."""
    app()

"""`python -m cli` is `thaw`."""

from cli.main import main

main()

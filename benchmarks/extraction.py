"""Features from the decoded cache into the store, against forward passes of the same network on a batch in memory."""

from benchmarks._record import Record, folders_of, options, settings_of
from benchmarks._tables import extraction_rows, table


def main() -> None:
    """Measure what is missing and print the table."""
    arguments = options(__doc__).parse_args()
    named = folders_of(arguments)
    folders = [str(one) for one in named]
    most, rounds = (120, 2) if arguments.quick else (None, 2 * arguments.seeds)
    settings = {**settings_of(named), "most": most, "rounds": rounds}
    record = Record("extraction", arguments, {**settings, "threads": arguments.threads})
    wanted = {"folders": folders, "most": most, "threads": arguments.threads, "rounds": rounds}
    record.part("train pictures", "_engine:extraction", **wanted)
    print(table(extraction_rows(record.body)))


if __name__ == "__main__":
    main()

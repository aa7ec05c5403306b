"""Live loop (augmentation in the loop, pictures from the decoded cache): steps per second against batches already in memory."""

from benchmarks._record import Record, folders_of, options, settings_of
from benchmarks._tables import pipeline_rows, table


def main() -> None:
    """Measure what is missing and print the table."""
    arguments = options(__doc__).parse_args()
    named = folders_of(arguments)
    folders = [str(one) for one in named]
    most, steps, rounds = (120, 3, 2) if arguments.quick else (1200, 20, 2 * arguments.seeds)
    settings = {**settings_of(named), "most": most, "steps": steps, "rounds": rounds}
    record = Record("pipeline", arguments, {**settings, "threads": arguments.threads})
    wanted = {"folders": folders, "most": most, "threads": arguments.threads, "steps": steps, "rounds": rounds}
    record.part("live loop", "_engine:pipeline", **wanted)
    print(table(pipeline_rows(record.body)))


if __name__ == "__main__":
    main()

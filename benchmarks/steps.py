"""Train steps on a batch in memory, images per second: the guide's against Thaw's, all layers and from cached activations.

And augmentation alone: TensorFlow's operation against Thaw's.
"""

from benchmarks._record import Record, options
from benchmarks._tables import steps_rows, table


def main() -> None:
    """Measure what is missing and print the table."""
    arguments = options(__doc__).parse_args()
    seconds, rounds = (1.0, 1) if arguments.quick else (20.0, arguments.seeds)
    record = Record("steps", arguments, {"seconds": seconds, "threads": arguments.threads})
    for number in range(rounds):  # in turns, so that a slow minute of the machine meets both sides
        for side in ("guide", "thaw"):
            record.part(f"{side}/{number}", f"_engine:{side}_steps", threads=arguments.threads, seconds=seconds)
        record.part(f"augmentation/{number}", "_engine:augmentation", threads=arguments.threads, seconds=seconds)
    print(table(steps_rows(record.body)))


if __name__ == "__main__":
    main()

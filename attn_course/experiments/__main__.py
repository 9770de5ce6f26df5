"""``python -m attn_course.experiments``: run what is not recorded yet."""

import argparse
import sys

from . import core


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m attn_course.experiments", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="every experiment, its hypothesis, and whether it is recorded")
    run = commands.add_parser("run", help="run the seeds that are not recorded yet")
    run.add_argument("names", nargs="*", metavar="NAME", help="which experiments; all without a name")
    run.add_argument("--restart", action="store_true", help="record anew, also what is recorded")
    options = parser.parse_args(arguments)

    known = core.catalog()
    if options.command == "list":
        for experiment in known.values():
            try:
                recorded = len(core.load(experiment.name).runs)
            except FileNotFoundError:
                recorded = 0
            print(
                f"{experiment.name}: {recorded} of {len(experiment.seeds)} seeds recorded. {experiment.hypothesis}"
            )
        return 0
    try:
        for name in options.names or known:
            core.run(core.get(name), restart=options.restart)
    except (KeyError, ValueError) as error:
        print(error.args[0], file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: what is recorded stays, the same command goes on from there", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())

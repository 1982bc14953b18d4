"""The command line: one file per group of commands, one line for an error a user can mend."""

import os
import sys
from collections.abc import Sequence

from cyclopts import App, CycloptsError

import memfloor
from memfloor.cli.aa import aa
from memfloor.cli.ab import ab
from memfloor.cli.anatomy import anatomy
from memfloor.cli.cost import cost
from memfloor.cli.deadline import deadline
from memfloor.cli.diff import diff
from memfloor.cli.doctor import doctor
from memfloor.cli.energy import energy
from memfloor.cli.floor import floor
from memfloor.cli.measure import measure, study
from memfloor.cli.paper import paper
from memfloor.cli.predict import predict
from memfloor.cli.probe import probe
from memfloor.cli.records import query, runs
from memfloor.cli.report import figure, report
from memfloor.cli.serve import serve
from memfloor.cli.sweep import sweep
from memfloor.cli.tune import tune
from memfloor.errors import UsageError

EXIT_USAGE = 2
EXIT_INTERRUPTED = 130

app = App(
    name="memfloor",
    help="How far is a batch-1 decode step from its memory floor, and who owns the gap?",
    version=memfloor.__version__,
    help_format="plaintext",
    # Interrupted is answered in `main`, with what has become of the runs.
    suppress_keyboard_interrupt=False,
)
MEASURING = (floor, probe, measure, study, anatomy, ab, aa, energy, deadline, sweep, tune)
READING = (runs, query, report, figure, serve, diff, cost, predict, paper, doctor)
for command in (*MEASURING, *READING):
    app.command(command)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command; exit with 2 and one line on an error of usage, with the traceback under `--debug`."""
    tokens = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in tokens
    if debug:
        tokens.remove("--debug")
    try:
        try:
            app(tokens, exit_on_error=False, print_error=False)
        finally:
            # A full disk must show here and not while the interpreter ends.
            sys.stdout.flush()
    except (UsageError, CycloptsError) as error:
        if debug:
            raise
        print(f"memfloor: {_one_line(error)}", file=sys.stderr)
        sys.exit(EXIT_USAGE)
    except KeyboardInterrupt:
        print("memfloor: interrupted; every finished run is on disk", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)
    except BrokenPipeError:
        # The reader of our output has gone, as `| head` does.
        _drop_output()
        sys.exit(0)
    except OSError as error:
        if debug:
            raise
        _drop_output()
        print(f"memfloor: cannot read or write: {_one_line(error)}", file=sys.stderr)
        sys.exit(EXIT_USAGE)


def _drop_output() -> None:
    # What is still buffered would be written once more at the end of the interpreter, and fail once more.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())

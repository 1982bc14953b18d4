"""Simulate studies of machines whose truth is known, and write how far the method's estimates and intervals are off.

The machines, and what is asked of the method, are in tests/simulation; a test takes the first studies again.
"""

import argparse
import json
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
sys.path.insert(0, str(REPOSITORY / "tests" / "simulation"))

from simulated_study import (  # noqa: E402
    MACHINES,
    first_studies,
    study_ledger,
    study_steps,
    study_two_states,
)

SEED = 20261127
ANATOMIES_OF_TWO_STATES = 900


def main() -> None:
    options = parse_arguments()
    result = {
        "seed": SEED,
        "studies": options.studies,
        "first": first_studies(SEED),
        "steps": study_steps(SEED, options.studies),
        "two_states": study_two_states(SEED, ANATOMIES_OF_TWO_STATES),
        "ledgers": {},
    }
    for name in MACHINES:
        print(name, file=sys.stderr)
        result["ledgers"][name] = study_ledger(name, SEED, options.studies)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    report(result)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=300, help="simulated studies of each machine")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "results" / "method" / "simulated.json")
    return parser.parse_args()


def report(result) -> None:
    """Print what docs/method.md shows."""
    print(f"coverage of 95 % intervals in {result['studies']} studies, by runs or anatomies")
    for count, row in result["steps"].items():
        print(f"  N={count:>2}  " + ", ".join(f"{name} {value:.3f}" for name, value in row.items()))
    for name, machine in result["ledgers"].items():
        print(name)
        for count, lines in machine["anatomies"].items():
            shown = (f"{line} {item['coverage']:.2f} ({item['bias']:+.2%})" for line, item in lines.items())
            print(f"  N={count:>2}  " + ", ".join(shown))
    print(json.dumps(result["two_states"], indent=1))


if __name__ == "__main__":
    main()

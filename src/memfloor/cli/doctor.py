"""`memfloor doctor`: what can run here, what cannot, why, and what to install."""

from typing import Annotated

from cyclopts import Parameter

from memfloor.cli.output import print_json, print_table


def doctor(*, json: Annotated[bool, Parameter(negative=())] = False) -> None:
    """Say what can run on this machine and what cannot, with the reason and the install line.

    Args:
        json: Print one JSON object instead.
    """
    from memfloor.experiments.doctor import examine

    checks = examine()
    if json:
        print_json({check.name: {"usable": check.reason is None, "reason": check.reason} for check in checks})
        return
    rows = [[check.name, "yes" if check.reason is None else "no", check.reason or check.summary] for check in checks]
    print_table("What can run here", ["part", "usable", "why"], rows)

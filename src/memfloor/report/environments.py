"""Were all runs of a comparison taken in the same place? What differs is named, with both values."""

from collections.abc import Callable, Collection, Mapping, Sequence

from memfloor.record import DifferingField, Environment, Run

FIELDS: dict[DifferingField, Callable[[Environment], str]] = {
    "device": lambda environment: environment.device.name,
    "driver": lambda environment: str(environment.device.driver_version),
    "cpu": lambda environment: environment.cpu_name,
    "kernel": lambda environment: environment.kernel,
    "python": lambda environment: environment.python,
    "commit": lambda environment: str(environment.git_commit),
    "threads": lambda environment: str(environment.threads),
    "huge-pages": lambda environment: environment.huge_pages,
}


def place(environment: Environment) -> tuple[tuple[str, str], ...]:
    """Return all that must not differ between the runs of a comparison, by name."""
    fields = {name: read(environment) for name, read in FIELDS.items()}
    return (*fields.items(), *sorted(environment.packages.items()))


def environment_differences(runs: Sequence[Run], may_differ: Collection[DifferingField] = ()) -> list[str]:
    """Return what differs between the environments of runs, such as `driver: 580.1 and 590.2`.

    Args:
        runs: The runs of both arms.
        may_differ: Fields that are not looked at.
    """
    environments = [run.environment for run in runs]
    found = []
    for field, read in FIELDS.items():
        if field not in may_differ:
            found += _difference(field, [read(environment) for environment in environments])
    if "packages" not in may_differ:
        found += _package_differences([environment.packages for environment in environments])
    return found


def _package_differences(packages: Sequence[Mapping[str, str]]) -> list[str]:
    names = sorted({name for installed in packages for name in installed})
    return [
        text
        for name in names
        for text in _difference(f"packages: {name}", [installed.get(name, "none") for installed in packages])
    ]


def _difference(what: str, values: Sequence[str]) -> list[str]:
    different = list(dict.fromkeys(values))
    return [f"{what}: {' and '.join(different)}"] if len(different) > 1 else []

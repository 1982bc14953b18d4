"""The timed process of the runtime whose cost of launching is known."""

from known_launch import KnownLaunch

from memfloor.experiments.child import main
from memfloor.runtimes import REGISTRY

REGISTRY[KnownLaunch.name] = KnownLaunch

if __name__ == "__main__":
    main()

"""Run the command line as `python -m memfloor`."""

from memfloor.cli import main

main()

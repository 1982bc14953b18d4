"""Immutable, versioned records of what was measured, and the folder that keeps them."""

from memfloor.record.schema import (
    SCHEMA_VERSION,
    CeilingReading,
    Cell,
    DeviceInfo,
    Environment,
    Failure,
    ObservedPath,
    Protocol,
    Record,
    Run,
    Skip,
    Step,
)
from memfloor.record.store import Store, UnreadableFile

__all__ = [
    "SCHEMA_VERSION",
    "CeilingReading",
    "Cell",
    "DeviceInfo",
    "Environment",
    "Failure",
    "ObservedPath",
    "Protocol",
    "Record",
    "Run",
    "Skip",
    "Step",
    "Store",
    "UnreadableFile",
]

"""Immutable, versioned records of what was measured, and the folder that keeps them."""

from memfloor.record.anatomy import Anatomy, Role, StepTrace, TracedKernel
from memfloor.record.comparison import Arm, ArmObservation, Comparison, DifferingField, Outputs
from memfloor.record.schema import (
    SCHEMA_VERSION,
    CeilingReading,
    Cell,
    DeviceInfo,
    Environment,
    Failure,
    ObservedPath,
    Protocol,
    Run,
    Skip,
    Step,
    Timed,
)
from memfloor.record.store import Store, UnreadableFile

__all__ = [
    "SCHEMA_VERSION",
    "Anatomy",
    "Arm",
    "ArmObservation",
    "CeilingReading",
    "Cell",
    "Comparison",
    "DeviceInfo",
    "DifferingField",
    "Environment",
    "Failure",
    "ObservedPath",
    "Outputs",
    "Protocol",
    "Role",
    "Run",
    "Skip",
    "Step",
    "StepTrace",
    "Store",
    "Timed",
    "TracedKernel",
    "UnreadableFile",
]

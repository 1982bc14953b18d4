"""Immutable, versioned records of what was measured, and the folder that keeps them."""

from memfloor.record.anatomy import Anatomy, Role, StepTrace, TracedKernel
from memfloor.record.ceiling import CPU_CEILING_PASSES, STEADY_SPREAD, CeilingReading, paired_ceiling
from memfloor.record.cell import Cell, Protocol, StepPart, parse_runtime
from memfloor.record.comparison import Arm, ArmObservation, Comparison, DifferingField, Outputs, Question
from memfloor.record.contents import Contents, Record, UnreadableFile, read_file, read_record, record_text
from memfloor.record.control import ControlLoop, Cycles, LoopAsked
from memfloor.record.digest import Digest, digest_of
from memfloor.record.energy import (
    EnergyProtocol,
    EnergyReading,
    EnergyRun,
    EnergySensor,
    EnergyWindow,
    MeasuredEnergy,
)
from memfloor.record.environment import DeviceInfo, Environment, ObservedPath, OutputError
from memfloor.record.files import FileIdentity, files_below
from memfloor.record.index import read_digests
from memfloor.record.quality import LogitErrors, Quality
from memfloor.record.run import SCHEMA_VERSION, Failure, Part, Run, Skip, Step, Timed
from memfloor.record.store import Store

__all__ = [
    "CPU_CEILING_PASSES",
    "SCHEMA_VERSION",
    "STEADY_SPREAD",
    "Anatomy",
    "Arm",
    "ArmObservation",
    "CeilingReading",
    "Cell",
    "Comparison",
    "Contents",
    "ControlLoop",
    "Cycles",
    "DeviceInfo",
    "DifferingField",
    "Digest",
    "EnergyProtocol",
    "EnergyReading",
    "EnergyRun",
    "EnergySensor",
    "EnergyWindow",
    "Environment",
    "Failure",
    "FileIdentity",
    "LogitErrors",
    "LoopAsked",
    "MeasuredEnergy",
    "ObservedPath",
    "OutputError",
    "Outputs",
    "Part",
    "Protocol",
    "Quality",
    "Question",
    "Record",
    "Role",
    "Run",
    "Skip",
    "Step",
    "StepPart",
    "StepTrace",
    "Store",
    "Timed",
    "TracedKernel",
    "UnreadableFile",
    "digest_of",
    "files_below",
    "paired_ceiling",
    "parse_runtime",
    "read_digests",
    "read_file",
    "read_record",
    "record_text",
]

"""Is a fast path a right one? The logits of every path of a session beside those of its own bf16 source."""

import hashlib
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from memfloor.errors import UsageError
from memfloor.experiments.ask import QUALITY_CHILD, ask
from memfloor.experiments.comparing import identity
from memfloor.experiments.quality_job import QualityJob
from memfloor.experiments.session import Session
from memfloor.floor import parameter_count
from memfloor.record import Cell, Comparison, LogitErrors, Quality, Store
from memfloor.spec import ModelSpec, Workload, check_context
from memfloor.units import format_bytes

# What is called so is no path that was timed.
REFERENCE, FLOAT32 = "reference", "float32"
BASELINE = "baseline"
# What transformers reads a tokenizer from.
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json")


@dataclass(frozen=True, slots=True)
class GivenTokens:
    """Hold the tokens that every path decodes, and whether they are a text's or seeded random ones."""

    tokens: tuple[int, ...]
    source: Literal["text", "random"]

    @property
    def sha256(self) -> str:
        """Return the digest of the tokens."""
        return hashlib.sha256(np.asarray(self.tokens, np.int64).tobytes()).hexdigest()


def given_tokens(
    spec: ModelSpec, count: int, text: Path | None, weights_from: Path | None, seed: int
) -> GivenTokens | None:
    """Return the tokens that qualities are taken with; None if none are to be taken.

    Args:
        spec: The model.
        count: How many; 0 takes none.
        text: File whose first tokens they are; seeded random ones unless given.
        weights_from: Checkpoint, with the tokenizer of the text.
        seed: Of random tokens.

    Raises:
        UsageError: The count or the text cannot be used, or the temporary folder has no room for random weights.
    """
    if count == 0 and text is None:
        return None
    if count < 2:
        raise UsageError(f"quality-tokens must be 2 or more, or 0 to take no quality, not {count}")
    check_context(spec, count)
    if text is not None:
        return GivenTokens(_tokens_of_text(spec, count, text, weights_from), "text")
    if weights_from is None:
        _check_room(spec)
    return GivenTokens(tuple(np.random.default_rng(seed).integers(spec.vocab_size, size=count).tolist()), "random")


def _check_room(spec: ModelSpec) -> None:
    need, free = 2 * parameter_count(spec), shutil.disk_usage(tempfile.gettempdir()).free
    if need > free:
        raise UsageError(
            f"random weights of {spec.name} that all paths share need {format_bytes(need)} in {tempfile.gettempdir()}, "
            f"and {format_bytes(free)} is free; set TMPDIR, or give --weights-from or --quality-tokens 0"
        )


def _tokens_of_text(spec: ModelSpec, count: int, text: Path, folder: Path | None) -> tuple[int, ...]:
    if folder is None:
        raise UsageError("a text needs the tokenizer of a checkpoint; give --weights-from")
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise UsageError(f"{folder} holds no tokenizer for the text; expected one of {', '.join(TOKENIZER_FILES)}")
    try:
        words = text.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read the text {text}: {error}") from error
    tokens = _tokenize(words, folder)
    if len(tokens) < count:
        raise UsageError(f"{text} has {len(tokens)} tokens, fewer than the {count} of --quality-tokens")
    unknown = [token for token in tokens[:count] if token >= spec.vocab_size]
    if unknown:
        raise UsageError(f"the tokenizer of {folder} gives token {unknown[0]}; the model has {spec.vocab_size}")
    return tuple(tokens[:count])


def _tokenize(words: str, folder: Path) -> list[int]:
    try:
        from transformers import AutoTokenizer

        tokens: list[int] = AutoTokenizer.from_pretrained(folder, local_files_only=True)(words).input_ids
    except (ImportError, OSError, ValueError, LookupError, TypeError) as error:
        # What a library raises for a damaged file is of many kinds.
        raise UsageError(f"transformers does not read the tokenizer of {folder}: {error!r}") from error
    return tokens


def lacking_qualities(session: Session, given: GivenTokens) -> list[str]:
    """Return the names of all whose quality with these tokens is not on record: none where there is no reference."""
    found = {item.path: item.errors for item in session.qualities if item.tokens_sha256 == given.sha256}
    wanted = list(_wanted(session, given))
    if wanted and wanted[0] in found and found[wanted[0]] is None:
        return []
    return [name for name in wanted if name not in found]


def take_qualities(
    session: Session,
    given: GivenTokens,
    store: Store,
    time_limit_seconds: float,
    on_phase: Callable[[str], None],
) -> Session:
    """Take the missing quality of each path of a session that has a run, of its baseline, and of float32 arithmetic.

    Every path is given the same weights: the checkpoint of its cell, or one of seeded random weights that is saved for
    the time of this call. What a path cannot give is recorded with the reason; without a reference there are no others,
    and where others are missing it is taken again, for its logits are kept no longer than a call.

    Args:
        session: With its runs.
        given: The tokens.
        store: Where records go.
        time_limit_seconds: Time after which a process is ended.
        on_phase: Told what is done.

    Returns:
        The session with its qualities.
    """
    lacking = lacking_qualities(session, given)
    if not lacking:
        return session
    qualities = list(session.qualities)
    with tempfile.TemporaryDirectory(prefix="memfloor-") as folder:
        taker = _Taker(session.comparisons[0], given, Path(folder), time_limit_seconds, on_phase)
        for quality in taker.take(_wanted(session, given), lacking):
            store.add(quality)
            qualities.append(quality)
    return replace(session, qualities=qualities)


def _wanted(session: Session, given: GivenTokens) -> dict[str, Cell]:
    """Return the cells that qualities are taken of, by name, the reference first; none where no path has a run."""
    paths = {name: _decoding(cell, given) for name, cell in _paths(session).items()}
    if not paths.keys() - {BASELINE}:
        return {}
    baseline = session.comparisons[0].baseline
    reference = _source_of(baseline, "bf16", given)
    name = BASELINE if paths.get(BASELINE) == reference else REFERENCE
    return {name: reference, FLOAT32: _source_of(baseline, "fp32", given)} | paths


def _paths(session: Session) -> dict[str, Cell]:
    """Return the cell of each path that has a run, by its name."""
    named = [(BASELINE, item.baseline) for item in session.comparisons]
    named += [(item.path or item.candidate.runtime_text, item.candidate) for item in session.comparisons]
    cells: dict[str, Cell] = {}
    for name, cell in named:
        if cell.key in session.done:
            # Contexts and batch sizes have one quality.
            cells.setdefault(name, cell)
    return cells


def _decoding(cell: Cell, given: GivenTokens) -> Cell:
    workload = cell.workload.model_copy(update={"context_len": len(given.tokens), "batch": 1})
    return cell.model_copy(update={"workload": workload, "prefill": False})


def _source_of(baseline: Cell, weights: str, given: GivenTokens) -> Cell:
    return Cell(
        spec=baseline.spec,
        workload=Workload.of(len(given.tokens), weights=weights, kv=weights),
        runtime="hf-eager",
        device=baseline.device,
        threads=baseline.threads,
        weights_from=baseline.weights_from,
    )


@dataclass(frozen=True, slots=True)
class _Taker:
    """Take qualities of one session, whose weights and reference lie in a temporary folder."""

    said: Comparison
    given: GivenTokens
    folder: Path
    time_limit_seconds: float
    on_phase: Callable[[str], None]

    def take(self, wanted: Mapping[str, Cell], lacking: Collection[str]) -> Iterator[Quality]:
        """Give the reference's quality, and if it has one those of the others that are lacking."""
        checkpoint = self.said.baseline.weights_from
        (name, reference), *others = wanted.items()
        first = self._take(name, reference, checkpoint, save_to=None if checkpoint else self.folder / "source")
        yield first
        if first.errors is None:
            return
        for path, cell in others:
            if path in lacking:
                yield self._take(path, cell, checkpoint or str(self.folder / "source"))

    def _take(self, path: str, cell: Cell, source: str | None, save_to: Path | None = None) -> Quality:
        self.on_phase(f"taking the quality of {path}")
        job = QualityJob(
            cell=cell.model_copy(update={"weights_from": source}),
            seed=self.said.seed,
            tokens=self.given.tokens,
            reference=self.folder / "reference.npy",
            is_reference=not (self.folder / "reference.npy").exists(),
            save_to=save_to,
        )
        answer = ask(QUALITY_CHILD, job, self.time_limit_seconds)
        if "errors" not in answer.events:
            return self._quality(path, cell, None, answer.problem)
        return self._quality(path, cell, LogitErrors.model_validate(answer.need("errors")), None)

    def _quality(self, path: str, cell: Cell, errors: LogitErrors | None, problem: str | None) -> Quality:
        return Quality(
            **identity(self.said.session_id),
            cell=cell,
            path=path,
            seed=self.said.seed,
            weights_source="checkpoint" if self.said.baseline.weights_from else "random",
            token_source=self.given.source,
            tokens=len(self.given.tokens),
            tokens_sha256=self.given.sha256,
            errors=errors,
            problem=problem,
        )

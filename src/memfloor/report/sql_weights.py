"""The table of weight paths that SQL sees of a folder: a row for each path of each ladder, the baseline included."""

from collections.abc import Iterator, Sequence

from memfloor.floor import StepTraffic
from memfloor.report.qualities import QualityMeans, quality_means
from memfloor.report.sql_tables import LEDGER_LINES, Columns, Row, line_column
from memfloor.report.tables import runtime_label
from memfloor.report.weight_ladder import Saving, WeightLadder, WeightRow

CAUSES = tuple(StepTraffic.__dataclass_fields__)
MEANS = tuple(QualityMeans.__dataclass_fields__)
WEIGHT_PATHS: Columns = {
    "session_id": "VARCHAR",
    "model": "VARCHAR",
    "context_len": "BIGINT",
    "batch": "BIGINT",
    "device": "VARCHAR",
    "path": "VARCHAR",
    "runtime": "VARCHAR",
    "weights": "VARCHAR",
    "head": "VARCHAR",
    **{f"{cause}_bytes": "BIGINT" for cause in CAUSES},
    "total_bytes": "BIGINT",
    "p50_seconds": "DOUBLE",
    "fraction_of_ceiling": "DOUBLE",
    "promised": "DOUBLE",
    "ratio": "DOUBLE",
    "ratio_low": "DOUBLE",
    "ratio_high": "DOUBLE",
    "share_realised": "DOUBLE",
    "share_realised_low": "DOUBLE",
    "share_realised_high": "DOUBLE",
    "own_share_realised": "DOUBLE",
    "verdict": "VARCHAR",
    **{line_column(line): "DOUBLE" for line in LEDGER_LINES},
    "ledger_verdict": "VARCHAR",
    "quality_tokens": "BIGINT",
    "token_source": "VARCHAR",
    **dict.fromkeys(MEANS, "DOUBLE"),
    "reason": "VARCHAR",
}


def weight_path_rows(ladders: Sequence[WeightLadder]) -> Iterator[Row]:
    """Give the rows of `weight_paths`."""
    for ladder in ladders:
        yield from (_of_path(row) | _measured(row) | _ledger(row) | _quality(row) for row in ladder.rows)


def _of_path(row: WeightRow) -> Row:
    workload, traffic = row.cell.workload, row.traffic
    return {
        "model": row.cell.spec.name,
        "context_len": workload.context_len,
        "batch": workload.batch,
        "path": row.name,
        "runtime": runtime_label(row.cell),
        "weights": workload.weights,
        "head": workload.head,
        **{f"{cause}_bytes": count for cause, count in traffic.by_cause().items()},
        "total_bytes": traffic.total_bytes,
        "reason": row.lost or row.untraced,
    }


def _measured(row: WeightRow) -> Row:
    found: Row = {}
    summary, compared = row.summary, row.compared
    if summary:
        found |= {"session_id": row.runs[0].session_id, "device": summary.device.name}
        found |= {"p50_seconds": summary.p50_seconds.value}
        found |= {"fraction_of_ceiling": summary.fractions["streamed"].ceiling.value}
    if compared:
        found |= {"verdict": compared.verdict}
    if compared and compared.ratio:
        low, high = compared.ratio.ci95 or (None, None)
        found |= {"ratio": compared.ratio.value, "ratio_low": low, "ratio_high": high}
    return found | _saved(row.saving, row.own_saving)


def _saved(saving: Saving | None, own: Saving | None) -> Row:
    found: Row = {"promised": saving.promised if saving else None}
    if saving and saving.realised:
        low, high = saving.realised.ci95 or (None, None)
        found |= {"share_realised": saving.realised.value, "share_realised_low": low, "share_realised_high": high}
    return found | {"own_share_realised": own.realised.value if own and own.realised else None}


def _ledger(row: WeightRow) -> Row:
    if row.ledger is None:
        return {}
    believed = {} if row.ledger.refused else row.ledger.lines
    lines = {line_column(name): estimate.value for name, estimate in believed.items()}
    return lines | {"ledger_verdict": row.ledger.verdict}


def _quality(row: WeightRow) -> Row:
    if row.quality is None or row.quality.errors is None:
        return {}
    means = quality_means(row.quality.errors)
    found: Row = {name: getattr(means, name) for name in MEANS}
    return found | {"quality_tokens": row.quality.tokens, "token_source": row.quality.token_source}

"""Columns that a method computes once for all rows of a table."""

import jax
import numpy as np

from alignjax.data import pipeline, tables
from alignjax.models import model as models
from alignjax.parallel import hosts
from alignjax.training import algorithm


def annotated(
    method: algorithm.Algorithm, frozen: models.Frozen, table: tables.Table, rows: int
) -> tables.Table:
    """The table with the columns that the method computes once for all rows, `rows` at a time.

    They are recomputed at every start from the frozen trees themselves, by one program in one
    order: the same bits each time, and no cache whose identity could go wrong.
    """
    table = algorithm.with_columns(table, method.prepare)
    if method.annotate is not None:
        run = jax.jit(method.annotate)
        parts: dict[str, list[np.ndarray]] = {}
        for batch, real in pipeline.in_order(table, rows):
            for name, column in hosts.to_host(run(frozen, hosts.to_global(batch))).items():
                parts.setdefault(name, []).append(column[:real])
        table = {**table, **{name: np.concatenate(part) for name, part in parts.items()}}
    return algorithm.with_columns(table, method.over_table)

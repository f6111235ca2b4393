"""Layouts: what the fields of a row mean. Each makes typed rows of fields (`data/rows.py`)."""

from alignjax.data.layouts import community, pairs, ranked, single
from alignjax.data.layouts.layout import Layout, Options, names_of, rename
from alignjax.data.layouts.record import Record

__all__ = ["LAYOUTS", "Layout", "Options", "Record", "names_of", "rename"]
LAYOUTS: dict[str, Layout] = {
    layout.name: layout
    for layout in (
        pairs.HH,
        pairs.PAIRS,
        ranked.ULTRAFEEDBACK,
        ranked.RANKED,
        ranked.STRENGTH,
        community.COMMUNITY,
        community.PRISM,
        community.COLLECTIVE,
        single.KTO,
        single.SCORED,
        single.STEPWISE,
        single.SPANS,
        single.GUARD,
        single.COMPLETION,
        single.SHAREGPT,
        single.MESSAGES,
        single.ALPACA,
        single.QUESTION,
        single.PROMPTS,
        single.TEXT,
    )
}

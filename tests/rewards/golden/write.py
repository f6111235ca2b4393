"""Writes the golden tables: python -m tests.rewards.golden.write

The rows come from `numbers`, `expressions`, `texts` and `programs`, which know what is right by how
they write a text. They import nothing of alignjax.
"""

import json
import pathlib

from tests.rewards.golden import expressions, numbers, programs, texts

FOLDER = pathlib.Path(__file__).parent
TABLES = {
    "boxed": expressions.boxed,
    "code": programs.code,
    "exact_number": numbers.exact_number,
    "format": texts.form,
    "last_number": numbers.last_number,
    "length": texts.length,
    "math_verify": expressions.math_verify,
    "repetition": texts.repetition,
    "soft_overlong": texts.soft_overlong,
}


def lines(name: str) -> str:
    rows = TABLES[name]()
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


if __name__ == "__main__":
    for table in TABLES:
        (FOLDER / f"{table}.jsonl").write_text(lines(table))

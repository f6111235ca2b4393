"""alignjax revise: a model answers prompts, criticises its answers by principles, rewrites them."""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

from alignjax.cli import flags
from alignjax.commands import common
from alignjax.core import shapes
from alignjax.rewards import constitution, judge_settings

OPTIONS = (
    flags.Option("workdir", str, "", "run whose policy answers; or --model"),
    flags.Option("model", str, "", "open weights, with their tokenizer"),
    flags.Option("prompts", str, "", "file of prompts"),
    flags.Option("constitution", str, "", "file of principles: docs/constitution.md"),
    flags.Option("rounds", int, 1, "of critique and revision, each by another principle"),
    flags.Option("count", int, 0, "so many prompts; 0 is all"),
    flags.Option("max_new_tokens", int, 128, "limit of an answer, a critique and a revision"),
    flags.Option("temperature", float, 1.0, "of what is written; 0 is greedy"),
    flags.Option("seed", int, 0, "of what is written, and of the principles drawn"),
    flags.Option("rows", int, 8, "written at once"),
    flags.Option("length", int, 1024, "tokens of a request with its answer at most"),
    flags.Option("out", str, "", "folder of demonstrations.jsonl and steps.jsonl"),
    common.BEST,
    common.DEBUG,
)
NEEDS_CONFIG = False
DEMONSTRATIONS, STEPS = "demonstrations.jsonl", "steps.jsonl"


def main(parsed: flags.Parsed) -> None:
    """Writes revised answers as rows that SFT reads, and how each came to be."""
    from alignjax.feedback import imports, verdicts
    from alignjax.runs import described_judge

    options = parsed.options
    asked = judge_settings.Local(
        kind=judge_settings.LOCAL,
        **{n: options[n] for n in ("workdir", "model", "best", "rows", "length")},
    )
    asked.validate("revise")
    folder = out_folder(options)
    shapes.check_number("--temperature", options["temperature"], minimum=0)
    shapes.check_number("--count", options["count"], minimum=0)
    principles = constitution.read(options["constitution"])
    # Checks rounds.
    constitution.principles_of(len(principles), 0, options["rounds"], options["seed"], "")
    turns = imports.prompts(options["prompts"])[: options["count"] or None]
    prompts = [verdicts.asked([(turn.role, turn.text) for turn in own]) for own in turns]
    with described_judge.model_of(asked) as (parts, _):
        write = described_judge.writer(
            *parts, asked, options["max_new_tokens"], options["temperature"], options["seed"]
        )
        first = list(write(prompts))
        common.log(f"answers: {len(first)}")
        critic, reviser = constitution.by_model(write)
        found = constitution.revise(
            principles, prompts, first, critic, reviser, rounds=options["rounds"],
            seed=options["seed"],
        )  # fmt: skip
    kept = [i for i, answer in enumerate(found.answers) if answer.strip()]
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        {"messages": [{"role": ROLES[turn.role], "content": turn.text} for turn in turns[i]]
         + [{"role": "assistant", "content": found.answers[i]}]}
        for i in kept
    ]  # fmt: skip
    steps = [
        {"prompt": prompt, "first": one, "steps": [step._asdict() for step in own]}
        for prompt, one, own in zip(prompts, first, found.steps, strict=True)
    ]
    for name, lines in ((DEMONSTRATIONS, rows), (STEPS, steps)):
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        (folder / name).write_text(text, encoding="utf-8", errors="surrogatepass")
    changed = sum(a != b for a, b in zip(first, found.answers, strict=True))
    print(f"revised: {changed} of {len(first)} answers; {found.kept} revisions were empty")
    print(f"left out: {len(first) - len(kept)} answers that are empty")
    print(f"written: {folder / DEMONSTRATIONS}, {folder / STEPS}")


ROLES = {"system": "system", "human": "user", "assistant": "assistant"}


def out_folder(options: Mapping[str, Any]) -> pathlib.Path:
    """The folder of what is written.

    Raises:
      ValueError: it is not named, is a file, or holds such files already.
    """
    folder = pathlib.Path(options["out"])
    if not options["out"] or (folder.exists() and not folder.is_dir()):
        raise ValueError(f"--out must name a folder; got {options['out']!r} (revise). Name one.")
    if (folder / DEMONSTRATIONS).exists():
        raise ValueError(
            f"--out must hold no {DEMONSTRATIONS}; got {options['out']!r} (revise). Name another."
        )
    return folder

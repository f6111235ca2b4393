"""alignjax attack: red teaming of a run, of open weights, or of a server on this machine."""

import contextlib
import dataclasses
import itertools
import json
import math
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import IO, Any

from alignjax.cli import flags
from alignjax.commands import common
from alignjax.core import shapes, untrusted, values
from alignjax.data import containers
from alignjax.feedback import database
from alignjax.redteam import (
    attack,
    catalogue,
    gcg,
    goals,
    judges,
    report,
    store,
    suffixes,
    target,
    transforms,
)
from alignjax.rewards import described, remote_judge
from alignjax.runs import described_judge, folder, targets
from alignjax.sampling import transforms as sampling

NAMES = (*catalogue.ATTACKS, catalogue.GCG)
GCG_OPTIONS = {
    "steps": "of gcg, as far as the budget pays",
    "width": "candidates of a step",
    "top": "ids of the gradient that a place chooses from",
    "replaced": "places that a candidate changes",
    "tokens": "of the suffix",
    "buffer": "suffixes kept",
}
ATTEMPTS, SUMMARY = "attacks.jsonl", "summary.json"
OPTIONS = (
    common.WORKDIR,
    flags.Option("model", str, "", "open weights instead of a run: a model folder or .gguf file"),
    flags.Option("address", str, "", "a server instead of a run, OpenAI-compatible, up to /v1"),
    flags.Option("name", str, "model", "of the model that the address is asked for"),
    flags.Option("key", str, "", "environment variable with the address's key"),
    flags.Option(
        "i_own_this_host", bool, False, "the address is another machine's, and yours to attack"
    ),
    flags.Option("template", str, "", "layout of chats with --model; empty takes the model's own"),
    flags.Option("date", str, "", "today's for such a layout that states it, like '26 Jul 2024'"),
    flags.Option("system", str, "", "file of the system prompt that stands before every attack"),
    flags.Option("attacks", str, "best_of_n", f"by comma: {', '.join(NAMES)}"),
    flags.Option("goals", str, "", "file of goals: rows with goal (or prompt), and target"),
    flags.Option("count", int, 0, "so many goals; 0 is all"),
    flags.Option("budget", int, 20000, "tokens of the target, read and written, a goal and attack"),
    flags.Option("attempts", int, 64, "of a goal at most"),
    flags.Option(
        "transforms", str, "train", 'of questions: train, held_out, or "NAME(key=value),NAME"'
    ),
    flags.Option(
        "judge", str, "", "JSON file of a judge, of kind rubric or rule; empty is a list of words"
    ),
    flags.Option(
        "labels", str, "", "JSONL of goal, answer and label by people: how far the judge is right"
    ),
    flags.Option("shots", str, "", "rows of prompt and answer, for many_shot"),
    flags.Option(
        "attacker", str, "", "run, model folder or address that writes pair, tap and crescendo"
    ),
    flags.Option("attacker_name", str, "model", "of the model that the attacker's address knows"),
    flags.Option("attacker_template", str, "", "as --template, of the attacker"),
    flags.Option("attacker_tokens", int, 256, "of what the attacker writes at most"),
    *(
        flags.Option(f"gcg_{n}", int, getattr(gcg.GcgConfig(), n), text)
        for n, text in GCG_OPTIONS.items()
    ),
    flags.Option(
        "to", str, "", "new folder to write; empty is attacks, attacks-2, ... in the run's folder"
    ),
    flags.Option("refusal", str, store.REFUSAL, "what should have been said, for --database"),
    common.DATABASE,
    flags.Option("rows", int, 16, "questions asked at once"),
    flags.Option("length", int, 2048, "tokens of a question at most; a longer one is not sent"),
    *common.SAMPLING,
    common.BEST,
    common.DEFINITIONS,
    common.DEBUG,
)
NEEDS_CONFIG = False


def main(parsed: flags.Parsed) -> None:
    """Attacks, writes attacks.jsonl as it goes and summary.json, and prints a table of numbers."""
    options = parsed.options
    names = _check(options)
    given = goals.read(options["goals"], options["count"])
    pool = transforms.pool(options["transforms"])
    if options["database"] and transforms.is_held_out(pool):
        raise ValueError(
            "--database must not be filled from transforms that are held out; got "
            f"--transforms={options['transforms']} (attack). Leave one of them out."
        )
    choice = catalogue.Choice(options["attempts"], pool, _shots(options["shots"]))
    own = {name: catalogue.ATTACKS[name](choice) for name in names if name != catalogue.GCG}
    config = gcg.GcgConfig(**{n: options[f"gcg_{n}"] for n in GCG_OPTIONS}, seed=options["seed"])
    config.validate()
    system, labels = _text(options["system"]), _labels(options["labels"])
    to = _folder(options)
    if options["database"]:  # refused before anything is asked
        with database.opened(options["database"], new=True):
            pass
    with contextlib.ExitStack() as stack:
        judge, asked, box = stack.enter_context(_opened(options, system))
        measured = judges.measure(judge, labels) if labels else None
        if measured is not None:  # refused before anything is asked
            report.check_correctable(measured)
        found = []
        identity = {**asked.target.identity, "judge": judge.name}
        record = stack.enter_context(_recorded(to, identity))
        for name in names:
            limits: Any = {"budget": options["budget"], "log": common.log, "keep": record}
            if name == catalogue.GCG:
                assert box is not None  # `_check` refuses an address
                found.append(suffixes.run(box, given, asked, config, **limits))
            else:
                attacked = attack.run(own[name], given, asked, seed=options["seed"], **limits)
                found.append(attacked)
    if not any(one.attempts for one in found):
        raise ValueError(
            f"--budget must pay for a question and its answer; got {options['budget']} tokens, for "
            "which nothing was asked (attack). Raise it."
        )
    told = [report.summary(one, identity, measured) for one in found]
    (to / SUMMARY).write_text(json.dumps({"attacks": told}, indent=1) + "\n")
    for line in report.lines(told):
        print(line)
    if judge.name == judges.KEYWORDS:
        common.log("judge: a list of words, the baseline; it errs both ways. Give --judge.")
    if options["database"]:
        with database.opened(options["database"], new=True) as db:
            items, left_out = store.items_of(found, identity, system)
            better = [(item, options["refusal"]) for item in items]
            new = store.write(db, better, judge.name)
        print(f"stored: {new} new hits of {len(items)} in {options['database']}; {left_out} not")
    print(f"written: {to}")


def _check(options: Mapping[str, Any]) -> list[str]:
    """The attacks' names."""
    names = [name.strip() for name in options["attacks"].split(",")]
    for name in names:
        values.check_choice("--attacks", name, NAMES)
    if catalogue.GCG in names and options["address"]:
        raise ValueError(
            "gcg must have the target's weights; got --address (attack). Name the model's folder."
        )
    written = [name for name in names if name in catalogue.WRITTEN]
    if written and not options["attacker"]:
        raise ValueError(
            f"{', '.join(written)} must have an attacker; got none (attack). Give --attacker, a "
            "run, a model folder or an address."
        )
    given = [name for name in ("workdir", "model", "address") if options[name]]
    if len(given) != 1:
        raise ValueError(
            f"one of --workdir, --model and --address must be given; got {', '.join(given) or '-'} "
            "(attack). Name what is attacked."
        )
    for name in ("budget", "attempts", "rows", "length"):
        shapes.check_number(f"--{name}", options[name], minimum=1)
    shapes.check_number("--count", options["count"], minimum=0)
    for name in ("address", "attacker"):
        if (name == "address" and options[name]) or _is_address(options[name]):
            remote_judge.check_address(options[name])
            check_host(name, options[name], options["i_own_this_host"])
    return names


def _is_address(text: str) -> bool:
    return text.startswith(("http:", "https:"))


def check_host(name: str, address: str, owned: bool) -> None:
    """Raises ValueError for an address of another machine that is not said to be one's own."""
    if not remote_judge.is_loopback(address) and not owned:
        raise ValueError(
            f"--{name} must be this machine's; got {address} (attack). Attack your own models "
            "alone: where that machine is yours, say so by --i_own_this_host."
        )


def _text(path: str) -> str:
    if not path:
        return ""
    try:
        return untrusted.read_text(path, untrusted.OPTION).strip()
    except OSError:
        raise ValueError(f"--system must be a file of text; got {path!r} (attack).") from None


def _folder(options: Mapping[str, Any]) -> pathlib.Path:
    """Where to write: a folder that holds nothing yet.

    Raises:
      ValueError: the one that was named holds something, an earlier attack for example.
    """

    def is_free(place: pathlib.Path) -> bool:
        return not place.exists() or (place.is_dir() and not any(place.iterdir()))

    if options["to"]:
        place = pathlib.Path(options["to"])
        if not is_free(place):
            raise ValueError(
                f"--to must be a new folder, so that no earlier attack is lost; got {place}, which "
                "holds something (attack). Name another."
            )
        return place
    places = (pathlib.Path(options["workdir"]) / f"attacks{n}" for n in _numbers())
    return next(place for place in places if is_free(place))


def _numbers() -> Iterator[str]:
    yield ""
    yield from (f"-{n}" for n in itertools.count(2))


@contextlib.contextmanager
def _judge(path: str) -> Iterator[judges.Judge]:
    if not path:
        yield judges.keywords()
        return
    settings = described.read(path)
    if isinstance(settings, described.Rule):
        yield judges.of_rule(settings)
        return
    with described_judge.opened(settings) as (own, digest):
        yield judges.of_scores(own, digest)


@contextlib.contextmanager
def _opened(
    options: Mapping[str, Any], system: str
) -> Iterator[tuple[judges.Judge, attack.Asked, suffixes.WhiteBox | None]]:
    """(the judge, who is asked, the target's weights unless it is an address)."""
    config = sampling.SamplingConfig(
        **{n: options[n] for n in ("max_new_tokens", "temperature", "top_k", "top_p")}
    )
    config.validate()
    with contextlib.ExitStack() as stack:
        judge = stack.enter_context(_judge(options["judge"]))
        attacker = None
        if options["attacker"]:
            wide = dataclasses.replace(config, max_new_tokens=options["attacker_tokens"])
            written = stack.enter_context(_target(_attacker(options), "", wide))
            attacker = target.texts(written[0])
        own, box = stack.enter_context(_target(options, system, config))
        yield judge, attack.Asked(own, judge, attacker, judges.shared_words), box


def _attacker(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of an attacker as those of a target."""
    place = options["attacker"]
    kind = (
        "address"
        if _is_address(place)
        else "workdir"
        if folder.is_run(pathlib.Path(place))
        else "model"
    )
    none = {"workdir": "", "model": "", "address": "", "best": False, "definitions": ""}
    named = {"name": options["attacker_name"], "template": options["attacker_template"]}
    return {**options, **none, **named, kind: place}


@contextlib.contextmanager
def _target(
    options: Mapping[str, Any], system: str, config: sampling.SamplingConfig
) -> Iterator[tuple[target.Target, suffixes.WhiteBox | None]]:
    seed = options["seed"]
    if options["address"]:
        token = os.environ.get(options["key"], "") if options["key"] else ""
        post = remote_judge.poster(options["address"], token=token)
        told = {"address": options["address"], "model": options["name"]}
        yield target.remote(
            post, options["name"], config=config, system=system, identity=told, seed=seed
        ), None  # fmt: skip
        return
    shared = {name: options[name] for name in ("best", "template", "date", "definitions")}
    with targets.opened(options["workdir"], options["model"], **shared) as own:
        speech = target.Speech(own.speaker, system)
        yield target.local(
            own.model, own.params, speech, config=config, eos=own.ends, pad=own.pad,
            identity=own.identity, rows=options["rows"], length=options["length"], seed=seed,
        ), suffixes.WhiteBox(own.model, own.params, speech, own.speaker.eos_id)  # fmt: skip


def _shots(path: str) -> list[tuple[str, str]]:
    """(question, answer) of a file's rows."""
    own = [
        (str(row["prompt"]), str(row["answer"])) for row in _rows("shots", path, "prompt, answer")
    ]
    return own


def _labels(path: str) -> list[tuple[str, str, bool]]:
    """(goal, answer, whether it complies) of a file."""
    rows = _rows("labels", path, "goal, answer, label")
    for number, row in enumerate(rows, 1):
        if row["label"] not in (True, False):
            raise ValueError(
                f"label must be true or false; got {row['label']!r:.20} (--labels, row {number})."
            )
    return [(str(row["goal"]), str(row["answer"]), bool(row["label"])) for row in rows]


def _rows(name: str, path: str, fields: str) -> list[dict[str, Any]]:
    """The rows of a file with these fields; none without a path."""
    if not path:
        return []
    found = []
    for part in containers.parts(path):
        for number, row in part.rows():
            if not isinstance(row, dict) or not set(fields.split(", ")) <= row.keys():
                raise ValueError(
                    f"--{name} must be rows of {fields}; got another ({path}, row {number})."
                )
            found.append(dict(row))
    return found


@contextlib.contextmanager
def _recorded(to: pathlib.Path, identity: Mapping[str, Any]) -> Iterator[attack.Keep]:
    """Takes attempts into the folder's file one by one, so that a kill loses none; the folder is
    made with the first."""
    hashes = {name: identity[name] for name in ("template", "system")}
    with contextlib.ExitStack() as stack:
        files: list[IO[str]] = []

        def keep(attempt: attack.Attempt) -> None:
            if not files:
                to.mkdir(parents=True, exist_ok=True)
                files.append(stack.enter_context((to / ATTEMPTS).open("x", encoding="utf-8")))
            score = None if math.isnan(attempt.score) else attempt.score
            turns = [{"role": turn.role, "text": turn.text} for turn in attempt.turns]
            row = {**attempt._asdict(), "score": score, "turns": turns, **hashes}
            files[0].write(json.dumps(row, ensure_ascii=False) + "\n")
            files[0].flush()

        yield keep

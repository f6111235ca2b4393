"""alignjax guard: thresholds of a guard from labelled rows, a comparison of two, and a verdict."""

import contextlib
from typing import Any

from alignjax.cli import flags
from alignjax.commands import common
from alignjax.core import errors, shapes
from alignjax.serving import calibration, described_guards, guards, languages, thresholds
from alignjax.text import chat

OPTIONS = (
    flags.Option("guard", str, "", "a guard's run, or a JSON file that describes one"),
    flags.Option("rows", str, "", "labelled rows, that no guard was trained on"),
    flags.Option("calibrate", bool, False, "set thresholds by the rows, and write them"),
    flags.Option(
        "max_false_positive", float, 0.01, "of a category, among texts like the safe rows"
    ),
    flags.Option("languages", str, "", "with thresholds of their own; empty: all of the rows"),
    flags.Option("thresholds", str, "thresholds.json", "file of thresholds"),
    flags.Option("against", str, "", "the guard in use: is the other one no worse on the rows?"),
    flags.Option("against_thresholds", str, "", "its thresholds"),
    flags.Option("margin", float, 0.01, "recall or false positives that a new guard may lose"),
    flags.Option("text", str, "", "a user's text to judge"),
    flags.Option("latency", int, 32, "texts that are timed one by one; 0 times none"),
    common.DEBUG,
)
NEEDS_CONFIG = False


def main(parsed: flags.Parsed) -> None:
    """Calibrates, compares or asks a guard.

    Raises:
      Failure: a new guard is not promoted: exit code 1.
    """
    options = parsed.options
    asked = [name for name in ("calibrate", "against", "text") if options[name]]
    if len(asked) != 1:
        raise ValueError(
            "one of --calibrate, --against and --text must be given; got "
            f"{', '.join(asked) or 'none'} (guard)."
        )
    if asked != ["text"] and not options["rows"]:
        raise ValueError("--rows must name labelled rows; got '' (guard).")
    shapes.check_number("--latency", options["latency"], minimum=0)
    {"calibrate": _calibrate, "against": _compare, "text": _ask}[asked[0]](options)


def _calibrate(options: dict[str, Any]) -> None:
    settings = described_guards.read(options["guard"])
    given = calibration.read(options["rows"])
    if isinstance(settings, described_guards.Trained):
        calibration.check_apart(settings.workdir, given)
    own = [name.strip() for name in options["languages"].split(",") if name.strip()]
    with described_guards.opened(settings) as detector:
        found = calibration.score(detector, given)
        limits = thresholds.calibrate(
            found.scores, found.labels, found.languages, detector.categories,
            options["max_false_positive"], guard=detector.fingerprint, own=own or None,
        )  # fmt: skip
        lines = calibration.lines(found, limits)
        if options["latency"]:
            lines.append(calibration.latency(detector, given, options["latency"]))
    thresholds.write(options["thresholds"], limits)
    print("\n".join([*lines, f"written: {options['thresholds']}"]))


def _blocked(guard: str, limits: str, given: Any) -> tuple[Any, Any]:
    with described_guards.opened(described_guards.read(guard)) as detector:
        own = thresholds.read(limits)
        own.check(detector.fingerprint)
        scored = calibration.score(detector, given)
        return calibration.blocked(scored, own).any(axis=1), scored


def _compare(options: dict[str, Any]) -> None:
    if not options["against_thresholds"]:
        raise ValueError("--against_thresholds must name a file; got '' (guard).")
    given = calibration.read(options["rows"])
    new, scored = _blocked(options["guard"], options["thresholds"], given)
    old, _ = _blocked(options["against"], options["against_thresholds"], given)
    unsafe, known = calibration.unsafe_rows(scored)
    found = calibration.compare(new[known], old[known], unsafe[known], margin=options["margin"])
    lines = calibration.summary(found)
    print("\n".join(lines))
    if not found.is_promoted:
        raise errors.Failure(f"a new guard must not be worse; got {lines[-1]} (guard).")


def _ask(options: dict[str, Any]) -> None:
    with contextlib.ExitStack() as stack:
        settings = described_guards.read(options["guard"])
        detector = stack.enter_context(described_guards.opened(settings))
        limits = thresholds.read(options["thresholds"])
        guard = guards.Guard(detector, limits, language=languages.of(limits))
        verdict = guard.before([chat.Turn(chat.HUMAN, options["text"])])
    for name, value in verdict.categories.items():
        print(f"{name}: {value:.4f}")
    print("blocked" if verdict.blocked else "allowed")
    if verdict.error is not None:
        raise errors.Failure(f"a guard must tell; got {verdict.error} (guard).")

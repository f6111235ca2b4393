"""The command line: `alignjax COMMAND --option=value ...`."""

import difflib
import importlib
import keyword
import pathlib
import sys
from collections.abc import Callable, Sequence

import alignjax
from alignjax.cli import stopping

COMMANDS = {
    "run": "a lifecycle, from pretraining to the report",
    "train": "one experiment",
    "prepare": "an experiment's data, tokenised and packed once, in shards on disk",
    "sweep": "arms x seeds of an experiment: an ablation, its table, intervals and verdict",
    "plan": "an experiment's memory, FLOPs, collectives and time on a TPU slice, without one",
    "evaluate": "a trained run on its eval split, or any model on evaluation suites",
    "compare": "two results of evaluation suites, row by row; or the logs of training runs",
    "sample": "completions of a trained run, or of open weights",
    "search": "the best of many answers: by votes, reward models, beams of steps; accuracy by n",
    "label-steps": "solutions of a policy with labels of their steps, made by rollouts",
    "chat": "a conversation with a model in the terminal; conversations become rows",
    "serve": "a model behind OpenAI's interface: many requests at once, adapters by name",
    "export": "a run's model as a folder that transformers loads",
    "import": "open weights as a run's folder",
    "report": "table, page and figures of a lifecycle or a sweep, written anew",
    "experiments": "the experiments that come with AlignJAX: what each is, its cost, its variants",
    "methods": "losses and estimators, and how papers and other code compute one",
    "check-data": "preference rows read and judged without a model",
    "collect": "answers to be judged: sampled from runs, or from a file",
    "annotate": "a page in the browser on which people judge answers",
    "judge": "answers judged by a model, an address, a rubric or a rule, in both orders",
    "revise": "a model's answers, criticised and rewritten by the principles of a constitution",
    "agreement": "what raters agree on, how often each errs, which model wins",
    "attack": "red teaming of one's own model: how often attacks succeed, at what cost",
    "harvest": "judgements as files of training rows",
    "guard": "thresholds of a guard from labelled rows, and whether a new one may take its place",
    "review": "what a guard judged, reviewed by people: pages, rates on all traffic, training rows",
    "verify": "the checksums of a run's checkpoints",
}


def usage() -> str:
    """What `alignjax --help` prints."""
    lines = [f"alignjax {alignjax.__version__}: alignjax COMMAND [--option=value ...]", ""]
    lines += [f"  {name:<11} {text}" for name, text in COMMANDS.items()]
    return "\n".join([*lines, "", "alignjax COMMAND --help lists a command's options."])


def dispatch(argv: Sequence[str], begins: Callable[[], None] = lambda: None) -> int | None:
    """Runs a command line's command and returns its exit code.

    begins: called when all is loaded and parsed, before the command itself.
    """
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(usage())
        return 0 if argv else 2
    if argv[0] == "--version":
        print(alignjax.__version__)
        return 0
    name = argv[0]
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"the command must be one of {', '.join(COMMANDS)}; got {name!r}.{hint}")
    from alignjax.cli import flags

    module = name.replace("-", "_") + ("_" if keyword.iskeyword(name) else "")
    command = importlib.import_module(f"alignjax.commands.{module}")
    parsed = flags.parse(
        list(argv[1:]), command=name, options=command.OPTIONS, needs_config=command.NEEDS_CONFIG
    )
    begins()
    if parsed.config is not None or parsed.options.get("model"):
        from alignjax.commands import weights

        parsed = weights.present(parsed)
    return command.main(parsed)


def main(argv: Sequence[str] | None = None) -> int:
    """The console command. Exit codes: alignjax/core/errors.py."""
    argv = list(sys.argv[1:] if argv is None else argv)
    with stopping.AtOnce() as early:  # before anything that takes long is loaded
        return _main(argv, early)


def _main(argv: list[str], early: stopping.AtOnce) -> int:
    from alignjax.cli import outcome

    debug = any(word in ("--debug", "--debug=true", "--debug=True") for word in argv)
    folder = next((w.split("=", 1)[1] for w in argv if w.startswith("--workdir=")), "")
    existing = pathlib.Path(folder) if folder and pathlib.Path(folder).is_dir() else None
    return outcome.run_command(lambda: dispatch(argv, early.undo), debug=debug, log_folder=existing)

"""alignjax sample: completions of a trained run, or of open weights."""

from collections.abc import Mapping
from typing import Any

from alignjax.cli import flags
from alignjax.commands import common
from alignjax.evals import adapted
from alignjax.runs import evaluation
from alignjax.sampling import transforms

OPTIONS = (
    common.WORKDIR,
    flags.Option("model", str, "", "open weights instead of a run: a model folder or .gguf file"),
    flags.Option("template", str, "", "layout of chats with --model; empty takes the model's own"),
    common.SKIP,
    flags.Option("date", str, "", "today's for such a layout that states it, like '26 Jul 2024'"),
    flags.Option("pad", str, "", "token to pad with, where the model with --model names none"),
    flags.Option(
        "adapters", str, "", "LoRA folders of peft over --model: NAME=FOLDER,NAME=FOLDER, one batch"
    ),
    flags.Option(
        "rows", str, "", 'JSONL of {"prompt": ..., "adapter": NAME}, answered by those adapters'
    ),
    flags.Option("prompt", str, "", "text to answer; empty takes prompts of the eval split"),
    flags.Option("count", int, 4, "completions"),
    *common.SAMPLING,
    common.BEST,
    common.BASE,
    common.DEFINITIONS,
    common.DEBUG,
)
NEEDS_CONFIG = False


def main(parsed: flags.Parsed) -> None:
    """Prints every prompt with its completion."""
    options = parsed.options
    common.use_base(parsed)
    config = transforms.SamplingConfig(
        **{n: options[n] for n in ("max_new_tokens", "temperature", "top_k", "top_p")}
    )
    config.validate()
    shared = {name: options[name] for name in ("prompt", "count", "seed")}
    if options["adapters"] or options["rows"]:
        answers = _of_adapters(options, config)
    elif options["model"]:
        answers = _of_weights(options, config, shared)
    else:
        folder = common.run_folder(parsed)
        own = {name: options[name] for name in ("best", "definitions")}
        answers = evaluation.sample(folder, config=config, **shared, **own)
    for prompt, completion in answers:
        print(common.shown(f"> {prompt}\n{completion}\n"))


def _of_adapters(
    options: Mapping[str, Any], config: transforms.SamplingConfig
) -> list[tuple[str, str]]:
    """(prompt, answer) of rows by their adapters, or of one prompt by all adapters and the base."""
    if not options["model"] or not options["adapters"] or options["workdir"]:
        raise ValueError(
            "--adapters must be given with --model, and --rows with both, without --workdir "
            "(sample). Name the base and the folders of its adapters."
        )
    if bool(options["rows"]) == bool(options["prompt"]):
        raise ValueError(
            "--rows or --prompt must be given with --adapters, and not both (sample). Drop one."
        )
    adapters = adapted.parse_adapters(options["adapters"])
    if options["rows"]:
        rows = adapted.read_rows(options["rows"], tuple(adapters))
    else:
        rows = [adapted.Row(options["prompt"], name) for name in (adapted.BASE, *adapters)]
    rows = [row for row in rows for _ in range(options["count"])]
    answers = adapted.sample(
        options["model"],
        adapters,
        rows,
        config=config,
        seed=options["seed"],
        template=options["template"],
        pad=options["pad"],
        date=options["date"],
        skip=options["skip"],
    )
    pairs = zip(rows, answers, strict=True)
    return [(f"[{row.adapter}] {row.prompt}", text) for row, text in pairs]


def _of_weights(
    options: Mapping[str, Any], config: transforms.SamplingConfig, shared: Mapping[str, Any]
) -> list[tuple[str, str]]:
    if options["workdir"]:
        raise ValueError("--workdir and --model must not both be given (sample). Drop one.")
    if not options["prompt"]:
        raise ValueError("--prompt must be given with --model; got '' (sample). Ask something.")
    return evaluation.sample_weights(
        options["model"],
        config=config,
        template=options["template"],
        pad=options["pad"],
        date=options["date"],
        skip=options["skip"],
        log=common.log,
        **shared,
    )

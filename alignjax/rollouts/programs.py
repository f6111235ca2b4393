"""The programs of a collection, in shapes, for plans."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from alignjax.models import model as models
from alignjax.rewards import learned, scores
from alignjax.rollouts import collection, experience, replay, rollouts, settings
from alignjax.sampling import plan
from alignjax.training import program

READ = {"tokens": np.int32, "loss_mask": np.bool_, "segments": np.int32, "positions": np.int32}


def generation(
    shapes: program.Shapes,
    draw: collection.Draw,
    policy: models.Params,
    rows: int,
    size: int = 1,
    behind: int = 0,
) -> program.Program:
    """The program that samples `rows` completions, `size` a prompt, with these params.

    behind: tokens of earlier turns behind a prompt.
    """
    base = {name: tree for name, tree in shapes.frozen.items() if name == "base"}
    return plan.generation(
        draw.model,
        draw.sampling,
        shapes.bound["policy"],
        parts=(("parameters", policy), ("frozen", base)),
        rows=rows,
        prompt_length=shapes.batch["prompts"].shape[1] + behind,
        eos=draw.eos,
        pad=draw.pad,
        key=shapes.key,
        samples_per_prompt=size,
    )


def scoring(shapes: program.Shapes, samples: Any, chunks: int) -> program.Program:
    """The program of a reward model over samples."""
    count, length = samples.tokens.shape
    batch = program.shapes_of(learned.as_batch, samples)
    tree = shapes.bound["reward"]
    return program.Program(
        "score",
        learned.make_score(shapes.networks["reward"], chunks=chunks),
        (tree, batch),
        (("frozen", tree), ("batch", (samples, batch))),
        count,
        length,
        (program.Pass("reward", head=False),),
    )


def make_programs(
    draw: collection.Draw,
    config: settings.GroupConfig,
    needs: experience.Needs,
    run: experience.Experience,
    *,
    chunks: int,
) -> Callable[[program.Shapes], program.Collected]:
    """The programs of `collect`, in shapes: generate, score, experience."""

    def programs(shapes: program.Shapes) -> program.Collected:
        drawn, width = shapes.batch["prompts"].shape
        sampled, trained = config.prompts_trained(drawn)
        rows, kept = sampled * config.group, trained * config.group
        length = width + config.new_tokens
        behind = config.new_tokens - config.sampling.max_new_tokens  # of the last turn, the longest
        size = config.group if config.env is None else 1  # rows differ after a turn
        calls = [generation(shapes, draw, shapes.params, rows, size, behind)]
        drawn_samples = plan.samples(rows, length)
        if config.reward == "model":
            calls.append(scoring(shapes, drawn_samples, chunks))
        columns: dict[str, Any] = program.rows(
            {
                "task": ((rows,), np.int32),
                "version": ((rows,), np.int32),
                "turns": ((rows,), np.int32),
                "returns": ((rows,), np.float32),
                "reward": ((rows,), np.float32),
                "failed": ((rows,), np.bool_),
            }
        )
        samples = rollouts.Rollouts(
            **{name: getattr(drawn_samples, name) for name in vars(drawn_samples)},
            task=columns["task"],
            **{name: columns[name] for name in ("version", "turns", "returns")},
        )
        parts = dict.fromkeys(config.part_names, columns["reward"])
        found = scores.Scores(columns["reward"], parts, columns["failed"])
        greedy = _greedy(config, sampled)
        sampler = shapes.params if config.lag else None
        stored = None
        if config.replay:
            stored = program.shapes_of(lambda: replay.empty(config, length))
        arguments = (shapes.params, sampler, shapes.frozen, samples, found, greedy, stored)
        passes = [] if needs.drawn else [program.Pass("policy")]
        if needs.reference:
            passes.append(program.Pass("reference"))
        calls.append(
            program.Program(
                "experience",
                run,
                arguments,
                (
                    ("parameters", (shapes.params, sampler)),
                    ("frozen", shapes.frozen),
                    ("batch", (samples, found, greedy, stored)),
                ),
                kept,
                length,
                tuple(passes),
            )
        )
        return program.Collected(tuple(calls), program.rows(_columns(config, needs, kept, length)))

    return programs


def _greedy(config: settings.GroupConfig, prompts: int) -> jax.ShapeDtypeStruct | None:
    if not config.reads_greedy:
        return None
    return program.rows({"greedy": ((prompts,), np.float32)})["greedy"]


def _columns(
    config: settings.GroupConfig, needs: experience.Needs, rows: int, length: int
) -> Mapping[str, tuple[tuple[int, ...], Any]]:
    """Columns of the rows that the loss reads, with shapes and dtypes."""
    wide = (rows, length)
    columns: dict[str, tuple[tuple[int, ...], Any]] = {n: (wide, d) for n, d in READ.items()}
    columns["advantages"] = (wide if experience.per_token(config) else (rows,), np.float32)
    named = {"old": needs.old, "reference": needs.reference, "sampler": needs.sampler}
    named["drawn"] = needs.drawn
    columns |= {f"{name}_logprobs": (wide, np.float32) for name, on in named.items() if on}
    return columns

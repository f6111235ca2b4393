"""A finished run read back from its folder: evaluated, sampled from, verified."""

import dataclasses
import json
import pathlib
import types
import typing
from typing import Any, NamedTuple

import jax
import numpy as np

from alignjax import experiment, runs
from alignjax.core import errors
from alignjax.data import corpus as corpora
from alignjax.data import hh, instructions
from alignjax.evals import estimate, likelihood, preferences
from alignjax.evals import policy as policies
from alignjax.models import model as models
from alignjax.models import transformer
from alignjax.models.checkpoints import folder as stored_models
from alignjax.parallel import mesh as meshes
from alignjax.sampling import generate, transforms
from alignjax.text import chat, chat_format
from alignjax.training import checkpoint


class Run(NamedTuple):
    """A run's configuration and what it is built of."""

    folder: pathlib.Path
    method: str
    config: experiment.Experiment
    corpus: corpora.Corpus
    model: models.Model


def build(kind: Any, values: dict[str, Any]) -> Any:
    """A (nested) config dataclass from the plain values that `dataclasses.asdict` made.

    A field typed as a union takes the class that has exactly the stored field names.
    """
    hints = typing.get_type_hints(kind)
    made = {}
    for name, value in values.items():
        hint = hints[name]
        if isinstance(value, dict):
            options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
            fitting = [o for o in options if {f.name for f in dataclasses.fields(o)} == set(value)]
            made[name] = build(fitting[0], value)
        else:
            made[name] = tuple(value) if isinstance(value, list) else value
    return kind(**made)


def read_record(folder: pathlib.Path) -> tuple[str, experiment.Experiment]:
    """(method, configuration) of a run's folder.

    Raises:
      ValueError: it is not the folder of a run.
    """
    file = folder / "config.json"
    record = json.loads(file.read_text()) if file.is_file() else {}
    if "method" not in record:
        raise ValueError(
            f"--workdir must be the folder of a run of `alignjax train` or a lifecycle's stage; "
            f"got {folder}. Name one that holds checkpoints."
        )
    return record["method"], build(experiment.Experiment, record["config"])


def open_run(folder: pathlib.Path) -> Run:
    """The run of a folder. Call it inside the run's mesh."""
    method, config = read_record(folder)
    corpus = experiment.make_corpus(config.data, say=lambda line: None)
    return Run(folder, method, config, corpus, transformer.transformer(config.model))


def evaluate(folder: pathlib.Path, *, rows: int, seed: int) -> dict[str, estimate.Estimate]:
    """The numbers that a method is judged by, on the eval split.

    pretrain, sft: negative log-likelihood in nats a token. reward: pair accuracy. dpo: pair
    accuracy of log pi/ref, exact KL to the reference and length of completions. ppo: the latter,
    and the score that it was trained on.
    """
    _, config = read_record(folder)
    with meshes.use(meshes.make_mesh(config.mesh)):
        run = open_run(folder)
        model, corpus, shape = run.model, run.corpus, run.config.model
        if run.method == "reward":
            params = runs.load_reward(folder, model, shape, corpus.fingerprints)
            table = corpus.table("pairs", "eval")
            scores = preferences.answer_scores(
                preferences.reward_scores(model), params, table, rows
            )
            return {"pair accuracy": preferences.accuracy(preferences.in_pairs(scores, table))}
        policy = runs.load_policy(folder, model, shape, corpus.fingerprints)
        if run.method in ("pretrain", "sft"):
            table = corpus.table(experiment.table_kind(run.config.algorithm), "eval")
            return {"nats a token": likelihood.token_nll(model, policy, table, rows)}
        return _evaluate_policy(run, policy, rows, seed)


def _evaluate_policy(run: Run, policy: Any, rows: int, seed: int) -> dict[str, Any]:
    model, corpus, config = run.model, run.corpus, run.config
    reference = experiment.load_policy(config, model, config.model, corpus)
    reward = config.reward and runs.load_reward(
        config.reward, model, config.model, corpus.fingerprints
    )
    found = {}
    if run.method == "dpo":
        table = corpus.table("pairs", "eval")
        trees = (policy, reference)
        scores = preferences.answer_scores(preferences.implicit_scores(model), trees, table, rows)
        found["pair accuracy"] = preferences.accuracy(preferences.in_pairs(scores, table))
    sampling = getattr(config.algorithm, "sampling", None) or transforms.SamplingConfig(
        max_new_tokens=corpus.length - corpus.prompt_length
    )
    sample = policies.make_sampler(model, sampling, eos=corpus.eos, pad=corpus.pad, rows=rows)
    prompts = {name: x[:2048] for name, x in corpus.table("prompts", "eval").items()}
    drawn = sample(policy, reference, prompts, seed, reward=reward or None)
    if corpus.gold is not None:
        found["gold reward"] = estimate.mean(corpus.gold(drawn.tokens, drawn.lengths))
    if reward:
        found["reward model score"] = estimate.mean(drawn.score)
    found["KL to the reference, nats"] = estimate.mean(drawn.kl)
    found["length, tokens"] = estimate.mean(drawn.completion_lengths)
    found["ended"] = estimate.mean(drawn.ended)
    return found


def sample(
    folder: pathlib.Path,
    *,
    prompt: str,
    count: int,
    config: transforms.SamplingConfig,
    seed: int,
) -> list[tuple[str, str]]:
    """`count` pairs of prompt and completion, as text.

    Raises:
      ValueError: a prompt is given for data without a tokenizer, or is too long.
    """
    _, stored = read_record(folder)
    with meshes.use(meshes.make_mesh(stored.mesh)):
        run = open_run(folder)
        policy = runs.load_policy(folder, run.model, run.config.model, run.corpus.fingerprints)
        prompts = _prompts(run, prompt, count)
        draw = policies.make_sampler(
            run.model, config, eos=run.corpus.eos, pad=run.corpus.pad, rows=count
        )
        drawn = draw(policy, policy, prompts, seed)
    text = run.corpus.text
    return [
        (text(row[:start]), text(row[start:end]))
        for row, start, end in zip(drawn.tokens, drawn.prompt_lengths, drawn.lengths, strict=True)
    ]


def _prompts(run: Run, prompt: str, count: int) -> corpora.Table:
    if not prompt:
        return {name: x[:count] for name, x in run.corpus.table("prompts", "eval").items()}
    data = run.config.data
    if isinstance(data, hh.HhConfig):
        return _asked(hh.make_tokenizer(data), prompt, count)
    if isinstance(data, instructions.InstructConfig):
        return _asked(instructions.make_format(data), prompt, count)
    raise ValueError(
        "--prompt needs data with a tokenizer; this run's world has fixed prompts. Leave it out."
    )


def _asked(tokenizer: Any, prompt: str, count: int) -> corpora.Table:
    """`count` times the same question, up to where the assistant answers."""
    turns = [chat.Turn("human", prompt)]
    ids, _ = chat.encode_chat(tokenizer, turns, generation_prompt=True)
    tokens = np.tile(np.asarray(ids, np.int32), (count, 1))
    return {"prompts": tokens, "lengths": np.full(count, len(ids), np.int32)}


def sample_weights(
    path: str,
    *,
    prompt: str,
    count: int,
    config: transforms.SamplingConfig,
    seed: int,
    template: str = "",
    pad: str = "",
) -> list[tuple[str, str]]:
    """`count` answers of open weights to a prompt, as (prompt, answer).

    Args:
      path: a model folder or GGUF file, with its tokenizer.
      template, pad: as in `chat_format.load_chat_format`.

    Raises:
      ValueError: the model, its tokenizer or its template is not to be read.
    """
    opened = stored_models.open_model(path)
    form = chat_format.load_chat_format(path, template=template, pad=pad)
    model = transformer.transformer(opened.config)
    prompts = _asked(form, prompt, count)
    pad_id = form.eos_id if form.tokenizer.pad_id is None else form.pad_id  # masks go by lengths
    run = generate.make_generate(model, config, eos=form.eos_id, pad=pad_id)
    drawn = jax.device_get(
        run(opened.load(), prompts["prompts"], prompts["lengths"], jax.random.key(seed))
    )
    return [
        (prompt, form.decode(int(i) for i in row[start:end]))
        for row, start, end in zip(drawn.tokens, drawn.prompt_lengths, drawn.lengths, strict=True)
    ]


def verify(folder: pathlib.Path) -> list[tuple[int, str]]:
    """(step, what is wrong or "") of every checkpoint in a run's folder.

    Raises:
      ValueError: there is none.
    """
    if not checkpoint.exists(folder):
        raise ValueError(f"--workdir must hold checkpoints; got {folder}.")
    found = []
    checkpoints = checkpoint.Checkpoints(folder, read_only=True)
    for step in checkpoints.steps():
        try:
            checkpoints.verify(step)
            found.append((step, ""))
        except errors.Failure as failure:
            found.append((step, str(failure)))
    checkpoints.close()
    return found

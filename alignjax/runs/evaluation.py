"""A finished run read back from its folder: evaluated, sampled from, verified."""

import contextlib
import functools
import itertools
import pathlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from alignjax.core import errors
from alignjax.data import tables
from alignjax.evals import estimate
from alignjax.evals import policy as policies
from alignjax.models import transformer
from alignjax.models.checkpoints import folder as open_weights
from alignjax.parallel import axes, processes
from alignjax.parallel import mesh as meshes
from alignjax.runs import assembly, folder, judging, kept, sources, standing
from alignjax.sampling import generate, transforms
from alignjax.text import chat, chat_format
from alignjax.training import checkpoint, evaluators
from alignjax.training import method as methods


def on_stderr(line: str) -> None:
    """Prints a line on stderr, once for all processes."""
    if processes.is_first():
        print(line, file=sys.stderr, flush=True)


class Run:
    """A finished run. Make and use it inside the run's mesh."""

    def __init__(
        self,
        workdir: pathlib.Path,
        record: folder.Record,
        *,
        best: bool = False,
        log: Callable[[str], None] = on_stderr,
    ) -> None:
        """best: the best state that the loop kept, in place of the last. log: takes a line where
        the run, or one that it names, has not finished."""
        self.folder, self.record, self.config = workdir, record, record.config
        self.where = workdir / evaluators.BEST if best else workdir
        self.corpus = kept.corpus_of(workdir, record, log)
        self.parts = assembly.Assembly(
            self.config,
            self.corpus,
            sources.Stored(standing.telling(log)),
            shape=self.config.model,
        )
        state = standing.unfinished(str(workdir), record)
        if state is not None:
            log(state.line("its best state so far" if best else standing.NEWEST))

    @property
    def product(self) -> Any:
        """The parts of the run's product: policy, scorer, critic."""
        return self.parts.record.product(self.config.algorithm)

    def own(self, part: str) -> Any:
        """A part as the run trained it: adapters without their base."""
        params = folder.load_params(self.where, self.parts.plain)
        return self.product[part].take(self.model(part), params)

    def joined(self, part: str) -> Any:
        """A part's bound tree, as its model reads it."""
        return self.model(part).bind(self.own(part), self.frozen())

    def model(self, part: str) -> Any:
        """The model that reads a part, whether or not the run's own sources still exist."""
        role, networks = self.product[part].role, self.record.values.get("networks", {})
        return folder.network_of(networks[role]) if role in networks else self.parts.model

    def frozen(self) -> dict[str, Any]:
        """The base under the run's adapters."""
        if "base" not in self.record.values:
            return {}
        origin = sources.origin_of(str(self.folder), self.record)
        return {"base": self.parts.source.base(origin, self.parts.plain, self.parts.shape)}


def open_record(
    workdir: pathlib.Path,
    log: Callable[[str], None] = lambda line: None,
    definitions: str = "",
) -> folder.Record:
    """The record of a run's folder; see `folder.read`."""
    return folder.read(workdir, log, definitions)


def open_run(workdir: pathlib.Path, **options: Any) -> Run:
    """The run of a folder. Call it inside the run's mesh; options as those of `Run`."""
    return Run(workdir, open_record(workdir), **options)


def evaluate(
    workdir: pathlib.Path,
    *,
    rows: int,
    seed: int,
    best: bool = False,
    log: Callable[[str], None] = lambda line: None,
    definitions: str = "",
    allow_code: bool = False,
) -> dict[str, estimate.Estimate]:
    """The numbers of the method's evaluators on the eval split.

    rows: scored at once. seed: of sampling. best: the best state that the loop kept. allow_code:
    whether rules of the reward may run programs that the model wrote.
    """
    record = open_record(workdir, log, definitions)
    with meshes.use(meshes.make_mesh(record.config.mesh)):
        run = Run(workdir, record, best=best, log=log)
        parts = run.parts
        roles = [name for name, role in parts.roles.items() if not role.trained]
        frozen = [name for name in roles if parts.is_there(name)]
        networks = {part: run.model(part) for part in run.product}
        networks |= {name: parts.judged_model(name) for name in frozen}
        makers: dict[str, Callable[[], Any]] = {
            name: functools.partial(run.joined, name) for name in run.product
        }
        makers |= {name: functools.partial(parts.judged, name) for name in frozen}
        subject = judging.subject(
            parts, networks, judging.Trees(makers), rows=rows, seed=seed, allow_code=allow_code
        )
        numbers: dict[str, estimate.Estimate] = {}
        for judge in judging.judges(parts, makers):
            numbers |= judge.run(subject)
        return numbers


def sample(
    workdir: pathlib.Path,
    *,
    prompt: str,
    count: int,
    config: transforms.SamplingConfig,
    seed: int,
    best: bool = False,
    definitions: str = "",
) -> list[tuple[str, str]]:
    """`count` pairs of prompt and completion, as text.

    Raises:
      ValueError: the data have no tokenizer for a prompt, it is too long, or the run trained no
        policy.
    """
    record = open_record(workdir, definitions=definitions)
    with meshes.use(meshes.make_mesh(record.config.mesh)):
        run = Run(workdir, record, best=best)
        check_part(run, methods.POLICY, workdir)
        policy, model = run.joined(methods.POLICY), run.model(methods.POLICY)
        rows = -(-count // axes.axis_size("batch")) * axes.axis_size("batch")
        prompts = _prompts(run, prompt, rows)
        sampler = policies.make_sampler(
            model, config, eos=run.corpus.ends, pad=run.corpus.pad, rows=rows
        )
        completions = sampler(policy, policy, prompts, seed)
    text = run.corpus.text
    columns = (completions.tokens, completions.prompt_lengths, completions.lengths)
    return [
        (text(row[:start]), text(row[start:end]))
        for row, start, end in itertools.islice(zip(*columns, strict=True), count)
    ]


def check_part(run: Run, part: str, workdir: pathlib.Path) -> None:
    """Raises ValueError where a run's product has no such part."""
    if part not in run.product:
        raise ValueError(
            f"policy must be the run of a language model; got {workdir}, a "
            f"{run.parts.record.name} run's {', '.join(run.product)}."
        )


@contextlib.contextmanager
def language_model(
    workdir: pathlib.Path, *, best: bool = False, definitions: str = ""
) -> Iterator[Run]:
    """A run with a policy, inside its mesh.

    Raises:
      ValueError: it is not to be read, or has no policy.
    """
    record = open_record(workdir, definitions=definitions)
    with meshes.use(meshes.make_mesh(record.config.mesh)):
        run = Run(workdir, record, best=best)
        check_part(run, methods.POLICY, workdir)
        yield run


def _prompts(run: Run, prompt: str, count: int) -> tables.Table:
    if not prompt:
        table = run.corpus.read("prompts", "eval")
        some = {name: np.asarray(x[:count]) for name, x in table.items()}
        return {name: x[np.arange(count) % len(x)] for name, x in some.items()}
    if run.corpus.speaker is None:
        raise ValueError(
            "--prompt needs data with a tokenizer; this run's world has fixed prompts. Leave it "
            "out."
        )
    return _question(run.corpus.speaker, prompt, count)


def _question(speaker: Any, prompt: str, count: int) -> tables.Table:
    """`count` rows of the same prompt, which ends in the assistant's marker."""
    turns = [chat.Turn("human", prompt)]
    ids, _ = chat.encode_chat(speaker, turns, generation_prompt=True)
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
    date: str = "",
    skip: str = "",
    log: Callable[[str], None] = lambda line: None,
) -> list[tuple[str, str]]:
    """`count` answers of open weights to a prompt, as (prompt, answer).

    Args:
      path: a model folder or GGUF file, with its tokenizer.
      template, pad, date: as in `chat_format.load_chat_format`. skip: as in `folder.open_model`.
      log: takes a line where the answers go beyond what the model was trained for.

    Raises:
      ValueError: the model, its tokenizer or its template is not to be read.
    """
    stored = open_weights.open_model(path, skip=skip)
    form = chat_format.load_chat_format(
        path, template=template, pad=pad, date=date, rows=stored.config.vocab_size
    )
    model = transformer.transformer(stored.config)
    prompts = _question(form, prompt, count)
    longest = int(prompts["lengths"].max()) + config.max_new_tokens
    for line in stored.beyond(longest, "a prompt and its answer"):
        log(line)
    pad_id = form.eos_id if form.tokenizer.pad_id is None else form.pad_id  # masks go by lengths
    run = generate.make_generate(model, config, eos=form.ends, pad=pad_id)
    samples = jax.device_get(
        run(stored.load(), prompts["prompts"], prompts["lengths"], jax.random.key(seed))
    )
    columns = (samples.tokens, samples.prompt_lengths, samples.lengths)
    return [
        (prompt, chat.sampled_text(form, row[start:end]))
        for row, start, end in zip(*columns, strict=True)
    ]


def verify(workdir: pathlib.Path) -> list[tuple[int, str]]:
    """(step, what is wrong or "") of every checkpoint in a run's folder.

    Raises:
      ValueError: there is none.
    """
    if not checkpoint.exists(workdir):
        raise ValueError(f"--workdir must hold checkpoints; got {workdir}.")
    states = []
    checkpoints = checkpoint.Checkpoints(workdir, read_only=True)
    for step in checkpoints.steps():
        try:
            checkpoints.verify(step)
            states.append((step, ""))
        except errors.Failure as failure:
            states.append((step, str(failure)))
    checkpoints.close()
    return states

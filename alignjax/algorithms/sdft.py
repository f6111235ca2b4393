"""Self-distillation: the teacher is the student itself, shown more than the prompt."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from alignjax import losses
from alignjax.algorithms import distill, preset
from alignjax.core import shapes
from alignjax.evals import policy as policies
from alignjax.models import model as models
from alignjax.models import scoring
from alignjax.parallel import axes
from alignjax.rollouts import mixed
from alignjax.sampling import transforms
from alignjax.text import chat
from alignjax.training import algorithm, method, program, update

LIVE, EMA = "live", "ema"
Columns = dict[str, jax.Array]


@dataclasses.dataclass(kw_only=True)
class SdftConfig(preset.PresetConfig):
    """A divergence on the student's samples from its own law after the expert's demonstration.

    The teacher reads the demonstration of a prompt, prompt and answer, then the prompt again, then
    what the student answered to the prompt alone. Its `top_k` most likely tokens are compared, and
    all others as one.
    """

    TABLE = "distillation"
    WITHOUT = distill.DistillConfig.WITHOUT
    OWN: ClassVar[tuple[str, ...]] = ("teacher", "rate", "top_k", "between", "sampling")

    method: str = "reverse_kl"  # or forward_kl, generalised_jsd, ... of the preset
    compat: str = "paper"  # whose formula, reduction and defaults
    beta: float | None = None  # of generalised_jsd: 0 is forward, 1 reverse KL
    temperature: float | None = None  # divides both models' logits in the loss
    teacher: str = EMA  # whose parameters it has: ema (a running mean of the student's) | live
    rate: float = 0.05  # of the running mean, a step: teacher + rate (student - teacher)
    top_k: int = 64  # entries of the vocabulary compared, below its size
    between: str = ""  # text between the demonstration and the prompt, if rows are text
    sampling: transforms.SamplingConfig = dataclasses.field(
        default_factory=lambda: transforms.SamplingConfig(max_new_tokens=128)
    )

    def validate(self) -> None:
        """Raises ValueError where an option is wrong."""
        shapes.check_choice("algorithm.teacher", self.teacher, (EMA, LIVE))
        shapes.check_number("algorithm.rate", self.rate, above=0, maximum=1)
        shapes.check_number("algorithm.top_k", self.top_k, minimum=1)
        if self.beta is not None:
            shapes.check_number("algorithm.beta", self.beta, minimum=0, maximum=1)
        if self.temperature is not None:
            shapes.check_number("algorithm.temperature", self.temperature, above=0)
        self.sampling.validate()
        self.check()

    @property
    def recipe(self) -> Any:
        return distill.recipe_of(self)

    def formula(self) -> str:
        numbers = f"top_k={self.top_k} and the rest, teacher={self.teacher}, rate={self.rate}"
        return f"{self.recipe.echo(**self.options)}; {numbers}; {self.sampling}"


def after(shown: Columns, rows: Columns, between: np.ndarray) -> tuple[Columns, jax.Array]:
    """(what the teacher reads, [B, S + N + T]; the shift of a row in it, [B], tokens).

    A row of `rows`, [B, T], stands behind what is `shown`, [B, S], and the N ids `between`: token t
    of it is token shift + t there. Both are padded right.
    """
    sides = [{n: axes.shard(x, "batch slot") for n, x in x.items()} for x in (shown, rows)]
    first, second = (jnp.sum(x["segments"] > 0, axis=1) for x in sides)
    shift = first + len(between)
    width = sum(x["tokens"].shape[1] for x in sides) + len(between)
    slot = jnp.arange(width, dtype=jnp.int32)[None] + jnp.zeros_like(sides[1]["tokens"][:, :1])

    def at(x: jax.Array, places: jax.Array) -> jax.Array:
        return jnp.take_along_axis(x, jnp.clip(places, 0, x.shape[1] - 1), axis=1)

    own = at(sides[1]["tokens"], slot - shift[:, None])
    if len(between):
        ids = jnp.asarray(between, jnp.int32)[None] + jnp.zeros_like(slot[:, :1])
        own = jnp.where(slot < shift[:, None], at(ids, slot - first[:, None]), own)
    tokens = jnp.where(slot < first[:, None], at(sides[0]["tokens"], slot), own)
    real = slot < (shift + second)[:, None]
    return {
        "tokens": jnp.where(real, tokens, 0),
        "segments": real.astype(jnp.int32),
        "positions": slot,
    }, shift


def make_lessons(
    model: models.Model, config: SdftConfig, between: np.ndarray, *, chunks: int = 1
) -> Callable[..., Columns]:
    """Jitted (teacher's bound tree, shown, rows) -> rows with the teacher's columns.

    teacher_tokens [B, T, K]: what it finds most likely at each token of the row; teacher_logprobs
    [B, T, K + 1]: of these and of all others.
    """
    temperature = config.recipe.options(**config.options)["temperature"]
    options = {"temperature": temperature, "softcap": model.logit_softcap, "tile": model.logit_tile}

    @jax.jit
    def lessons(tree: models.Params, shown: Columns, rows: Columns) -> Columns:
        def one(parts: tuple[Columns, Columns]) -> Columns:
            read, shift = after(*parts, between)
            hidden = axes.shard(scoring.hidden_states(model, tree, read), "batch slot embed")
            slot = jnp.arange(parts[1]["tokens"].shape[1], dtype=jnp.int32)[None]
            place = jnp.minimum(slot + shift[:, None], hidden.shape[1] - 1)
            states = jnp.take_along_axis(hidden, place[:, :, None], axis=1)
            matrix = model.unembedding(tree)
            tokens = losses.top_tokens(states, matrix, config.top_k, **options)
            found = losses.logprobs_with_tail(states, matrix, tokens, **options)
            return {"teacher_tokens": tokens, "teacher_logprobs": found}

        return {**rows, **update.in_chunks(one, (shown, rows), chunks)}

    return lessons


def make_loss(model: models.Model, config: SdftConfig) -> algorithm.Loss:
    """The divergence of the student from the teacher's columns, on the rows' answers."""

    def loss(
        params: models.Params, frozen: models.Frozen, batch: algorithm.Batch, key: jax.Array
    ) -> tuple[algorithm.Terms, algorithm.Metrics]:
        mask = scoring.counted(batch)
        student = model.bind(params, frozen, key)
        states, penalties = scoring.hidden_and_penalties(model, student, batch)

        def divergence(*, beta: float, temperature: float) -> jax.Array:
            own = losses.logprobs_with_tail(
                states,
                model.unembedding(student),
                batch["teacher_tokens"],
                temperature=temperature,
                softcap=model.logit_softcap,
                tile=model.logit_tile,
            )
            found = losses.generalised_jsd(own, batch["teacher_logprobs"], beta=beta)
            return scoring.align(found)

        terms = distill.terms_of(config, divergence, mask)
        return {**terms, **penalties}, {**penalties, **terms}

    return loss


def sdft(
    model: models.Model,
    config: SdftConfig,
    *,
    eos: int | Sequence[int],
    pad: int,
    width: int,
    between: np.ndarray | None = None,
    micro_batches: int = 1,
) -> algorithm.Algorithm:
    """Minimises a divergence of the student from itself after a demonstration, on its own samples.

    Batch: demonstrations, one conversation a row. No other network: the teacher is the student's
    parameters as they are at the start of a step, or their running mean, which begins as them.
    between: ids between what is shown and the prompt. width: tokens of a prompt at most.
    Reference: Shenfeld et al. 2026 (SDFT), arXiv 2601.19897.
    """
    config.validate()
    check_entries(model, config.top_k)
    ids = np.zeros(0, np.int32) if between is None else between
    mix = mixed.Mix(
        mixed.Writer("policy", model, model.bind), 1.0, config.sampling, eos, pad, width
    )
    rows_of = mixed.make_rows(mix)
    lessons = make_lessons(model, config, ids, chunks=micro_batches)
    moved = make_teacher(config)

    def collect(
        state: algorithm.TrainState, frozen: models.Frozen, batch: algorithm.Batch, key: jax.Array
    ) -> tuple[algorithm.Batch, algorithm.Carry, algorithm.Metrics]:
        rows, metrics = rows_of(state.params, frozen, batch, key)
        shown = {name: batch[name] for name in ("tokens", "segments", "positions")}
        teacher, carry = moved(state)
        return lessons(model.bind(teacher, frozen), shown, rows), carry, metrics

    return algorithm.Algorithm(
        init=algorithm.from_policy(model),
        loss=make_loss(model, config),
        collect=collect,
        carry=start_carry(config),
        prepare=distill.check_rows,
        passes=(program.Pass("policy", trained=True),),
    )


def check_entries(model: models.Model, count: int) -> None:
    """Raises ValueError where as many entries are compared as the vocabulary has."""
    if count >= model.vocab_size:
        raise ValueError(
            f"algorithm.top_k must be below the {model.vocab_size} entries of the vocabulary, of "
            f"which one stands for the rest; got {count} (algorithm). Lower it."
        )


def start_carry(config: SdftConfig) -> Any:
    """The running mean of the parameters, as the state begins."""
    return (lambda params: {"teacher": params}) if config.teacher == EMA else ()


def make_teacher(config: SdftConfig) -> Callable[[algorithm.TrainState], tuple[Any, Any]]:
    """state -> (the teacher's parameters, the carry after the step)."""

    @jax.jit
    def step(teacher: models.Params, params: models.Params) -> models.Params:
        def move(old: jax.Array, new: jax.Array) -> jax.Array:
            return (old + config.rate * (new - old)).astype(old.dtype)

        return jax.tree.map(move, teacher, params)

    def moved(state: algorithm.TrainState) -> tuple[Any, Any]:
        if config.teacher == LIVE:
            return state.params, state.carry
        teacher = step(state.carry["teacher"], state.params)
        return teacher, {"teacher": teacher}

    return moved


def ids_of(config: SdftConfig, speaker: chat.Speaker | None) -> np.ndarray:
    """The ids of the text between.

    Raises:
      ValueError: there is a text, and the data are none.
    """
    if config.between and speaker is None:
        raise ValueError(
            f"algorithm.between must be empty where rows are no text; got {config.between!r} "
            "(algorithm). Leave it out."
        )
    ids = speaker.encode(config.between) if speaker is not None and config.between else []
    return np.asarray(ids, np.int32)


def _make(
    networks: Mapping[str, models.Model], config: SdftConfig, task: method.Task
) -> algorithm.Algorithm:
    return sdft(
        networks["policy"],
        config,
        eos=task.ends,
        pad=task.pad,
        width=task.prompt_length,
        between=ids_of(config, task.speaker),
        micro_batches=task.micro_batches,
    )


SdftConfig.METHOD = method.Method(
    name="sdft",
    make=_make,
    table=lambda config: "demonstrations",
    roles=lambda config: {"policy": method.Role(trained=True, source="policy", required=True)},
    evaluators=lambda config: (policies.SAMPLES,),
    formula=SdftConfig.formula,
    sampling=lambda config: config.sampling,
    curves=("divergence",),
)

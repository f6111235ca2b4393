"""On-policy distillation by reward: a policy gradient whose reward is the teacher's likelihood."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from alignjax import losses
from alignjax.algorithms import distill, policy_gradient, preset
from alignjax.compat import blocks
from alignjax.core import mean, shapes
from alignjax.models import model as models
from alignjax.models import scoring
from alignjax.rewards import learned
from alignjax.rollouts import mixed
from alignjax.sampling import generate, transforms
from alignjax.training import algorithm, method, program, update

TOKEN, LATER = "token", "later"


@dataclasses.dataclass(kw_only=True)
class OpdConfig(preset.PresetConfig):
    """A policy loss on the student's samples, whose advantages are log teacher - log student.

    That of the token itself (`token`: each step's reverse KL, discount 0), or the mean or sum over
    the tokens after it (`later`, MiniLLM's, beside the exact reverse KL of the token).
    """

    TABLE = "rollouts"
    WITHOUT: ClassVar[frozenset[str]] = policy_gradient.PolicyGradientConfig.WITHOUT | {
        "reference",
        "sampler",
    }
    MUST = policy_gradient.PolicyGradientConfig.MUST
    OWN = (
        "credit", "length_normalise", "single_step", "epochs", "minibatches", "max_drift",
        "sampling",
    )  # fmt: skip

    method: str = "reinforce"  # or ppo_clip, cispo and others on rollouts of the preset
    compat: str = "paper"  # whose formula, reduction and defaults
    credit: str = TOKEN  # whose log-ratio is a token's advantage: token | later
    length_normalise: bool = True  # of later: the mean over the tokens to come, not their sum
    single_step: float = 0.0  # weight of the exact KL(student || teacher) at each token
    clip_low: float | None = None  # of the ratio, where the method has one
    clip_high: float | None = None
    reduction: str | None = None  # what is averaged over what
    length: float | None = None  # tokens that sums over rows are divided by
    epochs: int = 1  # passes over each collected batch
    minibatches: int = 1  # updates a pass
    max_drift: float = 0.0  # nats a token between sampler and trainer; 0 is 1e-3 in fp32, 0.5 else
    sampling: transforms.SamplingConfig = dataclasses.field(
        default_factory=lambda: transforms.SamplingConfig(max_new_tokens=128)
    )

    def validate(self) -> None:
        """Raises ValueError where an option is wrong."""
        shapes.check_choice("algorithm.credit", self.credit, (TOKEN, LATER))
        for name in ("single_step", "max_drift"):
            shapes.check_number(f"algorithm.{name}", getattr(self, name), minimum=0)
        for name in ("epochs", "minibatches"):
            shapes.check_number(f"algorithm.{name}", getattr(self, name), minimum=1)
        self.sampling.validate()
        if self.sampling.is_truncated:
            raise ValueError(
                "algorithm.sampling must not cut tokens off (top_k, top_p, temperature 0): the "
                "policy gradient is of the whole distribution; got "
                f"top_k={self.sampling.top_k}, top_p={self.sampling.top_p}, "
                f"temperature={self.sampling.temperature}. Set top_k=0, top_p=1, temperature>0."
            )
        self.check()
        self._check_method()

    def _check_method(self) -> None:
        """Traces the loss on a few rows with an advantage a token."""
        wide = np.zeros((2, 4), np.float32)
        names = ("logprobs", "old_logprobs", "advantages", "entropy")
        example: dict[str, Any] = {
            **dict.fromkeys(names, wide),
            "mask": np.ones(wide.shape, bool),
            "key": jax.eval_shape(lambda: jax.random.key(0)),
        }
        problem = "it couples the rows of a batch" if self.recipe.couples(**self.options) else ""
        try:
            jax.eval_shape(self.terms, example)
        except ValueError as error:
            problem = str(error)
        if problem or "advantages" not in self.recipe.reads:
            raise ValueError(
                f"algorithm.method must be a loss of single tokens and their advantages; got "
                f"{self.recipe.name}: {problem or 'it reads none'} (algorithm). Take reinforce, "
                "ppo_clip or another."
            )

    def formula(self) -> str:
        own = "log teacher - log student"
        if self.credit == LATER:
            kind = "mean" if self.length_normalise else "sum"
            own = f"{kind} of {own} over later tokens"
        exact = f" + {self.single_step:g} KL(student; teacher)" if self.single_step else ""
        passes = f"epochs={self.epochs}, minibatches={self.minibatches}"
        return f"{self.recipe.echo(**self.options)}{exact}; A = {own}; {passes}; {self.sampling}"


def credited(
    config: OpdConfig, logprobs: jax.Array, teacher: jax.Array, mask: jax.Array
) -> jax.Array:
    """[B, T] advantages of sampled tokens from the log-probabilities of both, nats; no gradient."""
    if config.credit == TOKEN:
        return -losses.kl_penalty(logprobs, teacher, mask)
    return losses.minillm_advantages(
        logprobs, teacher, mask, length_normalise=config.length_normalise
    )


def opd(
    model: models.Model,
    teacher: models.Model,
    config: OpdConfig,
    *,
    eos: int | Sequence[int],
    pad: int,
    width: int,
    micro_batches: int = 1,
) -> algorithm.Algorithm:
    """Raises the teacher's log-probability, less the student's, of what the student samples.

    Batch: a table of prompts. Frozen: "teacher", over the same vocabulary. With credit=token the
    expected gradient of a token is that of KL(student || teacher) of its distribution. Both laws
    are taken at the sampling's temperature.
    Reference: Gu et al. 2024 (MiniLLM), equations 3 to 7; Agarwal et al. 2024, section 3.
    """
    config.validate()
    distill.check_vocabulary(model, teacher)
    draw = generate.make_generate(model, config.sampling, eos=eos, pad=pad)
    chunks, temperature = config.minibatches * micro_batches, config.sampling.temperature
    limit = generate.drift_limit(model, config.max_drift)
    reads_entropy = ("entropy",) if "entropy" in config.needs else ()

    @jax.jit
    def score(
        params: models.Params, frozen: models.Frozen, samples: generate.Samples
    ) -> tuple[dict[str, jax.Array], algorithm.Metrics]:
        batch = learned.as_batch(samples)

        def one(part: algorithm.Batch) -> tuple[losses.TokenStats, jax.Array]:
            own = scoring.token_stats(
                model,
                model.bind(params, frozen),
                part,
                temperature=temperature,
                want=("logprob", "entropy"),
                mask=part["loss_mask"],
            )
            bound = teacher.bind(frozen[distill.TEACHER], frozen)
            return own, scoring.answer_logprobs(teacher, bound, part, temperature=temperature)

        stats, other = update.in_chunks(one, batch, chunks)
        mask = batch["loss_mask"]
        drift = jnp.max(jnp.where(mask, jnp.abs(stats.logprob - samples.logprobs), 0), initial=0.0)
        apart = jnp.sum(losses.k1(stats.logprob, other, mask), axis=1)
        rows = jnp.any(mask, axis=1)
        advantages = credited(config, stats.logprob, other, mask)
        return {**batch, "old_logprobs": stats.logprob, "advantages": advantages}, {
            "kl": mean.masked(apart, rows),
            "entropy": mean.masked(stats.entropy, mask),
            "tokens": mean.masked(jnp.sum(mask, axis=1).astype(jnp.float32), rows),
            "ended": mean.masked(samples.ended.astype(jnp.float32), rows),
            "drift": mean.of(drift),
        }

    def collect(
        state: algorithm.TrainState, frozen: models.Frozen, batch: algorithm.Batch, key: jax.Array
    ) -> tuple[algorithm.Batch, algorithm.Carry, algorithm.Metrics]:
        tree = model.bind(state.params, frozen)
        samples = draw(tree, batch["prompts"], batch["lengths"], key)
        rows, metrics = score(state.params, frozen, samples)
        generate.check_drift(metrics["drift"].value, limit)
        return rows, state.carry, metrics

    def loss(
        params: models.Params, frozen: models.Frozen, batch: algorithm.Batch, key: jax.Array
    ) -> tuple[algorithm.Terms, algorithm.Metrics]:
        drop, noise = jax.random.split(key)
        student, mask = model.bind(params, frozen, drop), batch["loss_mask"]
        states, penalties = scoring.hidden_and_penalties(model, student, batch)
        stats = scoring.stats_of(
            model,
            student,
            states,
            batch["tokens"],
            temperature=temperature,
            want=("logprob", *reads_entropy),
            mask=mask,
        )
        arrays = {
            "logprobs": stats.logprob,
            "old_logprobs": batch["old_logprobs"],
            "advantages": batch["advantages"],
            **{name: getattr(stats, name) for name in reads_entropy},
            "mask": mask,
            "row_mask": jnp.any(mask, axis=1),
            "key": noise,
        }
        terms = {**config.terms(arrays), **penalties}
        if config.single_step:
            other = teacher.bind(frozen[distill.TEACHER], frozen)
            exact = config.single_step * scoring.token_divergence(
                model,
                student,
                states,
                other,
                batch,
                temperature=temperature,
                other_model=teacher,
                mask=mask,
            )
            terms["single_step"] = _reduced(config, jnp.where(mask, exact, 0.0), arrays)
        ratio = losses.importance_ratio(stats.logprob, batch["old_logprobs"], mask)
        return terms, {
            **{f"{name}_loss": term for name, term in terms.items()},
            "ratio_deviation": mean.masked(jnp.abs(ratio - 1), mask),
        }

    def first(batch: algorithm.Batch) -> Mapping[str, algorithm.Expected]:
        known = {"ratio_deviation": algorithm.Expected(0.0, model.rounding)}
        return {} if model.drops_out else known

    mix = mixed.Mix(
        mixed.Writer("policy", model, model.bind), 1.0, config.sampling, eos, pad, width
    )
    exact = (program.Pass(distill.TEACHER),) if config.single_step else ()
    return algorithm.Algorithm(
        init=algorithm.from_policy(model),
        loss=loss,
        collect=collect,
        plan=algorithm.Plan(epochs=config.epochs, minibatches=config.minibatches),
        first=first,
        programs=_programs(mix, score),
        passes=(program.Pass("policy", trained=True), *exact),
    )


def _reduced(config: OpdConfig, values: jax.Array, arrays: Any) -> mean.Mean:
    """A term of tokens, averaged as the method's own."""
    recipe = config.recipe
    options = recipe.options(**config.options)
    return blocks.reductions.mean_of(values, arrays, recipe.reduction, options)


def _programs(mix: mixed.Mix, score: Any) -> Any:
    """What `collect` runs, in shapes: the sampling, and both models' scores of it."""
    of_samples = mixed.make_programs(mix, 0)

    def programs(shapes: program.Shapes) -> program.Collected:
        drawn = of_samples(shapes)
        count, length = drawn.rows["tokens"].shape
        samples = mixed.plan.samples(count, length)
        wide = {"old_logprobs", "advantages"}
        columns = program.rows({name: ((count, length), np.float32) for name in wide})
        own = program.Program(
            "score",
            score,
            (shapes.params, shapes.frozen, samples),
            (("parameters", shapes.params), ("frozen", shapes.frozen), ("batch", samples)),
            count,
            length,
            (program.Pass("policy"), program.Pass(distill.TEACHER)),
        )
        return program.Collected((*drawn.programs, own), {**drawn.rows, **columns})

    return programs


def _make(
    networks: Mapping[str, models.Model], config: OpdConfig, task: method.Task
) -> algorithm.Algorithm:
    return opd(
        networks["policy"],
        networks[distill.TEACHER],
        config,
        eos=task.ends,
        pad=task.pad,
        width=task.prompt_length,
        micro_batches=task.micro_batches,
    )


def record(name: str) -> method.Method:
    """The record of a method that is paid by a teacher."""
    return method.Method(
        name=name,
        make=_make,
        table=lambda config: "prompts",
        roles=lambda config: distill.ROLES,
        evaluators=lambda config: (distill.TAUGHT,),
        formula=OpdConfig.formula,
        sampling=lambda config: config.sampling,
        curves=("kl",),
    )


OpdConfig.METHOD = record("opd")

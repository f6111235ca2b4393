"""Distillation: a student's next-token distributions drawn to a teacher's, on rows of both."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from alignjax import compat as presets
from alignjax.algorithms import preset
from alignjax.core import shapes
from alignjax.evals import evaluator
from alignjax.evals import policy as policies
from alignjax.models import model as models
from alignjax.models import scoring
from alignjax.rollouts import mixed
from alignjax.sampling import transforms
from alignjax.training import algorithm, method, program

TEACHER = "teacher"
DATA = "data"


@dataclasses.dataclass(kw_only=True)
class DistillConfig(preset.PresetConfig):
    """A divergence between the student's and the teacher's distribution at every token of answers.

    An exact number of a batch's rows, round(on_policy x loop.batch_size), have answers that the
    student samples as it is; the others' are the data's, or sampled by the teacher. At on_policy=1,
    and where the teacher answers, the data are prompts alone; else demonstrations, one a row.
    """

    TABLE = "distillation"
    WITHOUT = frozenset({"labels"})
    OWN = ("on_policy", "others", "top_k", "sampling")

    method: str = "reverse_kl"  # or forward_kl, generalised_jsd, ... of the preset
    compat: str = "paper"  # whose formula, reduction and defaults
    beta: float | None = None  # 0 is forward, 1 reverse KL; makes either generalised_jsd
    temperature: float | None = None  # divides both models' logits in the loss
    on_policy: float = 1.0  # lambda: share of a batch's rows that the student answers
    others: str = DATA  # who answers the other rows: data | teacher
    top_k: int = 0  # entries of the vocabulary compared, the rest as one; 0 compares all
    sampling: transforms.SamplingConfig = dataclasses.field(
        default_factory=lambda: transforms.SamplingConfig(max_new_tokens=128)
    )

    def validate(self) -> None:
        """Raises ValueError where an option is wrong."""
        shapes.check_number("algorithm.on_policy", self.on_policy, minimum=0, maximum=1)
        if self.beta is not None:
            shapes.check_number("algorithm.beta", self.beta, minimum=0, maximum=1)
        if self.temperature is not None:
            shapes.check_number("algorithm.temperature", self.temperature, above=0)
        shapes.check_number("algorithm.top_k", self.top_k, minimum=0)
        shapes.check_choice("algorithm.others", self.others, (DATA, TEACHER))
        self.sampling.validate()
        self.check()

    @property
    def recipe(self) -> presets.Recipe:
        return recipe_of(self)

    @property
    def samples(self) -> bool:
        """Whether any row is sampled."""
        return self.on_policy > 0 or self.others == TEACHER

    @property
    def reads_prompts(self) -> bool:
        """Whether the data are prompts alone."""
        return self.on_policy == 1 or self.others == TEACHER

    def formula(self) -> str:
        student = f"round({self.on_policy:g} B) rows answered by the student"
        rest = "" if self.on_policy == 1 else f", the others by the {self.others}"
        entries = f"; top_k={self.top_k} and the rest" if self.top_k else ""
        drawn = f"; {self.sampling}" if self.samples else ""
        return f"{self.recipe.echo(**self.options)}; {student}{rest}{entries}{drawn}"


def recipe_of(config: Any) -> presets.Recipe:
    """A configuration's recipe: that of its method, or generalised_jsd where it names a beta."""
    is_kl = config.method in ("forward_kl", "reverse_kl")
    name = "generalised_jsd" if is_kl and config.beta is not None else config.method
    return preset.recipe(config.compat, name, config.TABLE, config.WITHOUT)


def terms_of(config: Any, divergence: Any, mask: jax.Array) -> algorithm.Terms:
    """{"divergence": Mean} of a batch; divergence: (beta, temperature) -> [B, T]."""
    found = config.recipe({"divergence": divergence, "mask": mask}, **config.options)
    return {"divergence" if name == "loss" else name: term for name, term in found.items()}


def distill(
    model: models.Model,
    teacher: models.Model,
    config: DistillConfig,
    *,
    eos: int | Sequence[int],
    pad: int,
    width: int,
    length: int = 0,
) -> algorithm.Algorithm:
    """Minimises a divergence of the student from a teacher, averaged over all answers' tokens.

    Batch: demonstrations, or prompts, as `DistillConfig` says. Frozen: "teacher", of any size or
    family over the same vocabulary; it is scored in the loss, a micro-batch at a time, and no
    gradient goes through the sampling. width: tokens of a prompt at most. length: of a row of the
    data, for plans.
    Reference: Agarwal et al. 2024 (GKD), algorithm 1; lambda is an exact number of rows there.
    """
    config.validate()
    check_vocabulary(model, teacher)
    mix = mixed.Mix(
        first=mixed.Writer("policy", model, model.bind),
        share=config.on_policy,
        sampling=config.sampling,
        eos=eos,
        pad=pad,
        width=width,
        second=_second(teacher) if config.others == TEACHER else None,
    )
    rows_of = mixed.make_rows(mix)

    def collect(
        state: algorithm.TrainState, frozen: models.Frozen, batch: algorithm.Batch, key: jax.Array
    ) -> tuple[algorithm.Batch, algorithm.Carry, algorithm.Metrics]:
        rows, metrics = rows_of(state.params, frozen, batch, key)
        return rows, state.carry, metrics

    def loss(
        params: models.Params, frozen: models.Frozen, batch: algorithm.Batch, key: jax.Array
    ) -> tuple[algorithm.Terms, algorithm.Metrics]:
        mask = scoring.counted(batch)
        student = model.bind(params, frozen, key)
        states, penalties = scoring.hidden_and_penalties(model, student, batch)
        other = teacher.bind(frozen[TEACHER], frozen)

        def divergence(*, beta: float, temperature: float) -> jax.Array:
            options: Any = {"beta": beta, "temperature": temperature, "other_model": teacher}
            compare: Any = scoring.token_divergence
            if config.top_k:
                compare, options["count"] = scoring.top_divergence, config.top_k
            else:
                options["mask"] = mask
            return compare(model, student, states, other, batch, **options)

        terms = terms_of(config, divergence, mask)
        return {**terms, **penalties}, {**penalties, **terms}

    return algorithm.Algorithm(
        init=algorithm.from_policy(model),
        loss=loss,
        collect=collect if config.samples else algorithm.as_is,
        prepare=check_rows if config.samples and not config.reads_prompts else None,
        programs=mixed.make_programs(mix, length) if config.samples else None,
        passes=(program.Pass("policy", trained=True), program.Pass(TEACHER)),
    )


def _second(teacher: models.Model) -> mixed.Writer:
    def tree(params: models.Params, frozen: models.Frozen) -> models.Params:
        return teacher.bind(frozen[TEACHER], frozen)

    return mixed.Writer(TEACHER, teacher, tree)


def check_vocabulary(model: models.Model, teacher: models.Model) -> None:
    """Compares the sizes of two models' vocabularies.

    Raises:
      ValueError: they differ.
    """
    if model.vocab_size != teacher.vocab_size:
        raise ValueError(
            f"the teacher must have the {model.vocab_size} entries of the student's vocabulary, or "
            f"their distributions would not be over the same tokens; got {teacher.vocab_size} "
            "(algorithm). Set model.vocab_size alike, or take another teacher."
        )


def check_rows(table: algorithm.Table) -> dict[str, np.ndarray]:
    """No further column, after a look at the first rows.

    Raises:
      ValueError: a row has several conversations: it has no one prompt to answer.
    """
    most = int(np.max(np.asarray(table["segments"][:4096]), initial=0))
    if most > 1:
        raise ValueError(
            "rows must hold one conversation each where the student answers some of them "
            f"(algorithm.on_policy); got rows of up to {most} (data). Set data.pack=false."
        )
    return {}


def _make(
    networks: Mapping[str, models.Model], config: DistillConfig, task: method.Task
) -> algorithm.Algorithm:
    return distill(
        networks["policy"],
        networks[TEACHER],
        config,
        eos=task.ends,
        pad=task.pad,
        width=task.prompt_length,
        length=task.length,
    )


def _to_teacher(subject: evaluator.Subject) -> evaluator.Subject:
    """The same with the teacher as what samples are measured against."""
    networks = {**subject.networks, "reference": subject.networks[TEACHER]}
    trees = {**subject.trees, "reference": subject.trees[TEACHER]}
    return subject._replace(networks=networks, trees=trees)


def _evaluate(subject: evaluator.Subject) -> evaluator.Numbers:
    numbers = policies.SAMPLES.run(_to_teacher(subject))
    name = "KL to the reference, nats"
    return {
        key.replace("reference", TEACHER) if key == name else key: x for key, x in numbers.items()
    }


# Reward, exact KL to the teacher and length of a student's completions.
TAUGHT = evaluator.Evaluator(
    "samples",
    _evaluate,
    reads=("policy", TEACHER),
    optional=("reward",),
    programs=lambda subject: policies.programs_of(_to_teacher(subject)),
)
ROLES = {
    "policy": method.Role(trained=True, source="policy"),
    TEACHER: method.Role(source=TEACHER, required=True),
}

DistillConfig.METHOD = method.Method(
    name="distill",
    make=_make,
    table=lambda config: "prompts" if config.reads_prompts else "demonstrations",
    roles=lambda config: ROLES,
    evaluators=lambda config: (TAUGHT,),
    formula=DistillConfig.formula,
    sampling=lambda config: config.sampling if config.samples else None,
    curves=("divergence",),
)

"""Distillation: who answers which row, what the loss is, and whom the gradient comes from."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from alignjax import compat, training
from alignjax.algorithms import distill, minillm, opd, sdft, sdpo
from alignjax.core import mean, struct
from alignjax.models import transformer
from alignjax.parallel import mesh as meshes
from alignjax.rollouts import mixed
from alignjax.sampling import transforms
from alignjax.training import update
from tests.rollouts import bigram
from tests.training import tiny

TABLE = bigram.bigram(tiny.VOCAB)
SAMPLING = transforms.SamplingConfig(max_new_tokens=tiny.NEW)
PLACES = {"eos": tiny.EOS, "pad": tiny.PAD, "width": tiny.PROMPT}
KEY = jax.random.key(3)


def params(seed, model=TABLE):
    return model.init(jax.random.key(seed))


def made(model=TABLE, teacher=TABLE, **changes):
    config = distill.DistillConfig(**{"sampling": SAMPLING, **changes})
    return distill.distill(model, teacher, config, **PLACES)


def state_of(method, seed=0, model=TABLE):
    return training.initial_state(method, optax.sgd(0.1), start={"policy": params(seed, model)})


def on_device(batch):
    return {name: jnp.asarray(x) for name, x in batch.items()}


def collect(method, batch, key=KEY):
    rows, _, metrics = method.collect(state_of(method), {"teacher": params(5)}, batch, key)
    return jax.tree.map(np.asarray, rows), mean.floats(metrics)


# --- who answers ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("share", "count"), [(0.3, 2), (0.0625, 0), (0.5, 4), (0.9, 7)])
def test_an_exact_number_of_rows_is_sampled(share, count):
    """round(share x 8), every step; the others are the data's own, bit for bit."""
    batch = tiny.rows(0, 8)
    assert mixed.Mix(None, share, SAMPLING, 1, 0, 4).spans(8) == [(None, 0, count)][: bool(count)]
    if share != 0.3:
        return
    method = made(on_policy=share)
    for key in (KEY, jax.random.key(9)):
        rows, told = collect(method, on_device(batch), key)
        assert told["policy_rows"] == count / 8
        for name, column in batch.items():
            wide = np.zeros((8, rows[name].shape[1] - column.shape[1]), column.dtype)
            np.testing.assert_array_equal(
                rows[name][count:], np.concatenate([column, wide], axis=1)[count:]
            )
        prompts = batch["tokens"][:count, : tiny.PROMPT]
        np.testing.assert_array_equal(rows["tokens"][:count, : tiny.PROMPT], prompts)
        assert not rows["loss_mask"][:count, : tiny.PROMPT].any()
        sampled = rows["loss_mask"][:count].sum(1)
        assert np.all((sampled > 0) & (sampled <= tiny.NEW))
        assert told["policy_tokens"] == pytest.approx(sampled.mean())


def test_the_teacher_answers_the_other_rows():
    """At one prompt for all, its rows follow its table's law and the student's the student's."""
    sharp = {"logits": 40.0 * jnp.eye(tiny.VOCAB)[::-1]}  # token t is followed by V - 1 - t
    shift = {"logits": 40.0 * jnp.roll(jnp.eye(tiny.VOCAB), 1, axis=1)}  # and here by t + 1
    method = made(on_policy=0.25, others="teacher")
    state = struct.replace(state_of(method), params=shift)
    batch = {"prompts": np.full((8, 4), 5, np.int32), "lengths": np.full(8, 4, np.int32)}
    rows, _, told = method.collect(state, {"teacher": sharp}, on_device(batch), KEY)
    tokens = np.asarray(rows["tokens"])
    np.testing.assert_array_equal(tokens[:2, 4:], [[6, 7, 8, 9, 10, 11]] * 2)
    np.testing.assert_array_equal(tokens[2:, 4:], [[18, 5, 18, 5, 18, 5]] * 6)
    assert mean.floats(told)["teacher_rows"] == 0.75


def test_a_prompt_is_all_before_the_last_answer():
    """Of several turns the last is answered anew; of a long prompt the end is kept."""
    mask = np.array([[0, 0, 1, 1, 0, 0, 1, 1], [0, 1, 1, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0, 1]])
    batch = {"tokens": np.arange(24, dtype=np.int32).reshape(3, 8), "loss_mask": mask}
    prompts, lengths = mixed.asked(on_device(batch), 6, -1)
    np.testing.assert_array_equal(lengths, [6, 1, 6])
    np.testing.assert_array_equal(prompts[0], range(6))
    np.testing.assert_array_equal(prompts[1], [8, -1, -1, -1, -1, -1])
    np.testing.assert_array_equal(prompts[2], range(17, 23))


def test_rows_of_several_conversations_are_refused_where_the_student_answers():
    packed = {**tiny.rows(0, 4), "segments": np.full((4, tiny.LENGTH), 2, np.int32)}
    with pytest.raises(ValueError, match=r"one conversation each .* up to 2 \(data\)"):
        made(on_policy=0.5).prepare(packed)
    assert made(on_policy=0.5).prepare(tiny.rows(0, 4)) == {}
    assert made(on_policy=0.0).prepare is None


# --- what is minimised ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("compat_name", "options"),
    [
        ("paper", {"beta": 0.0}),
        ("paper", {"method": "generalised_jsd"}),
        ("trl-1.16", {"beta": 0.5}),
    ],
)
def test_the_loss_is_that_of_whole_distributions(compat_name, options):
    """The preset's own recipe on logits of both, [B, T, V]; prompts and padding count nothing."""
    method = made(on_policy=0.0, compat=compat_name, temperature=0.7, **options)
    batch, student, teacher = on_device(tiny.rows(1, 4)), params(0), params(5)
    terms, _ = method.loss(student, {"teacher": teacher}, batch, KEY)
    logits = (tree["logits"][batch["tokens"][:, :-1]] for tree in (student, teacher))
    recipe = compat.recipe(compat_name, "generalised_jsd")
    arrays = dict(zip(("student_logits", "teacher_logits"), logits, strict=True))
    numbers = {"temperature": 0.7, "beta": options.get("beta", 0.5)}
    want = recipe({**arrays, "mask": batch["loss_mask"][:, 1:]}, **numbers)["loss"]
    np.testing.assert_allclose(terms["divergence"].value, want.value, rtol=2e-6)
    assert float(terms["divergence"].weight) == batch["loss_mask"].sum()


def test_a_student_like_its_teacher_stays():
    method = made(on_policy=0.0)
    gradients = update.make_gradients(method.loss)
    batch = on_device(tiny.rows(1, 4))
    found, metrics = gradients(params(5), {"teacher": params(5)}, batch, KEY)
    assert np.abs(found["logits"]).max() < 1e-7
    assert abs(float(metrics["divergence"].value)) < 1e-6


def test_a_reward_of_the_teacher_has_the_gradient_of_the_reverse_kl():
    """Over all next tokens, weighed by their probability: E[-A grad log p] = grad KL(p || q)."""
    config = opd.OpdConfig(sampling=SAMPLING)
    student, teacher = params(0), params(5)
    logp, logq = (jax.nn.log_softmax(tree["logits"][7]) for tree in (student, teacher))
    every = jnp.ones((tiny.VOCAB, 1))
    advantages = opd.credited(config, logp[:, None], logq[:, None], every)[:, 0]

    def surrogate(row):
        return -jnp.sum(jnp.exp(logp) * advantages * jax.nn.log_softmax(row))

    def exact(row):
        p = jax.nn.log_softmax(row)
        return jnp.sum(jnp.exp(p) * (p - logq))

    row = student["logits"][7]
    np.testing.assert_allclose(jax.grad(surrogate)(row), jax.grad(exact)(row), atol=2e-6)


@pytest.mark.parametrize("kind", [opd.OpdConfig, minillm.MiniLlmConfig])
def test_students_paid_by_the_teacher_come_closer(kind):
    method = opd.opd(TABLE, TABLE, kind(sampling=SAMPLING, method="ppo_clip"), **PLACES)
    tx = optax.adam(0.3)
    state = training.initial_state(method, tx, start={"policy": params(0)})
    steps = training.steps(
        method, lambda step: tiny.prompts(step, 32), tx, state=state,
        frozen={"teacher": params(5)}, until=12, seed=1,
    )  # fmt: skip
    found = [mean.floats(metrics) for _, metrics in steps]
    assert all(m["drift"] < 1e-4 for m in found)
    assert all(m["ratio_deviation"] < 1e-5 for m in found)
    assert found[-1]["kl"] < 0.6 * found[0]["kl"]


def test_the_teachers_row_shows_the_demonstration_first():
    shown = {
        "tokens": jnp.array([[2, 3, 4, 0], [5, 6, 0, 0]]),
        "segments": jnp.array([[1, 1, 1, 0], [1, 1, 0, 0]]),
    }
    rows = {
        "tokens": jnp.array([[7, 8, 0], [9, 10, 11]]),
        "segments": jnp.array([[1, 1, 0], [1, 1, 1]]),
    }
    read, shift = sdft.after(shown, rows, np.array([20, 21], np.int32))
    np.testing.assert_array_equal(shift, [5, 4])
    np.testing.assert_array_equal(
        read["tokens"], [[2, 3, 4, 20, 21, 7, 8, 0, 0], [5, 6, 20, 21, 9, 10, 11, 0, 0]]
    )
    np.testing.assert_array_equal(read["segments"].sum(1), [7, 7])
    _, plain = sdft.after(shown, rows, np.zeros(0, np.int32))
    np.testing.assert_array_equal(plain, [3, 2])


def test_a_sample_is_taught_by_the_next_one_that_succeeded():
    solved = jnp.array([[0, 1, 0, 1], [0, 1, 0, 0], [0, 0, 0, 0]]).reshape(-1) != 0
    rows, there = sdpo.siblings(solved, 4)
    np.testing.assert_array_equal(there, [1, 1, 1, 1, 1, 0, 1, 1, 0, 0, 0, 0])
    np.testing.assert_array_equal(rows.reshape(3, 4)[0], [1, 3, 3, 1])
    np.testing.assert_array_equal(np.asarray(rows).reshape(3, 4)[1][[0, 2, 3]], [5, 5, 5])


@pytest.mark.slow
def test_samples_without_a_successful_sibling_count_nothing():
    """Rewards of 1 for some rows: the others' answers are the ones trained on, and stay exact."""
    config = sdpo.SdpoConfig(
        reward="gold", group=4, top_k=5, teacher="live", sampling=SAMPLING, solved_from=2.0
    )
    method = sdpo.sdpo(TABLE, config, reward=tiny.count_fives, prompts=8, micro_batches=2,
                       eos=tiny.EOS, pad=tiny.PAD)  # fmt: skip
    sharp = {"logits": params(0)["logits"].at[:, 5].add(3.0)}
    state = struct.replace(state_of(method), params=sharp)
    rows, _, told = method.collect(state, {}, on_device(tiny.prompts(0, 8)), KEY)
    fives = ((np.asarray(rows["tokens"]) == 5) & (np.asarray(rows["positions"]) >= 2)).sum(1)
    told = mean.floats(told)
    assert 0 < told["taught"] < 1
    taught = np.asarray(rows["loss_mask"]).any(1)
    assert taught.mean() == pytest.approx(told["taught"])
    groups = (fives >= 2).reshape(8, 4).sum(1)
    assert not taught.reshape(8, 4)[groups == 0].any()
    parts = [
        jax.jit(update.make_gradients(method.loss, micro_batches=n))(sharp, {}, rows, KEY)
        for n in (1, 4)
    ]
    np.testing.assert_allclose(parts[0][0]["logits"], parts[1][0]["logits"], atol=1e-6)


@pytest.mark.slow
def test_what_the_teacher_is_shown_reaches_the_loss():
    """One demonstration for another changes the loss, and the running mean follows the student."""
    model = transformer.transformer(tiny.shape())
    config = sdft.SdftConfig(sampling=SAMPLING, top_k=8, rate=0.25)
    method = sdft.sdft(model, config, **PLACES)
    state = state_of(method, model=model)
    big = jax.tree.map(lambda x: 8.0 * x, state.params)
    state = struct.replace(state, params=big)
    batch = tiny.rows(1, 4)
    other = {**batch, "tokens": np.where(batch["loss_mask"], 3, batch["tokens"])}
    values = []
    for given in (batch, other):
        rows, carry, _ = method.collect(state, {}, on_device(given), KEY)
        terms, _ = method.loss(state.params, {}, rows, KEY)
        values.append(float(terms["divergence"].value))
    assert min(values) > 1e-4
    assert abs(values[0] - values[1]) > 1e-5
    want = 0.75 * state.carry["teacher"].norm + 0.25 * big.norm
    np.testing.assert_allclose(carry["teacher"].norm, want, rtol=1e-6)


# --- exactness -----------------------------------------------------------------------------------

BIG = transformer.transformer(tiny.shape(width=24, heads=3, kv_heads=1, head_dim=8))


@pytest.mark.slow
def test_micro_batches_change_nothing():
    """A teacher of another width, a share of rows sampled: 4 parts equal the whole."""
    model = transformer.transformer(tiny.shape())
    method = made(model, BIG, on_policy=0.25, beta=0.5)
    state, frozen = state_of(method, model=model), {"teacher": params(5, BIG)}
    rows, _, _ = method.collect(state, frozen, on_device(tiny.rows(0, 8)), KEY)
    found = [
        jax.jit(update.make_gradients(method.loss, micro_batches=n))(
            state.params, frozen, rows, KEY
        )
        for n in (1, 4)
    ]
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7),
        found[0][0],
        found[1][0],
    )


CASES = {
    "gkd": distill.DistillConfig(on_policy=0.3, beta=0.5, sampling=SAMPLING),
    "gkd-top-k": distill.DistillConfig(others="teacher", on_policy=0.5, top_k=5, sampling=SAMPLING),
    "minillm": minillm.MiniLlmConfig(sampling=SAMPLING),
    "sdft": sdft.SdftConfig(top_k=5, sampling=SAMPLING),
}


def two_and_two(method, frozen, batches):
    """The states after four steps: at a stretch, and with a pause behind the second."""

    def go(state, until):
        steps = training.steps(
            method, batches, optax.adam(0.1), state=state, frozen=frozen, until=until, seed=1
        )
        return jax.device_get([s for s, _ in steps][-1])

    def begin():
        return training.initial_state(method, optax.adam(0.1), start={"policy": params(0)})

    paused = jax.tree.map(jnp.asarray, go(begin(), 2))
    return go(begin(), 4), go(paused, 4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gkd", "minillm", "sdft"])
def test_a_paused_run_ends_with_the_same_bits(name):
    """Answers and the running mean are functions of the state, the seed and the step."""
    if name == "gkd":
        method = made(on_policy=0.5, beta=0.5)
    elif name == "minillm":
        method = opd.opd(TABLE, TABLE, CASES[name], **PLACES)
    else:
        method = sdft.sdft(TABLE, CASES[name], **PLACES)
    rows = tiny.prompts if name == "minillm" else tiny.rows
    one, other = two_and_two(method, {"teacher": params(5)}, lambda step: rows(step, 8))
    jax.tree.map(np.testing.assert_array_equal, one, other)


def first_steps(sizes, config):
    """Losses and gradient norms of two steps on a mesh."""
    mesh = None if sizes is None else meshes.make_mesh(meshes.MeshConfig(**sizes), jax.devices())
    with meshes.use(mesh):
        student = transformer.transformer(tiny.shape())
        teacher = transformer.transformer(tiny.shape(width=32, heads=4, kv_heads=2, head_dim=8))
        if isinstance(config, opd.OpdConfig):
            method = opd.opd(student, teacher, config, **PLACES)
        elif isinstance(config, sdft.SdftConfig):
            method = sdft.sdft(student, config, **PLACES)
        else:
            method = distill.distill(student, teacher, config, **PLACES)
        tx = optax.adam(1e-3)
        start = jax.jit(student.init)(jax.random.key(0))
        frozen = {"teacher": jax.jit(teacher.init)(jax.random.key(5))}
        is_prompts = type(config).METHOD.table(config) == "prompts"
        state = training.initial_state(method, tx, start={"policy": start})
        steps = training.steps(
            method,
            lambda step: (tiny.prompts if is_prompts else tiny.rows)(step, 16),
            tx, state=state, frozen=frozen, until=2, seed=1,
        )  # fmt: skip
        return np.array([[float(m[k].value) for k in ("loss", "grad_norm")] for _, m in steps])


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_meshes_take_the_same_steps(name):
    plain = first_steps(None, CASES[name])
    found = first_steps({"data": 2, "model": 2, "seq": 2}, CASES[name])
    np.testing.assert_allclose(found, plain, rtol=2e-5, atol=1e-6)


# --- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        (distill.DistillConfig, {"on_policy": 1.5}, r"algorithm.on_policy must .* got 1.5"),
        (distill.DistillConfig, {"on_policy": -0.1}, r"algorithm.on_policy must .* got -0.1"),
        (distill.DistillConfig, {"beta": 2.0}, r"algorithm.beta must .* got 2.0"),
        (distill.DistillConfig, {"temperature": 0.0}, r"algorithm.temperature must .* got 0.0"),
        (distill.DistillConfig, {"others": "me"}, "algorithm.others must be .* got 'me'"),
        (distill.DistillConfig, {"top_k": -1}, "algorithm.top_k must .* got -1"),
        (distill.DistillConfig, {"method": "forward", "beta": None}, "got 'forward'"),
        (opd.OpdConfig, {"credit": "all"}, "algorithm.credit must be .* got 'all'"),
        (opd.OpdConfig, {"method": "gspo"}, "must be a loss of single tokens"),
        (opd.OpdConfig, {"sampling": transforms.SamplingConfig(top_k=5)}, "must not cut tokens"),
        (sdft.SdftConfig, {"teacher": "old"}, "algorithm.teacher must be .* got 'old'"),
        (sdft.SdftConfig, {"rate": 0.0}, "algorithm.rate must .* got 0.0"),
        (sdpo.SdpoConfig, {"reward": "gold", "group": 1}, "algorithm.group must .* got 1"),
        (sdpo.SdpoConfig, {}, "algorithm.rules must name at least one rule"),
    ],
    ids=lambda x: next(iter(x), "none") if isinstance(x, dict) else "",
)
def test_bad_options_are_refused_in_a_line(kind, changes, message):
    with pytest.raises(ValueError, match=message) as caught:
        kind(**changes).validate()
    assert "\n" not in str(caught.value)


def test_other_vocabularies_are_refused():
    with pytest.raises(ValueError, match=r"have the 24 entries .* got 25 \(algorithm\)"):
        made(teacher=bigram.bigram(25))
    with pytest.raises(ValueError, match=r"top_k must be below the 24 entries .* got 24"):
        sdft.sdft(TABLE, sdft.SdftConfig(top_k=24, sampling=SAMPLING), **PLACES)
    with pytest.raises(ValueError, match=r"algorithm\.between must be empty"):
        sdft.ids_of(sdft.SdftConfig(between="Now you."), None)

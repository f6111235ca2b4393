"""Records of methods and returns of losses that are wrong are one line, before or while tracing."""

import dataclasses

import jax.numpy as jnp
import pytest

from alignjax.core import mean
from alignjax.training import method, update


def config(**roles):
    """A method's configuration with these networks."""

    @dataclasses.dataclass(kw_only=True)
    class OwnConfig(method.MethodConfig):
        """An own method."""

        path: str = ""

    OwnConfig.METHOD = method.Method(
        name="own",
        make=lambda networks, config, task: None,
        table=lambda config: "pairs",
        roles=lambda config: roles,
    )
    return OwnConfig()


TRAINED = method.Role(trained=True, source="policy")


def test_a_right_record_passes():
    method.check(config(policy=TRAINED, teacher=method.Role(source="path")))


@pytest.mark.parametrize(
    ("roles", "message"),
    [
        ({"policy": method.Role(source="policy")}, "own must train at least one of its networks"),
        ({}, "got the roles none"),
        ({"policy": TRAINED, "t": method.Role(source="tutor")}, "source of own's t must be one of"),
        ({"policy": TRAINED, "t": method.Role(part="policies")}, "Did you mean 'policy'"),
    ],
)
def test_wrong_roles_are_refused(roles, message):
    with pytest.raises(ValueError, match=message):
        method.check(config(**roles))


def test_a_class_without_record_or_fields_is_refused():
    @dataclasses.dataclass
    class BareConfig(method.MethodConfig):
        """Without a record."""

    class PlainConfig(method.MethodConfig):
        """No dataclass."""

        METHOD = config(policy=TRAINED).METHOD

    with pytest.raises(ValueError, match="got BareConfig without a METHOD record"):
        method.check(BareConfig())
    with pytest.raises(ValueError, match=r"got PlainConfig without @dataclasses\.dataclass"):
        method.check(PlainConfig())


ONE = mean.single(jnp.float32(1.0))
ROWS = mean.Mean(total=jnp.ones(4), weight=jnp.ones(4))


@pytest.mark.parametrize(
    ("result", "got"),
    [
        (ONE, "got Mean"),
        ({"a": ONE}, "got one mapping"),
        (({"a": jnp.float32(1.0)}, {}), "got a, an array"),
        (({"a": ONE}, {"b": 2.0}), "got b, float"),
        (({"a": ROWS}, {}), r"got a of shape \[4\]"),
    ],
)
@pytest.mark.parametrize("micro_batches", [1, 2])
def test_a_loss_returns_means_of_one_number(result, got, micro_batches):
    run = update.make_gradients(lambda *args: result, micro_batches=micro_batches)
    with pytest.raises(ValueError, match=f"a loss must return .*{got}"):
        run(jnp.ones(2), {}, {"x": jnp.ones(4)}, jnp.zeros(2, jnp.uint32))

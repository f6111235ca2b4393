"""The modules of transformers' classes, as peft names them, behind the places of our adapters."""

from typing import NamedTuple

from alignjax.models.adapters import sites
from alignjax.models.checkpoints import folder
from alignjax.models.config import TransformerConfig


class Module(NamedTuple):
    """A module of a layer, or a parameter of its experts, that peft adapts.

    name: its path in the layer. parts: paths of our weights in a block, whose columns stand side by
    side in it. target: what our configurations call it. parameter: of a module that holds stacks of
    experts, else "". Parameters of one module are wrapped one around another, `inner` first.
    turned: the stack is [E, in, out], and peft, which takes it for [E, out, in], swaps A and B.
    per_expert: a Linear of one expert, whose number stands in its name for {}, as in transformers
    before its fifth release; gate and up have maps in of their own.
    """

    name: str
    parts: tuple[str, ...]
    targets: tuple[str, ...]
    parameter: str = ""
    inner: bool = False
    turned: bool = False
    per_expert: bool = False

    @property
    def last(self) -> str:
        """What `target_modules` calls it, or `target_parameters` the parameter."""
        if self.parameter:
            return f"{self.name}.{self.parameter}"
        return self.name.rpartition(".")[2]

    @property
    def key(self) -> str:
        """Its name among all modules of a model."""
        return self.name if self.per_expert else self.last

    @property
    def pattern(self) -> str:
        """A regular expression for the end of its name, as in rank_pattern."""
        name = "experts.{}." + self.last if self.per_expert else self.last
        return name.replace(".", r"\.").replace("{}", r"\d+")


def of_layer(config: TransformerConfig, *, sparse: bool) -> tuple[Module, ...]:
    """The modules of a layer with experts or without."""
    return (*_attention(config), *_mlp(config, sparse))


def every(config: TransformerConfig) -> tuple[Module, ...]:
    """Those of all kinds of layers that the model has."""
    modules = [
        module for sparse, _ in config.stacks() for module in of_layer(config, sparse=sparse)
    ]
    return tuple(dict.fromkeys(modules))


def _attention(config: TransformerConfig) -> list[Module]:
    def one(name: str, target: str, *parts: str) -> Module:
        paths = tuple(f"attention/{part}" for part in parts or (target,))
        return Module(f"self_attn.{name}", paths, (target,))

    if not config.mla.kv_rank:
        names = {"q_proj": "query", "k_proj": "key", "v_proj": "value", "o_proj": "out"}
        return [one(name, target) for name, target in names.items()]
    low = config.mla.query_rank > 0
    both = Module("self_attn.kv_b_proj", ("attention/key", "attention/value"), ("key", "value"))
    return [
        *([one("q_a_proj", "query_down")] if low else []),
        one("q_b_proj" if low else "q_proj", "query"),
        one("kv_a_proj_with_mqa", "latent", "latent", "rotated"),
        both,
        one("o_proj", "out"),
    ]


def _split(experts: str, names: tuple[str, str, str]) -> list[Module]:
    """Linears of single experts: gate, up and down."""
    parts = zip(names, ("gate", "up", "down"), strict=True)
    return [
        Module(f"{experts}.{{}}.{name}", (f"mlp/{part}",), (f"experts_{part}",), per_expert=True)
        for name, part in parts
    ]


def chosen(config: TransformerConfig, targets: tuple[str, ...]) -> set[str]:
    """Keys of the modules that are written for these targets.

    Experts one by one where gate or up are named by themselves, in the names of the family; stacks
    of them otherwise.
    """
    one_by_one = any(name in targets for name in sites.APART)
    mixtral = one_by_one and _is_mixtral(config)
    return {
        module.key
        for module in every(config)
        if any(target in targets for target in module.targets)
        and not (module.parameter and one_by_one)
        and (not module.per_expert or (one_by_one and mixtral == module.name.startswith("block_")))
    }


def _is_mixtral(config: TransformerConfig) -> bool:
    """Whether the family that the configuration is of, if any, names experts as Mixtral does."""
    try:
        return bool(folder.hf_fields(config)["model_type"] == "mixtral")
    except ValueError:
        return False


def _mlp(config: TransformerConfig, sparse: bool) -> list[Module]:
    # The one family whose experts take weighed inputs names them otherwise.
    other = config.moe.weigh_inputs
    inside = "feed_forward" if other else "mlp"
    within, path = inside, "mlp"
    modules = []
    if sparse:
        experts, both = f"{inside}.experts", ("mlp/gate", "mlp/up")
        modules = [
            Module(experts, both, ("experts_in",), "gate_up_proj", inner=True, turned=other),
            Module(experts, ("mlp/down",), ("experts_down",), "down_proj", turned=other),
            *_split("mlp.experts", ("gate_proj", "up_proj", "down_proj")),
            *_split("block_sparse_moe.experts", ("w1", "w3", "w2")),
        ]
        if not config.moe.shared_ff:
            return modules
        within, path = f"{inside}.shared_expert{'' if other else 's'}", "mlp/shared"
    plain = [Module(f"{within}.{t}_proj", (f"{path}/{t}",), (t,)) for t in ("gate", "up", "down")]
    return [*modules, *plain]

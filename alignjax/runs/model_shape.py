"""The shape of a run's model: of its configuration, its data and the weights it starts from."""

import dataclasses

from alignjax.data import corpus as corpora
from alignjax.models import config as model_config
from alignjax.models.checkpoints import folder as open_weights


def different_fields(one: model_config.ModelConfig, other: model_config.ModelConfig) -> list[str]:
    """Names of the fields in which two models differ, options of computation aside."""
    if type(one) is not type(other):
        return ["class"]
    names = [f.name for f in dataclasses.fields(one)]  # type: ignore[arg-type]
    return [n for n in names if n not in one.RUNNING and getattr(one, n) != getattr(other, n)]


def resolve(
    shape: model_config.ModelConfig,
    corpus: corpora.Corpus,
    weights: str = "",
    layers: int = 0,
    skip: str = "",
) -> model_config.ModelConfig:
    """The model's shape: that of open weights, or the configured one with the data's vocabulary.

    Raises:
      ValueError: the vocabulary is too small for the data, or both shape and weights are set.
    """
    if weights:
        shape = _weights_shape(shape, weights, layers, skip)
    size = shape.vocab_size or corpus.vocab_size
    if size < corpus.vocab_size:
        raise ValueError(
            f"model.vocab_size must cover the data's {corpus.vocab_size} tokens; got {size} "
            "(model). Leave it 0 to take the data's, or use the tokenizer of the weights."
        )
    return shape.sized(size)


def _weights_shape(
    shape: model_config.ModelConfig, weights: str, layers: int, skip: str
) -> model_config.ModelConfig:
    names = (*shape.RUNNING, *shape.PRECISION)
    running = {name: getattr(shape, name) for name in names}
    if shape != model_config.TransformerConfig(**running):
        raise ValueError(
            "model must be left as it is beside weights, but for "
            f"{', '.join(sorted(names))}: the weights give the shape (model). Remove the others."
        )
    stored = open_weights.open_model(weights, skip=skip).config
    if layers > stored.layers:
        raise ValueError(
            f"weights_layers must be at most the model's {stored.layers}; got {layers}."
        )
    return dataclasses.replace(stored.first(layers or stored.layers), **running)


def context_lines(weights: str, length: int, skip: str = "") -> list[str]:
    """Lines of how open weights are stored, and where rows are longer than those of their own
    training."""
    if not weights:
        return []
    stored = open_weights.open_model(weights, skip=skip)
    return [*filter(None, [stored.told]), *stored.beyond(length, "rows")]


def check_vocabulary(
    role: str, path: str, config: model_config.ModelConfig, own: model_config.ModelConfig
) -> None:
    """Compares vocabularies of which nothing is known but their sizes.

    Raises:
      ValueError: they differ in size.
    """
    if config.vocab_size != own.vocab_size:
        raise ValueError(
            f"the vocabulary of the {role} must have the {own.vocab_size} tokens of the "
            f"experiment's own model, or ids would mean other tokens; got {config.vocab_size} in "
            f"{path}. Name a run on the same data, or set model.vocab_size alike."
        )

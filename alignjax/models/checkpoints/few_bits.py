"""Weights stored in few bits, by the `quantization_config` of a `config.json`."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from alignjax.models.checkpoints import fp8, mxfp4, sharded

FIELD = fp8.FIELD
METHODS = ("fp8", "mxfp4")


class Coding(NamedTuple):
    """How a folder's weights are stored.

    opened: the folder's tensors -> those that they stand for. told: a line of what becomes of
    them, or "".
    """

    opened: Callable[[Any], sharded.Tensors]
    told: str = ""


def coding_of(fields: Mapping[str, Any], where: str) -> Coding:
    """The coding that the fields of a `config.json` name; as they are where they name none.

    Raises:
      ValueError: another way to store weights than these.
    """
    values = fields.get(FIELD)
    if values is None:
        return Coding(lambda held: held)
    if isinstance(values, dict) and values.get("quant_method") == "mxfp4":
        mxfp4.check(values, where)
        return Coding(mxfp4.Mxfp4Folder, _told("4-bit floats (mxfp4)"))
    if isinstance(values, dict) and values.get("quant_method") not in METHODS:
        raise ValueError(
            f"config.json: {FIELD}.quant_method must be {' or '.join(METHODS)}; got "
            f"{values.get('quant_method')!r:.80} ({where}). Take weights that are stored whole, or "
            "convert them."
        )
    block = fp8.block_of(fields, where)
    assert block is not None  # the field is there
    return Coding(lambda held: fp8.Fp8Folder(held, block), _told("8-bit floats (fp8)"))


def _told(what: str) -> str:
    return (
        f"weights are stored in {what}: they are read as the numbers that these stand for, and "
        "what is trained or exported is written whole."
    )

"""A model folder like those of others: random weights, a real tokenizer, a chat template."""

import json
import pathlib

import jax

from alignjax.models import transformer
from alignjax.models.checkpoints import folder
from alignjax.models.config import TransformerConfig

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
SHAPE = TransformerConfig(
    vocab_size=300, layers=2, width=32, heads=4, kv_heads=2, head_dim=8, ff=48, tied=False
)


def write(path: pathlib.Path, shape: TransformerConfig = SHAPE, seed: int = 0) -> pathlib.Path:
    """The folder, as transformers would have saved it."""
    params = transformer.transformer(shape).init(jax.random.key(seed))
    folder.save_model(path, shape, params, folder.hf_fields(shape))
    write_tokenizer(path)
    return path


def write_tokenizer(path: pathlib.Path) -> None:
    """`tokenizer.json` of byte-level BPE, trained on a few words."""
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers, trainers

    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=list(SPECIAL), initial_alphabet=alphabet
    )
    tokenizer.train_from_iterator(["what is the answer to this question", "the answer is"], trainer)
    tokenizer.save(str(path / "tokenizer.json"))
    config = {"bos_token": SPECIAL[1], "eos_token": SPECIAL[2], "pad_token": SPECIAL[0]}
    (path / "tokenizer_config.json").write_text(json.dumps(config))


def write_questions(path: pathlib.Path, rows: int = 12) -> pathlib.Path:
    """A folder of questions with answers, both splits."""
    path.mkdir()
    for split, count in (("train", rows), ("eval", 4)):
        lines = [
            json.dumps({"question": f"what is {n} and {n}?", "answer": f"the answer is {2 * n}"})
            for n in range(count)
        ]
        (path / f"sums.{split}.jsonl").write_text("\n".join(lines) + "\n")
    return path

"""Model, tokenizer, arguments and turns of TRL's arms."""

import importlib.metadata
import tempfile
from typing import Any

import datasets
import tokenizers
import torch
import transformers

from bench import turns, workloads

datasets.disable_progress_bars()


def policy(task: turns.Task) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(task.weights / "policy")


def size(model: Any) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def tokenizer(vocab: int) -> Any:
    """A word for each id."""
    words = {workloads.word(i): i for i in range(vocab)}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token=workloads.word(3)))
    made.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made,
        pad_token=workloads.word(workloads.PAD),
        eos_token=workloads.word(workloads.EOS),
        padding_side="left",
    )


def text(ids: Any) -> str:
    """Ids as words, each with a space before it, so that texts can be joined."""
    return "".join(f" {workloads.word(i)}" for i in ids)


def versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in ("trl", "transformers", "torch")}


def arguments(kind: Any, task: turns.Task, rows: int, **more: Any) -> Any:
    """A trainer's configuration: its defaults but for the workload's numbers, fp32 on a CPU, and
    without checkpointing of gradients, which would compute the forward pass twice."""
    optim = workloads.OPTIMIZER
    return kind(
        output_dir=tempfile.gettempdir(),
        per_device_train_batch_size=rows,
        gradient_accumulation_steps=1,
        max_steps=task.count,
        train_sampling_strategy="sequential",
        learning_rate=optim["learning_rate"],
        lr_scheduler_type="constant",
        adam_beta1=optim["b1"],
        adam_beta2=optim["b2"],
        adam_epsilon=optim["eps"],
        weight_decay=0.0,
        max_grad_norm=optim["clip_norm"],
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        logging_steps=1000,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        **more,
    )


class Watch(transformers.TrainerCallback):
    """A turn for each step, from the end of the one before to its own.

    tokens, loss: of the step, which the arm notes as it runs.
    """

    def __init__(self, told: turns.Turns):
        self._told = told
        self.tokens, self.loss = 0, None

    def noting(self, trainer: Any) -> None:
        """Notes what the trainer's own loss is, and the tokens that are no padding."""
        plain = trainer.compute_loss

        def compute_loss(model: Any, inputs: Any, *args: Any, **options: Any) -> Any:
            if "attention_mask" in inputs:
                self.tokens = int(inputs["attention_mask"].sum())
            found = plain(model, inputs, *args, **options)
            self.loss = (found[0] if isinstance(found, tuple) else found).detach()
            return found

        trainer.compute_loss = compute_loss

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self._told.begin()

    def on_step_end(self, _: Any, state: Any, *__: Any, **___: Any) -> None:
        self._told.end(tokens=self.tokens, loss=None if self.loss is None else float(self.loss))
        if state.global_step < state.max_steps:
            self._told.begin()


def prepare(task: turns.Task) -> None:
    torch.set_num_threads(task.threads)
    transformers.set_seed(0)

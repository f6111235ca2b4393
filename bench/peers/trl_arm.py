"""Iterations by TRL's GRPOTrainer, over transformers' own `generate`: `trainer.train()`.

A row's length is forced by a logits processor: no end before it, nothing else at it.
"""

import functools
import importlib.metadata
import tempfile
from typing import Any

import datasets
import tokenizers
import torch
import transformers
import workload
from trl import GRPOConfig, GRPOTrainer

EOS = workload.EOS


class Ends(transformers.LogitsProcessor):
    """Rows end at these lengths, [rows]."""

    def __init__(self, lengths: Any, prompt: int):
        self._lengths, self._prompt = torch.tensor(lengths), prompt

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        last = self._lengths <= input_ids.shape[1] - self._prompt + 1
        scores[:, EOS] = torch.where(last, scores[:, EOS], -torch.inf)
        scores[last] = -torch.inf
        scores[last, EOS] = 0.0
        return scores


def model() -> Any:
    config = transformers.LlamaConfig(
        vocab_size=workload.VOCAB,
        hidden_size=workload.WIDTH,
        intermediate_size=workload.FF,
        num_hidden_layers=workload.LAYERS,
        num_attention_heads=workload.HEADS,
        num_key_value_heads=workload.HEADS,
        head_dim=workload.HEAD_DIM,
        rms_norm_eps=workload.NORM_EPS,
        rope_parameters={"rope_type": "default", "rope_theta": float(workload.THETA)},
        tie_word_embeddings=True,
        max_position_embeddings=1024,
        pad_token_id=workload.PAD,
        bos_token_id=None,
        eos_token_id=EOS,
    )
    return transformers.LlamaForCausalLM(config)


def tokenizer() -> Any:
    """A word for each id."""
    words = {workload.word(i): i for i in range(workload.VOCAB)}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token=workload.word(3)))
    made.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made,
        pad_token=workload.word(workload.PAD),
        eos_token=workload.word(EOS),
        padding_side="left",
    )


class Watch(transformers.TrainerCallback):
    """A turn for each step."""

    def __init__(self, turns: workload.Turns):
        self._turns = turns

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self._turns.begin()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self._turns.end()


def arguments(case: workload.Case, count: int, micro: int, folder: str) -> Any:
    optim = workload.OPTIM
    return GRPOConfig(
        output_dir=folder,
        per_device_train_batch_size=case.rows // micro,
        gradient_accumulation_steps=micro,
        num_generations=workload.GROUP,
        num_iterations=1,
        max_steps=count,
        max_completion_length=case.new,
        beta=workload.BETA,
        loss_type="grpo",
        temperature=1.0,
        learning_rate=optim["learning_rate"],
        lr_scheduler_type="constant",
        adam_beta1=optim["b1"],
        adam_beta2=optim["b2"],
        adam_epsilon=optim["eps"],
        weight_decay=0.0,
        max_grad_norm=optim["clip_norm"],
        shuffle_dataset=False,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        logging_steps=1000,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
    )


def iterations(task: workload.Task, turns: workload.Turns) -> None:
    case, count, micro = task
    torch.set_num_threads(1)
    prompts = [" ".join(map(workload.word, ids)) for i in range(count) for ids in case.batch(i)]
    policy = model()

    def reward(completion_ids: list[list[int]], **_: Any) -> list[float]:
        lengths.append([len(ids) for ids in completion_ids])
        return [workload.reward(ids) for ids in completion_ids]

    lengths: list[list[int]] = []
    with tempfile.TemporaryDirectory() as folder:
        policy.save_pretrained(folder)  # the reference is read from there
        policy.config._name_or_path = policy.name_or_path = folder
        trainer = GRPOTrainer(
            model=policy,
            reward_funcs=reward,
            args=arguments(case, count, micro, folder),
            train_dataset=datasets.Dataset.from_dict({"prompt": prompts}),
            processing_class=tokenizer(),
            callbacks=[Watch(turns)],
        )
        ends = transformers.LogitsProcessorList([Ends(case.lengths(), case.prompt)])
        policy.generate = functools.partial(policy.generate, logits_processor=ends)
        names = ("trl", "transformers", "torch")
        turns.ready(**{name: importlib.metadata.version(name) for name in names})
        trainer.train()
    assert all(found == case.lengths().tolist() for found in lengths), lengths


if __name__ == "__main__":
    iterations(workload.task(), workload.Turns())

"""Memory, start and host time of prepared tables from 10^5 to 10^7 rows, and the rate of preparing.

    python bench/data_scale.py read                  # memory, start, host time a step
    python bench/data_scale.py rate --path=DATA      # rows/s of `alignjax prepare` on transcripts
    python bench/data_scale.py encode --path=DATA    # rows to tokens, beside the tokenizers library
    python bench/data_scale.py order                 # the keyed permutation, and grain's shuffle

The tables of `read` are synthetic: 16 distinct shards of 16384 rows, linked under as many names as
rows need, so that only reading is measured. Each size is a process of its own.
"""

import argparse
import json
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

import numpy as np
from etils import epath

from alignjax.data import (
    codec,
    hh,
    hh_recipe,
    lazy,
    packing,
    pipeline,
    prepare,
    shard,
    speakers,
    store,
)
from alignjax.training import prefetch

SHARD, DISTINCT, LENGTH, BATCH, STEPS = 16384, 16, 512, 256, 300


def synthetic(folder: pathlib.Path, rows: int) -> None:
    """A table of so many rows of 512 tokens, a quarter to all of them real."""
    random, infos = np.random.default_rng(0), []
    folder.mkdir(parents=True)
    for number in range(-(-rows // SHARD)):
        name, size = f"shard-{number:06d}.rows", min(SHARD, rows - number * SHARD)
        if number < DISTINCT or size < SHARD:
            sizes = random.integers(LENGTH // 4, LENGTH + 1, size)
            documents = [(random.integers(3, 30000, n), np.ones(n, bool)) for n in sizes]
            table = packing.lay_out(documents, LENGTH, pad_id=0)
            spec = codec.spec_of(table, vocab_size=32000, pad=0)
            infos.append(shard.write(epath.Path(folder / name), table, spec))
        else:
            os.link(folder / infos[number % DISTINCT].name, folder / name)
            infos.append(infos[number % DISTINCT]._replace(name=name))
    store.write_manifest(epath.Path(folder), store.Manifest({"rows": rows}, spec, tuple(infos), {}))


def measure(folder: str) -> dict[str, float]:
    """Start, host time of a step and memory of this process on one table."""
    begin = time.perf_counter()
    place = epath.Path(folder)
    manifest = store.read_whole(place)
    assert manifest is not None
    batches = pipeline.Batches(
        lazy.table_of(store.Stored(place, manifest)), batch_size=BATCH, seed=0
    )
    batches.batch(0)
    start, seconds, cpu = time.perf_counter() - begin, [], []
    for step in range(1, STEPS):
        begin, used = time.perf_counter(), time.process_time()
        batches.batch(step)
        seconds.append(time.perf_counter() - begin)
        cpu.append(time.process_time() - used)
    waits = []
    with prefetch.Prefetch(batches.batch, STEPS, None) as ahead:
        for step in range(50):
            begin = time.perf_counter()
            ahead.placed(ahead(step))
            waits.append(time.perf_counter() - begin)
            time.sleep(0.05)  # a step on the device
    status = pathlib.Path("/proc/self/status").read_text().splitlines()
    memory = {line.split(":")[0]: int(line.split()[1]) / 1024 for line in status if " kB" in line}
    return {
        "rows": batches.rows,
        "start s": round(start, 2),
        "ms a batch (median)": round(1e3 * float(np.median(seconds)), 2),
        "CPU ms a batch (median)": round(1e3 * float(np.median(cpu)), 2),
        "ms a batch (p99)": round(1e3 * float(np.percentile(seconds, 99)), 2),
        "ms the loop waits (median)": round(1e3 * float(np.median(waits)), 2),
        "resident MiB": round(memory["VmRSS"]),
        "of it own MiB": round(memory["RssAnon"]),
        "peak MiB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


def read(sizes: list[int]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for rows in sizes:
            place = pathlib.Path(folder) / str(rows)
            synthetic(place, rows)
            line = subprocess.run(
                [sys.executable, __file__, "measure", f"--path={place}"],
                text=True, stdout=subprocess.PIPE, check=True,
            ).stdout  # fmt: skip
            print(line.strip(), flush=True)


def rate(path: str, copies: int, workers: int) -> None:
    """Rows a second of `prepare` from text to shards, beside the tokenizer alone."""
    config = hh.HhConfig(path=path, vocab_size=8192, max_unusable_share=0.5)
    rows = hh.read(config)["train"].rows
    tokenizer = hh.make_tokenizer(config)
    texts = [[turn.text for turn in (*row.prompt, *row.chosen, *row.rejected)] for row in rows]
    begin, used = time.perf_counter(), time.process_time()
    for own in texts:
        tokenizer._processor.encode(own, num_threads=1)  # the library alone
    wall, cpu = time.perf_counter() - begin, time.process_time() - used
    print(json.dumps({"tokenizer alone, rows/s on one core": round(len(texts) / wall),
                      "rows a CPU second": round(len(texts) / cpu)}), flush=True)  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        source = pathlib.Path(folder) / "data"
        source.mkdir()
        with open(source / "rows.train.jsonl", "w") as stream:
            for copy in range(copies):
                for row in rows:
                    sides = {
                        side: "".join(
                            f"\n\n{turn.role.capitalize()}: {turn.text}"
                            for turn in (*row.prompt, *getattr(row, side))
                        ) + f" {copy}"
                        for side in ("chosen", "rejected")
                    }  # fmt: skip
                    stream.write(json.dumps(sides) + "\n")
        (source / "a.eval.jsonl").write_text((source / "rows.train.jsonl").open().readline())
        config = hh.HhConfig(path=str(source), vocab_size=8192, max_truncated_share=1.0)
        for kind in ("pairs", "documents"):
            own = hh._recipe(config, "train", 0)
            own = hh_recipe.HhRecipe(**{
                **vars(own), "kind": kind, "vocab_size": tokenizer.vocab_size,
                "pad": tokenizer.pad_id, "speaking": speakers.speaking(tokenizer),
            })  # fmt: skip
            place = prepare.Cache(folder=epath.Path(folder) / kind, workers=workers)
            begin, used = time.perf_counter(), time.process_time()
            prepare.source(own, place)
            scanned, used = time.perf_counter(), time.process_time() - used
            after = time.process_time()
            prepare.prepare(own, place)
            done, count = time.perf_counter(), copies * len(rows)
            print(json.dumps({
                "kind": kind, "rows": count, "workers": workers,
                "scan rows/s": round(count / (scanned - begin)),
                "tokenise and pack rows/s": round(count / (done - scanned)),
                "all rows/s": round(count / (done - begin)),
                # Of this process, which is all with one worker.
                "scan rows a CPU second": round(count / used),
                "tokenise and pack rows a CPU second": round(count / (time.process_time() - after)),
            }), flush=True)  # fmt: skip


CONTROL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


def foreign(texts: list[str], folder: pathlib.Path) -> None:
    """A byte-level BPE of 8192 pieces, trained by the tokenizers library on these texts."""
    import tokenizers

    own = tokenizers.Tokenizer(tokenizers.models.BPE())
    own.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    own.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    own.train_from_iterator(
        texts,
        tokenizers.trainers.BpeTrainer(
            vocab_size=8192, special_tokens=list(CONTROL), initial_alphabet=alphabet,
            show_progress=False,
        ),
    )  # fmt: skip
    own.save(str(folder / "tokenizer.json"))
    settings = {"eos_token": CONTROL[2], "pad_token": CONTROL[0]}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def encode(path: str, count: int, rounds: int) -> None:
    """CPU seconds of rows to examples under ChatML, and of the library for the same texts alone.

    Both on one thread, in turns; the library encodes a batch of 256 rows' texts in one call and
    gives their ids as lists.
    """
    os.environ["RAYON_NUM_THREADS"] = "1"
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    import tokenizers

    from alignjax.data import encoding, example, makers
    from alignjax.data import rows as typed
    from alignjax.text import chat_format

    read = hh.read(hh.HhConfig(path=path, max_unusable_share=0.5))["train"].rows[:count]
    pairs = [typed.Answers(prompt=tuple(r.prompt), answers=(tuple(r.chosen), tuple(r.rejected)),
                           ranks=(0.0, 1.0)) for r in read]  # fmt: skip
    texts = [[turn.text for turn in (*r.prompt, *r.chosen, *r.rejected)] for r in read]
    plain = [typed.Text(text="\n\n".join(own)) for own in texts]
    options = example.Options(length=512, prompt_length=256)
    with tempfile.TemporaryDirectory() as folder:
        foreign([text for own in texts for text in own], pathlib.Path(folder))
        form = chat_format.load_chat_format(folder, template="chatml")
        library = tokenizers.Tokenizer.from_file(f"{folder}/tokenizer.json")
        kinds = ("documents", "demonstrations", "pairs")
        for name, kind, rows in [
            ("plain text", "documents", plain),
            *((k, k, pairs) for k in kinds),
        ]:
            ours, theirs = [], []
            for _ in range(rounds):
                used = time.process_time()
                encoding.encode(rows, kind, form, options)
                ours.append(time.process_time() - used)
                used = time.process_time()
                for first in range(0, len(rows), encoding.CHUNK):
                    batch = [text for row in rows[first : first + encoding.CHUNK]
                             for text in makers.texts(row, kind, options)]  # fmt: skip
                    for found in library.encode_batch_fast(batch, add_special_tokens=False):
                        found.ids  # noqa: B018
                theirs.append(time.process_time() - used)
            print(json.dumps({
                "kind": name, "rows": len(rows), "ours, CPU s": round(min(ours), 3),
                "library alone": round(min(theirs), 3),
                "ratio": round(min(ours) / min(theirs), 2),
                "rows a CPU second": round(len(rows) / min(ours)),
            }), flush=True)  # fmt: skip


def order(rows: int) -> None:
    """Time and memory of the order at many rows; grain's too, where it is installed."""
    from alignjax.data import order as orders

    own, slots = orders.Order(rows, 0), np.arange(1000)
    own.at(slots)
    begin, used = time.perf_counter(), time.process_time()
    for step in range(300):
        own.at(slots + 1000 * step)
    wall, cpu = (time.perf_counter() - begin) / 300, (time.process_time() - used) / 300
    print(json.dumps({"ours": rows, "ms per 1000": round(1e3 * wall, 3),
                      "CPU ms per 1000": round(1e3 * cpu, 3)}), flush=True)  # fmt: skip
    try:
        import grain
    except ImportError:
        print("grain is not installed: pip install grain")
        return
    shuffled = grain.MapDataset.range(rows).shuffle(seed=0)
    begin = time.perf_counter()
    for index in range(30_000):
        shuffled[index]
    taken = time.perf_counter() - begin
    distinct = len({shuffled[index] for index in range(30_000)})
    print(json.dumps({"grain": rows, "ms per 1000": round(taken / 30 * 1e3, 3),
                      "distinct of 30000": distinct}))  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("read", "measure", "rate", "encode", "order"))
    parser.add_argument("--path", default="")
    parser.add_argument("--rows", type=int, nargs="*", default=[10**5, 10**6, 10**7])
    parser.add_argument("--copies", type=int, default=4)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    if options.what == "measure":
        print(json.dumps(measure(options.path)))
    elif options.what == "read":
        read(options.rows)
    elif options.what == "encode":
        encode(options.path, count=2000, rounds=5)
    elif options.what == "order":
        for rows in (10**7, 10**10):
            order(rows)
    else:
        rate(options.path, options.copies, options.workers)


if __name__ == "__main__":
    main()

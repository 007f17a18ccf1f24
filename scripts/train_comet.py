# SPDX-License-Identifier: Apache-2.0
"""Train a COMET-BART from ATOMIC: from scratch, or from a BART checkpoint.

Reads ATOMIC's v4 CSV files (columns of JSON lists, a column `split`) and the 2020 release's TSV
files (head, relation, tail), plain or gzipped. Sources read "{event} {relation} [GEN]", targets
are the annotated inferences, as COMET-BART was trained. Only the six relations that CKS reads are
learned. Stopped, the next run with the same arguments goes on from the last epoch.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import hashlib
import json
import logging
import math
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from _cli import evidence, peak_memory_mib, run_main, write_json
from datasets import Dataset
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    BartConfig,
    BartForConditionalGeneration,
    DataCollatorForSeq2Seq,
    PreTrainedTokenizerFast,
    Trainer,
    TrainingArguments,
    set_seed,
)
from transformers.trainer_utils import get_last_checkpoint

from modeling_cks.knowledge import GEN_TOKEN, RELATIONS, KnowledgeExtractor, normalize_text

logger = logging.getLogger("train_comet")

_PERSONS = ("PersonX", "PersonY", "PersonZ")
_SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")
_MAX_TARGET = 24
_RESULT = "training.json"
_SHOWN = 3


class Triple(NamedTuple):
    """One annotation: what follows from an event; `split` is "" where the file has none."""

    event: str
    relation: str
    tail: str
    split: str


def main(argv: list[str] | None = None) -> int:
    """Read, train, save, and say how well what was held out is foretold."""
    args = _parse(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    _refuse_foreign(args.output)
    start = time.perf_counter()
    train, held_out = split_triples(
        [triple for path in args.atomic for triple in read_atomic(path)], args.held_out
    )
    logger.info("%d inferences to train on, %d held out", len(train), len(held_out))
    set_seed(args.seed)
    tokenizer, model = _load_base(args.base) if args.base else _from_scratch(train, args)
    comet = KnowledgeExtractor(model, tokenizer, max_target_tokens=_MAX_TARGET)
    logger.info("%.2f million parameters", model.num_parameters() / 1e6)
    checkpoints = args.output.with_name(args.output.name + ".checkpoints")
    trainer = Trainer(
        model=model,
        args=_training_arguments(args, checkpoints, len(train)),
        train_dataset=encode(train, comet),
        eval_dataset=encode(held_out, comet),
        data_collator=DataCollatorForSeq2Seq(tokenizer, model),
        processing_class=tokenizer,
    )
    last = _last_checkpoint(checkpoints, args)
    trainer.train(resume_from_checkpoint=last)
    loss = trainer.evaluate()["eval_loss"]
    shown = _inferences(comet, held_out)
    result = {
        "held_out_loss": loss,
        "train_inferences": len(train),
        "held_out_inferences": len(held_out),
        "parameters": model.num_parameters(),
        "steps": trainer.state.global_step,
        "inferences": shown,
        "seconds": round(time.perf_counter() - start, 1),
        "peak_memory_mib": round(peak_memory_mib()),
        **evidence(arguments=_plain(args), seed=args.seed),
    }
    _save(model, tokenizer, result, args.output)
    shutil.rmtree(checkpoints, ignore_errors=True)
    for line in shown:
        logger.info("%s %s: %s", line["event"], line["relation"], line["tail"])
    print(
        f"held-out loss {loss:.3f} per token (perplexity {math.exp(min(loss, 50)):.1f}), "
        f"{result['steps']} steps, {result['seconds']} s, {result['peak_memory_mib']} MiB at most\n"
        f"written to {args.output}"
    )
    return 0


def read_atomic(path: Path) -> Iterator[Triple]:
    """Yield the inferences of an ATOMIC file that are of the six relations.

    Raises:
        ValueError: a line is neither of the v4 CSV nor of the 2020 TSV.
        OSError: the file cannot be read.
    """
    kind = [suffix for suffix in path.suffixes if suffix in (".csv", ".tsv")]
    if not kind:
        raise ValueError(f"{path}: neither a .csv (ATOMIC v4) nor a .tsv (ATOMIC 2020) file")
    opened = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rt", encoding="utf-8", newline="") as file:
            yield from (_read_csv if kind[0] == ".csv" else _read_tsv)(path, file)
    except (UnicodeDecodeError, EOFError, csv.Error) as error:
        raise ValueError(f"{path}: broken ({error})") from error


def split_triples(triples: list[Triple], share: float) -> tuple[list[Triple], list[Triple]]:
    """Part the inferences in those to train on and those held out, never of one event in both.

    Where the files mark training events ("trn"), those marked "dev" are held out and all others
    left out; where they do not, a share of the events is held out, the same on every machine.

    Args:
        triples: all of them; repeated ones count once.
        share: the share of the events to hold out.

    Raises:
        ValueError: nothing is left to train on or to hold out.
    """
    triples = list(dict.fromkeys(triples))
    if any(triple.split == "trn" for triple in triples):
        train = [triple for triple in triples if triple.split == "trn"]
        held_out = [triple for triple in triples if triple.split == "dev"]
    else:
        held = {event for event in {one.event for one in triples} if _fraction(event) < share}
        train = [triple for triple in triples if triple.event not in held]
        held_out = [triple for triple in triples if triple.event in held]
    for part, name in ((train, "train on"), (held_out, "hold out")):
        if not part:
            raise ValueError(f"of {len(triples)} inferences none is left to {name}")
    return train, held_out


def build_tokenizer(texts: list[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE on `texts`, with what COMET needs as added tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocabulary,
            special_tokens=list(_SPECIAL),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    bos, eos = (tokenizer.token_to_id(token) for token in ("<s>", "</s>"))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", bos), ("</s>", eos)]
    )
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
    )
    wrapped.add_tokens([*RELATIONS, GEN_TOKEN, *_PERSONS])
    return wrapped


def encode(triples: list[Triple], comet: KnowledgeExtractor) -> Dataset:
    """Tokenize sources as extraction will, and targets as `<s> tail </s>`."""

    def batch(rows: dict) -> dict:
        targets = comet.tokenizer(rows["tail"], truncation=True, max_length=_MAX_TARGET)
        return {
            "input_ids": comet.sources(zip(rows["event"], rows["relation"], strict=True)),
            "labels": targets["input_ids"],
        }

    columns = {name: [getattr(one, name) for one in triples] for name in Triple._fields[:3]}
    table = Dataset.from_dict(columns)
    return table.map(batch, batched=True, remove_columns=list(columns), desc="tokenizing")


def _read_csv(path: Path, file) -> Iterator[Triple]:
    rows = csv.DictReader(file)
    missing = [name for name in ("event", *RELATIONS) if name not in (rows.fieldnames or ())]
    if missing:
        raise ValueError(f"{path}: no column {missing[0]!r}, so it is no ATOMIC v4 file")
    for row in rows:
        event = normalize_text(row["event"] or "")
        for relation in RELATIONS:
            try:
                tails = json.loads(row[relation])
                lines = [normalize_text(tail) for tail in tails]
            except (TypeError, ValueError, AttributeError) as error:
                raise ValueError(
                    f"{path}, line {rows.line_num}: {relation} is no JSON list of texts"
                ) from error
            for line in lines:
                if event and line:
                    yield Triple(event, relation, line, row.get("split") or "")


def _read_tsv(path: Path, file) -> Iterator[Triple]:
    for number, line in enumerate(file, 1):
        cells = line.rstrip("\r\n").split("\t")
        if len(cells) != 3:
            raise ValueError(
                f"{path}, line {number}: {len(cells)} columns where ATOMIC 2020 has three "
                "(head, relation, tail)"
            )
        head, relation, tail = map(normalize_text, cells)
        if relation in RELATIONS and head and tail:
            yield Triple(head, relation, tail, "")


def _fraction(event: str) -> float:
    """Return a number in [0, 1) that is the event's own."""
    return int.from_bytes(hashlib.sha256(event.encode()).digest()[:6], "big") / 2**48


def _from_scratch(train: list[Triple], args: argparse.Namespace) -> tuple:
    texts = sorted({triple.event for triple in train}) + [triple.tail for triple in train]
    tokenizer = build_tokenizer(texts, args.vocab_size)
    heads = max(4, args.d_model // 64)
    config = BartConfig(
        vocab_size=len(tokenizer),
        d_model=args.d_model,
        encoder_layers=args.layers,
        decoder_layers=args.layers,
        encoder_attention_heads=heads,
        decoder_attention_heads=heads,
        encoder_ffn_dim=4 * args.d_model,
        decoder_ffn_dim=4 * args.d_model,
        max_position_embeddings=128,
        scale_embedding=True,
        # BART's 0.02 suits a width of 1024; in a narrow model it leaves the decoder blind to the
        # event for most of a short training.
        init_std=args.d_model**-0.5,
        bos_token_id=tokenizer.bos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=tokenizer.eos_token_id,
        forced_eos_token_id=tokenizer.eos_token_id,
    )
    return tokenizer, BartForConditionalGeneration(config)


def _load_base(name: str) -> tuple:
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
        model = AutoModelForSeq2SeqLM.from_pretrained(name, dtype=torch.float32)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"--base {name}: no BART checkpoint can be loaded ({str(error)[:300]})"
        ) from error
    tokenizer.add_tokens([*RELATIONS, GEN_TOKEN])
    if len(tokenizer) > model.get_input_embeddings().num_embeddings:
        model.resize_token_embeddings(len(tokenizer))
    return tokenizer, model


def _training_arguments(
    args: argparse.Namespace, checkpoints: Path, samples: int
) -> TrainingArguments:
    steps = args.max_steps
    if steps is None:
        steps = math.ceil(args.epochs * math.ceil(samples / args.batch_size))
    on_gpu = torch.cuda.is_available()
    return TrainingArguments(
        output_dir=str(checkpoints),
        max_steps=steps,
        per_device_train_batch_size=args.batch_size,
        per_device_eval_batch_size=args.batch_size,
        learning_rate=args.lr,
        warmup_steps=steps // 20,
        weight_decay=0.01,
        label_names=["labels"],
        logging_steps=max(1, steps // 50),
        eval_strategy="no",
        save_strategy="epoch",
        save_total_limit=1,
        bf16=on_gpu and torch.cuda.is_bf16_supported(),
        dataloader_pin_memory=on_gpu,
        seed=args.seed,
        report_to="none",
    )


def _last_checkpoint(checkpoints: Path, args: argparse.Namespace) -> str | None:
    """Return where an earlier run of the same arguments got to, and note ours."""
    note = checkpoints / "arguments.json"
    last = get_last_checkpoint(str(checkpoints)) if checkpoints.is_dir() else None
    if last and (not note.is_file() or json.loads(note.read_text()) != _plain(args)):
        raise ValueError(
            f"{checkpoints}: left by a run of other arguments; remove it, or repeat those"
        )
    write_json(note, _plain(args))
    if last:
        logger.info("going on from %s", last)
    return last


def _inferences(comet: KnowledgeExtractor, held_out: list[Triple]) -> list[dict]:
    """Say of some held-out events what the new COMET infers."""
    comet.model.eval()
    events = list(dict.fromkeys(triple.event for triple in held_out))
    events = events[:: max(1, len(events) // _SHOWN)][:_SHOWN]
    found = comet.infer(events, relations=("xWant", "oReact"))
    return [
        {"event": event, "relation": relation, "tail": tail}
        for event, inferences in zip(events, found, strict=True)
        for relation, tail in inferences.items()
    ]


def _save(model, tokenizer, result: dict, output: Path) -> None:
    """Write beside, then rename; an older COMET of ours that is there gives way."""
    output.parent.mkdir(parents=True, exist_ok=True)
    beside = output.with_name(f".{output.name}.new")
    shutil.rmtree(beside, ignore_errors=True)
    model.save_pretrained(beside)
    tokenizer.save_pretrained(beside)
    write_json(beside / _RESULT, result)
    _refuse_foreign(output)
    if output.exists():
        shutil.rmtree(output)
    beside.rename(output)


def _refuse_foreign(output: Path) -> None:
    if output.is_dir() and any(output.iterdir()) and not (output / _RESULT).is_file():
        raise ValueError(f"{output}: holds something else than a trained COMET; not touched")
    if output.exists() and not output.is_dir():
        raise ValueError(f"{output}: is a file, not a folder")


def _plain(args: argparse.Namespace) -> dict:
    """Return the arguments as JSON can hold them."""
    return json.loads(json.dumps(vars(args), default=str))


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "atomic", nargs="+", type=Path, help="ATOMIC files: v4 .csv or 2020 .tsv, also .gz"
    )
    parser.add_argument("--output", type=Path, required=True, help="folder of the new COMET")
    parser.add_argument("--base", help="BART to fine-tune, folder or Hub name (else from scratch)")
    scratch = parser.add_argument_group("from scratch")
    scratch.add_argument("--d-model", type=int, default=256, help="width (default: %(default)s)")
    scratch.add_argument(
        "--layers", type=int, default=3, help="in encoder and decoder each (default: %(default)s)"
    )
    scratch.add_argument(
        "--vocab-size", type=int, default=6000, help="at most so many tokens (default: %(default)s)"
    )
    parser.add_argument("--epochs", type=float, default=4, help="default: %(default)s")
    parser.add_argument("--max-steps", type=int, help="in place of --epochs")
    parser.add_argument("--batch-size", type=int, default=64, help="default: %(default)s")
    parser.add_argument("--lr", type=float, help="default: 1e-3 from scratch, 2e-5 with --base")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument(
        "--held-out",
        type=float,
        default=0.05,
        metavar="SHARE",
        help="of the events, where the files mark no training events (default: %(default)s)",
    )
    args = parser.parse_args(argv)
    if args.d_model % max(4, args.d_model // 64):
        parser.error(f"--d-model {args.d_model} cannot be parted among the attention heads")
    if args.lr is None:
        args.lr = 2e-5 if args.base else 1e-3
    return args


if __name__ == "__main__":
    run_main(main)

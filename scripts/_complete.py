# SPDX-License-Identifier: Apache-2.0
"""What a folder must hold before it is published: looked at here, offline, without loading it."""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Iterator, Mapping
from fnmatch import fnmatch
from pathlib import Path

import pyarrow.parquet as pq
from huggingface_hub import DatasetCard, ModelCard, RepoCard, SpaceCard
from huggingface_hub.constants import SPACES_SDK_TYPES
from safetensors import SafetensorError, safe_open

from dataset_mod.prepared import verify_prepared
from dataset_mod.schema import STICKERS

CARD = "README.md"
_CARDS = {"model": ModelCard, "dataset": DatasetCard, "space": SpaceCard}
_WEIGHTS = "model.safetensors"
_WEIGHTS_INDEX = "model.safetensors.index.json"
_AUTO_CLASSES = ("AutoConfig", "AutoModel", "AutoProcessor")
_EMBEDDED_COMET = "{checkpoint}/comet"
# What a template, a figure that was not there, or an author leaves behind.
_UNFINISHED = re.compile(
    r"\{\{|\}\}|\{%|%\}|\[More Information Needed\]|\b(?:TODO|TBD|FIXME)\b|\b(?:nan|NaN)\b"
    r"|(?:^|[|:=(,])\s*\**(?:None|null|undefined)\**\s*(?:$|[|,;.)%])"
)
_CODE_BLOCK = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)


def problems(folder: Path, kind: str, files: Mapping[str, Path]) -> list[str]:
    """Say what is missing or wrong in the `files` (path in the repository -> file) of a folder.

    Args:
        folder: the folder, as messages name it.
        kind: "model", "dataset" or "space".
        files: what would be published.
    """
    found = list(_card_problems(folder, kind, files))
    check = {"model": _model, "dataset": _dataset, "space": _space}[kind]
    return found + list(check(folder, files))


def read_card(kind: str, files: Mapping[str, Path]) -> RepoCard | None:
    """Read the card of the folder; None where there is none or its YAML cannot be read."""
    if CARD not in files:
        return None
    try:
        return _CARDS[kind].load(files[CARD])
    except ValueError:
        return None


def data_patterns(card: RepoCard) -> dict[str, list[str]]:
    """Return the patterns of the files of each configuration that a dataset's card declares."""
    patterns = {}
    for config in card.data.get("configs") or []:
        given = config.get("data_files") or []
        splits = given if isinstance(given, list) else [given]
        paths = [split["path"] if isinstance(split, dict) else split for split in splits]
        patterns[str(config.get("config_name"))] = [
            path for each in paths for path in ([each] if isinstance(each, str) else each)
        ]
    return patterns


def _card_problems(folder: Path, kind: str, files: Mapping[str, Path]) -> Iterator[str]:
    if CARD not in files:
        yield f"{folder}: has no {CARD}"
        return
    path = folder / CARD
    text = files[CARD].read_text(encoding="utf-8")
    try:
        card = _CARDS[kind](text)
    except ValueError as error:
        yield f"{path}: its YAML cannot be read ({error})"
        return
    if not text.startswith("---"):
        yield f"{path}: does not begin with a block of YAML"
    without_code = _CODE_BLOCK.sub(lambda code: "\n" * code[0].count("\n"), text)
    for number, line in enumerate(without_code.splitlines(), 1):
        if left := _UNFINISHED.search(line):
            shown = left[0].strip(" |:=(,;")
            yield f"{path}:{number}: {shown!r} stands where a text or a figure should"
    if kind != "space" and not card.data.get("license"):
        yield f"{path}: its YAML names no `license`"
    if kind == "model":
        results = card.data.get("eval_results") or []
        if not results and not any(fnmatch(name, ".eval_results/*.y*ml") for name in files):
            yield f"{path}: tells no result (`model-index`)"
        for result in results:
            value = result.metric_value
            if type(value) not in (int, float) or not math.isfinite(value):
                yield f"{path}: {result.metric_type} of its `model-index` is {value!r}, no figure"


def _model(folder: Path, files: Mapping[str, Path]) -> Iterator[str]:
    config = _read_json(folder, files, "config.json")
    processor = _read_json(folder, files, "processor_config.json")
    for found in (config, processor):
        if isinstance(found, str):
            yield found
    yield from _weights(folder, files, "")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        for place in ("", "bert_tokenizer/"):
            if place + name not in files:
                yield f"{folder}: has no {place}{name}"
    if isinstance(config, dict):
        yield from _code(folder, files, config)
    comet = processor.get("comet") if isinstance(processor, dict) else None
    if comet == _EMBEDDED_COMET:
        found = _read_json(folder, files, "comet/config.json")
        if isinstance(found, str):
            yield found
        yield from _weights(folder, files, "comet/")
    elif comet and (Path(comet).is_absolute() or comet.startswith(".")):
        yield f"{folder / 'processor_config.json'}: its `comet` is a path of this machine ({comet})"


def _weights(folder: Path, files: Mapping[str, Path], place: str) -> Iterator[str]:
    names = [place + _WEIGHTS]
    if place + _WEIGHTS not in files:
        if place + _WEIGHTS_INDEX not in files:
            yield f"{folder}: has no {place}{_WEIGHTS}"
            return
        index = _read_json(folder, files, place + _WEIGHTS_INDEX)
        if isinstance(index, str):
            yield index
            return
        names = sorted({place + name for name in index.get("weight_map", {}).values()})
    for name in names:
        if name not in files:
            yield f"{folder}: has no {name}, which {place}{_WEIGHTS_INDEX} names"
            continue
        try:
            with safe_open(files[name], framework="numpy"):
                pass
        except (SafetensorError, OSError) as error:
            yield f"{folder / name}: is damaged or cut off ({error})"


def _code(folder: Path, files: Mapping[str, Path], config: dict) -> Iterator[str]:
    """Look for the code that those without the package load, and all that it imports."""
    from transformers.dynamic_module_utils import get_relative_import_files

    named = dict(config.get("auto_map") or {})
    for missing in (name for name in _AUTO_CLASSES if name not in named):
        yield f"{folder / 'config.json'}: its `auto_map` names no {missing}"
    for task, pipeline in (config.get("custom_pipelines") or {}).items():
        named[task] = pipeline.get("impl", "")
    if not config.get("custom_pipelines"):
        yield f"{folder / 'config.json'}: names no pipeline (`custom_pipelines`)"
    told = set()
    for name, reference in named.items():
        module, _, kind = str(reference).partition(".")
        path = f"{module}.py"
        if path not in files:
            yield f"{folder}: has no {path}, the code of {name}"
            continue
        if not re.search(rf"^class {re.escape(kind)}\b", files[path].read_text("utf-8"), re.M):
            yield f"{folder / path}: has no class {kind}, the code of {name}"
        try:
            get_relative_import_files(files[path])
        except FileNotFoundError as error:
            if error.filename not in told:
                told.add(error.filename)
                yield f"{folder}: has no {Path(error.filename).name}, which {path} needs"


def _dataset(folder: Path, files: Mapping[str, Path]) -> Iterator[str]:
    try:
        statistics = verify_prepared(folder)
    except ValueError as error:
        yield str(error)
        return
    card = read_card("dataset", files)
    if card is None:
        return
    patterns = data_patterns(card)
    tables = [name for name in files if name.endswith(".parquet")]
    for config in (*statistics["languages"], STICKERS):
        if config not in patterns:
            yield f"{folder / CARD}: its `configs` do not name {config!r}"
    for config, wanted in patterns.items():
        for pattern in wanted:
            if not any(fnmatch(name, pattern) for name in tables):
                yield f"{folder}: has no file {pattern}, which {CARD} names for {config!r}"
    every = [pattern for wanted in patterns.values() for pattern in wanted]
    for name in tables:
        if name not in statistics["files"]:
            yield f"{folder / name}: is none of the tables that statistics.json lists"
        elif not any(fnmatch(name, pattern) for pattern in every):
            yield f"{folder / CARD}: its `configs` leave out {name}"
    infos = card.data.get("dataset_info") or []
    for info in infos if isinstance(infos, list) else [infos]:
        config = info.get("config_name", "default")
        for split in info.get("splits", []):
            pattern = f"data/{config}/{split['name']}-*.parquet"
            found = [files[name] for name in tables if fnmatch(name, pattern)]
            rows = sum(pq.read_metadata(path).num_rows for path in found)
            if found and rows != split["num_examples"]:
                yield (
                    f"{folder / CARD}: counts {split['num_examples']} rows in {split['name']} of "
                    f"{config!r}, where there are {rows}"
                )


def _space(folder: Path, files: Mapping[str, Path]) -> Iterator[str]:
    if "requirements.txt" not in files:
        yield f"{folder}: has no requirements.txt"
    card = read_card("space", files)
    if card is None:
        return
    if card.data.get("sdk") not in SPACES_SDK_TYPES:
        known = ", ".join(SPACES_SDK_TYPES)
        yield f"{folder / CARD}: its `sdk` is {card.data.get('sdk')!r}, none of {known}"
    if card.data.get("sdk") == "gradio" and not card.data.get("sdk_version"):
        yield f"{folder / CARD}: names no `sdk_version`"
    name = card.data.get("app_file")
    if not name:
        yield f"{folder / CARD}: names no `app_file`"
    elif name not in files:
        yield f"{folder}: has no {name}, its `app_file`"
    elif name.endswith(".py"):
        try:
            ast.parse(files[name].read_text(encoding="utf-8"))
        except SyntaxError as error:
            yield f"{folder / name}:{error.lineno}: {error.msg}"


def _read_json(folder: Path, files: Mapping[str, Path], name: str) -> dict | str:
    """Return an object of JSON, or what is wrong with it."""
    if name not in files:
        return f"{folder}: has no {name}"
    try:
        value = json.loads(files[name].read_text(encoding="utf-8"))
    except ValueError as error:
        return f"{folder / name}: not valid JSON ({error})"
    return value if isinstance(value, dict) else f"{folder / name}: holds no JSON object"

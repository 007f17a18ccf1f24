# SPDX-License-Identifier: Apache-2.0
"""Publish a folder on the Hub: a model, prepared data or a Space, whole or not at all.

Without --yes nothing is written: it is looked at, compared with the repository, and listed. The
token is that of `hf auth login` or of HF_TOKEN.
"""

from __future__ import annotations

import argparse
import os
import re
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path

import _cli
from _complete import data_patterns, problems, read_card
from datasets.utils.py_utils import convert_file_size_to_int
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token
from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils.sha import git_hash, sha_fileobj

from dataset_mod.prepared import read_statistics, reshard

_TERMS = "--i-know-the-terms"
_SHOWN_HIDDEN = (".gitattributes", ".eval_results")
_SECRET = "may hold a secret"
# The first pattern that fits a file's or folder's name says why it stays here.
_HELD = {
    ".env*": _SECRET,
    "*.pem": _SECRET,
    "*.key": _SECRET,
    "*.p12": _SECRET,
    "id_rsa*": _SECRET,
    "id_ed25519*": _SECRET,
    "token": _SECRET,
    "stored_tokens": _SECRET,
    ".netrc": _SECRET,
    "__pycache__": "compiled code",
    "*.pyc": "compiled code",
    "checkpoints": "checkpoints of training",
    "checkpoint-*": "checkpoints of training",
    "optimizer.*": "state of training",
    "scheduler.pt": "state of training",
    "scaler.pt": "state of training",
    "rng_state*": "state of training",
    "trainer_state.json": "state of training",
    "training_args.bin": "state of training",
    "ocr.json": "a cache of texts read",
    "knowledge": "a cache of COMET's features",
    "runs": "training runs",
    "logs": "logs",
    "*.log": "logs",
    "events.out.tfevents*": "logs",
}
_TOKEN = re.compile(rb"\bhf_[A-Za-z0-9]{30,}|-----BEGIN [A-Z ]*PRIVATE KEY-----")
# Weights of another number of shards would be loaded in the place of the new ones.
_MODEL_WEIGHTS = ("model.safetensors", "model-*.safetensors", "model.safetensors.index.json")


@dataclass
class Plan:
    """What publishing would do to a repository.

    Attributes:
        changed: path in the repository -> "new" or "replaced".
        unchanged, removed, left: paths; those left are in the repository alone and stay.
        parent: the commit that was compared with; None where there is no repository yet.
        new_branch: whether the branch has to be made.
    """

    changed: dict[str, str] = field(default_factory=dict)
    unchanged: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    parent: str | None = None
    new_branch: bool = False


def main(argv: list[str] | None = None) -> int:
    """Look, compare, list, and publish when told so."""
    options = _parse(argv)
    folder, kind = options.folder, options.type
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder")
    files, held = gather(folder)
    _refuse_secrets(folder, files)
    if found := problems(folder, kind, files):
        raise ValueError("not to be published yet: " + "; ".join(found))
    if kind == "dataset":
        _ask_for_terms(folder, options.accepted)
    with tempfile.TemporaryDirectory() as staging:
        if kind == "dataset":
            tables = reshard(folder, staging, options.shard_size)
            files = {name: files[name] for name in files if not name.endswith(".parquet")}
            files = dict(sorted((files | tables).items()))
        api = HfApi()
        plan = compare(api, options, files)
        _tell(options, files, held, plan)
        if not options.yes:
            print("nothing was written; --yes publishes it")
            return 0
        if not plan.changed and not plan.removed and not plan.new_branch:
            print("the repository holds all of it already; nothing was written")
            return 0
        commit = upload(api, options, files, plan)
    counted = Counter(plan.changed.values())
    print(
        f"published: {counted['new']} files new, {counted['replaced']} replaced, "
        f"{len(plan.removed)} removed, {len(plan.unchanged)} unchanged; commit {commit}"
    )
    print(_address(api, options))
    return 0


def gather(folder: Path) -> tuple[dict[str, Path], dict[str, str]]:
    """Return what would be published (path in the repository -> file), and what is held back.

    Of a folder that is held back only its own name is listed, with a slash, and the reason.
    """
    files, held = {}, {}
    for place, folders, names in os.walk(folder):
        for name in sorted(folders):
            path = Path(place, name)
            reason = "a link to a folder" if path.is_symlink() else _held_back(name)
            if reason:
                held[path.relative_to(folder).as_posix() + "/"] = reason
                folders.remove(name)
        for name in sorted(names):
            path = Path(place, name)
            if reason := _held_back(name):
                held[path.relative_to(folder).as_posix()] = reason
            else:
                files[path.relative_to(folder).as_posix()] = path
    return dict(sorted(files.items())), dict(sorted(held.items()))


def compare(api: HfApi, options: argparse.Namespace, files: Mapping[str, Path]) -> Plan:
    """Compare the files with those of the repository, by their content.

    Raises:
        ValueError: the repository is public where a private one is wanted.
        OSError: the Hub cannot be asked.
    """
    plan = Plan()
    where = {"repo_id": options.repo, "repo_type": options.type}
    try:
        try:
            info = api.repo_info(**where, revision=options.revision)
        except RevisionNotFoundError:
            # A new branch begins where the main one stands.
            info = api.repo_info(**where)
            plan.new_branch = True
        there = {
            entry.path: entry
            for entry in api.list_repo_tree(**where, recursive=True, revision=info.sha)
            if isinstance(entry, RepoFile)
        }
    except RepositoryNotFoundError:
        plan.changed = dict.fromkeys(files, "new")
        plan.new_branch = options.revision != "main"
        return plan
    except Exception as error:
        raise OSError(f"{options.repo}: the Hub cannot be asked ({error})") from error
    if options.private and not info.private:
        raise ValueError(
            f"{options.repo} is public and --private would not change that; make it private in "
            "its settings first"
        )
    plan.parent = info.sha
    for path, file in files.items():
        if path not in there:
            plan.changed[path] = "new"
        elif _same(file, there[path]):
            plan.unchanged.append(path)
        else:
            plan.changed[path] = "replaced"
    stale = _stale_patterns(options.type, files)
    for path in there:
        if path not in files and path != ".gitattributes":
            is_stale = any(fnmatch(path, pattern) for pattern in stale)
            (plan.removed if is_stale else plan.left).append(path)
    return plan


def upload(api: HfApi, options: argparse.Namespace, files: Mapping[str, Path], plan: Plan) -> str:
    """Make the repository where needed, and write everything in one commit; return it.

    Large files are sent first, outside the repository, and are not sent again by another try.

    Raises:
        ValueError: nobody is logged in.
        OSError: it failed, and the repository is as it was.
    """
    if get_token() is None:
        raise ValueError("no token: log in with `hf auth login`, or set HF_TOKEN")
    where = {"repo_id": options.repo, "repo_type": options.type}
    operations: list = [
        CommitOperationAdd(path_in_repo=path, path_or_fileobj=files[path]) for path in plan.changed
    ]
    operations += [CommitOperationDelete(path_in_repo=path) for path in plan.removed]
    made = False
    try:
        if plan.parent is None:
            sdk = read_card("space", files).data.sdk if options.type == "space" else None
            private = True if options.private else None
            api.create_repo(**where, private=private, space_sdk=sdk)
            made = True
        if plan.new_branch:
            api.create_branch(**where, branch=options.revision, revision=plan.parent)
        return api.create_commit(
            **where,
            operations=operations,
            commit_message=options.commit_message or f"Upload {options.type}",
            revision=options.revision,
            parent_commit=plan.parent,
        ).oid
    # The library raises errors of many kinds, those of three other packages among them.
    except Exception as error:
        state = "is new and empty" if made else "is as it was"
        raise OSError(
            f"{options.repo}: not published, the repository {state}; the same command tries again "
            f"without sending large files twice ({error})"
        ) from error


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="what to publish")
    parser.add_argument("repo", metavar="REPO_ID", help="where, as owner/name")
    parser.add_argument("--type", choices=("model", "dataset", "space"), required=True)
    parser.add_argument("--revision", default="main", help="branch, made if it is not there")
    parser.add_argument("--private", action="store_true", help="make a private repository")
    parser.add_argument("--commit-message")
    parser.add_argument(
        "--shard-size",
        type=_size,
        default="500MB",
        help="split Parquet files that are larger (default: %(default)s)",
    )
    parser.add_argument(
        _TERMS,
        dest="accepted",
        action="store_true",
        help="needed for all data but MOD-mini: you know the terms of what it was made from, and "
        "they let you publish it so (those of MOD allow research only)",
    )
    parser.add_argument("--yes", action="store_true", help="publish, instead of only listing")
    return parser.parse_args(argv)


def _size(text: str) -> int:
    try:
        return convert_file_size_to_int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no size such as 500MB") from None


def _held_back(name: str) -> str | None:
    for pattern, reason in _HELD.items():
        if fnmatch(name, pattern):
            return reason
    return "hidden" if name.startswith(".") and name not in _SHOWN_HIDDEN else None


def _refuse_secrets(folder: Path, files: Mapping[str, Path]) -> None:
    for name, path in files.items():
        with path.open("rb") as file:
            if b"\0" in file.read(8192):
                continue
            file.seek(0)
            for number, line in enumerate(file, 1):
                if _TOKEN.search(line):
                    # The secret itself is not shown.
                    raise ValueError(
                        f"{folder / name}:{number}: holds an access token or a private key; take "
                        "it out, and revoke it if others may have seen it"
                    )


def _ask_for_terms(folder: Path, accepted: bool) -> None:
    statistics = read_statistics(folder)
    if statistics.get("generator") is None and not accepted:
        raise ValueError(
            f"{folder}: was not made from MOD-mini; the terms of what it was made from may limit "
            f"who may pass it on (MOD is for research only), so publish it with {_TERMS}"
        )


def _stale_patterns(kind: str, files: Mapping[str, Path]) -> list[str]:
    """Return patterns of files that would be loaded beside or instead of the new ones."""
    if kind == "model":
        return list(_MODEL_WEIGHTS)
    if kind == "dataset":
        patterns = data_patterns(read_card(kind, files))
        return [pattern for wanted in patterns.values() for pattern in wanted]
    return []


def _same(file: Path, entry: RepoFile) -> bool:
    if file.stat().st_size != entry.size:
        return False
    if entry.lfs is None:
        return git_hash(file.read_bytes()) == entry.blob_id
    with file.open("rb") as content:
        return sha_fileobj(content).hex() == entry.lfs.sha256


def _tell(
    options: argparse.Namespace,
    files: Mapping[str, Path],
    held: Mapping[str, str],
    plan: Plan,
) -> None:
    """List each file with its size and what becomes of it."""
    state = "" if plan.parent else f" (to be made, {'private' if options.private else 'public'})"
    branch = f"{options.revision}{' (to be made)' if plan.new_branch else ''}"
    print(f"{options.folder} -> {options.type} {options.repo}{state}, branch {branch}")
    if options.type != "space":
        print(f"licence: {read_card(options.type, files).data.license}")
    for path, file in files.items():
        print(f"  {plan.changed.get(path, 'unchanged'):<10}{file.stat().st_size:>14,}  {path}")
    for path in plan.removed:
        print(f"  {'removed':<10}{'':>14}  {path} (it would be loaded beside the new files)")
    for path in plan.left:
        print(f"  {'stays':<10}{'':>14}  {path} (in the repository alone)")
    for path, reason in held.items():
        print(f"  {'held back':<10}{'':>14}  {path} ({reason})")
    size = sum(files[path].stat().st_size for path in plan.changed)
    print(f"{len(plan.changed)} of {len(files)} files to send, {size:,} bytes")


def _address(api: HfApi, options: argparse.Namespace) -> str:
    start = "" if options.type == "model" else f"{options.type}s/"
    end = "" if options.revision == "main" else f"/tree/{options.revision}"
    return f"{api.endpoint}/{start}{options.repo}{end}"


if __name__ == "__main__":
    _cli.run_main(main)

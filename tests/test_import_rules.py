# SPDX-License-Identifier: Apache-2.0
"""Who may import whom, read from the sources without importing them.

Each rule returns its offences as "file:line: what"; each is also broken on a copy of the tree, so
that an empty list means that nothing was found and not that nothing was looked at.
"""

import ast
import re
import shutil
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("modeling_cks", "dataset_mod", "hub_cards")
FOLDERS = (*PACKAGES, "scripts", "tests", "docs", ".ci")
TEXT_SUFFIXES = {".py", ".md", ".toml", ".txt", ".yaml", ".yml", ".j2", ".html", ".json", ".cfg"}

# The files that travel inside every checkpoint, by the roots that its auto_map names.
TRAVELLING_ROOTS = ("configuration_cks", "modeling_cks", "processing_cks", "pipeline_cks")
TRAVELLING = {
    *TRAVELLING_ROOTS,
    "utterance_extractor",
    "visual_extractor",
    "multimodal_encoder",
    "losses",
    "knowledge",
    "ocr",
    "sticker_image",
    "sticker_pack",
    "conversation",
    "cpu_inference",
    "utterance_features",
    "ranking",
}
TRAVELLING_NEEDS = {"torch", "transformers", "numpy", "PIL", "huggingface_hub"}


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


@cache
def parsed(text: str) -> ast.Module:
    return ast.parse(text)


def sources(root: Path, folder: str) -> list[Path]:
    return sorted((root / folder).rglob("*.py"))


def texts(root: Path) -> list[Path]:
    """Return the repository's own text files; not .venv, nor what runs leave behind."""
    found = [path for path in root.iterdir() if path.is_file()]
    for folder in FOLDERS:
        found += [path for path in (root / folder).rglob("*") if path.is_file()]
    return sorted(
        path
        for path in found
        if path.suffix in TEXT_SUFFIXES or path.name in ("Makefile", "run", ".gitignore")
    )


def statements(tree: ast.AST) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    """Yield each import and whether it runs unguarded when the module is imported."""

    def walk(node: ast.AST, guarded: bool) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import | ast.ImportFrom):
                yield child, not guarded
            else:
                inside = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Try)
                yield from walk(child, guarded or isinstance(child, inside))

    yield from walk(tree, False)


def imported(root: Path, path: Path) -> list[tuple[int, str, bool]]:
    """Return (line, absolute dotted name, unguarded) of each thing that a file imports."""
    package = list(path.relative_to(root).parts[:-1])
    found = []
    for node, unguarded in statements(parsed(read(path))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            base = package[: len(package) - node.level + 1] if node.level else []
            base = [*base, *(node.module or "").split(".")] if node.module else base
            names = [".".join([*base, alias.name]) for alias in node.names]
        found += [(node.lineno, name, unguarded) for name in names]
    return found


def within(name: str, modules: set[str]) -> bool:
    return any(name == module or name.startswith(f"{module}.") for module in modules)


def offence(root: Path, path: Path, line: int, what: str) -> str:
    return f"{path.relative_to(root)}:{line}: {what}"


def package_borders(root: Path) -> list[str]:
    """The data and the cards know nothing of the model; no package knows the scripts or tests."""
    forbidden = {
        "modeling_cks": {"scripts", "tests", "hub_cards"},
        "dataset_mod": {"scripts", "tests", "modeling_cks", "hub_cards"},
        "hub_cards": {"scripts", "tests", "modeling_cks", "dataset_mod"},
    }
    return [
        offence(root, path, line, f"{package} imports {name}")
        for package, modules in forbidden.items()
        for path in sources(root, package)
        # A Space is an application of its own: it runs outside the package.
        if "space" not in path.relative_to(root).parts
        for line, name, _ in imported(root, path)
        if within(name, modules)
    ]


def travelling_imports(root: Path) -> list[str]:
    """A travelling file needs nothing at import that a plain transformers has not."""
    found = []
    for name in sorted(TRAVELLING):
        path = root / "modeling_cks" / f"{name}.py"
        for node, unguarded in statements(parsed(read(path))):
            relative = isinstance(node, ast.ImportFrom) and node.level
            if relative:
                # Even inside functions and docstrings: the loader collects the files by them.
                if node.level != 1 or not node.module or node.module not in TRAVELLING:
                    shown = "." * node.level + (node.module or "")
                    found.append(offence(root, path, node.lineno, f"relative import of {shown}"))
                continue
            modules = (
                [node.module] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
            )
            for module in modules:
                top = module.partition(".")[0]
                if top in PACKAGES:
                    found.append(offence(root, path, node.lineno, f"absolute import of {module}"))
                elif unguarded and top not in TRAVELLING_NEEDS | sys.stdlib_module_names:
                    found.append(offence(root, path, node.lineno, f"{module} at import"))
    return found


def travelling_closure(root: Path) -> set[str]:
    """Return the files that a checkpoint carries: the roots and what they import relatively."""
    reached: set[str] = set()
    pending = list(TRAVELLING_ROOTS)
    while pending:
        name = pending.pop()
        if name in reached:
            continue
        reached.add(name)
        tree = parsed(read(root / "modeling_cks" / f"{name}.py"))
        pending += [
            node.module
            for node, _ in statements(tree)
            if isinstance(node, ast.ImportFrom) and node.level == 1 and node.module
        ]
    return reached


def relative_import_texts(root: Path) -> list[str]:
    """The loader finds relative imports by pattern, in docstrings and comments too."""
    found = []
    for name in sorted(TRAVELLING):
        path = root / "modeling_cks" / f"{name}.py"
        real = {
            node.module
            for node, _ in statements(parsed(read(path)))
            if isinstance(node, ast.ImportFrom) and node.level == 1
        }
        for number, line in enumerate(read(path).splitlines(), 1):
            match = re.match(r"\s*(?:from|import)\s+\.(\S+)", line)
            if match and match.group(1) not in real:
                found.append(offence(root, path, number, f"text read as an import: {line.strip()}"))
    return found


def evaluation_imports(root: Path) -> list[str]:
    """Rankers are known by their protocol alone; metrics need neither torch nor transformers."""
    inside = {"modeling_cks.evaluation", "modeling_cks.ranking"}
    models = {"torch", "transformers", "open_clip"}
    return [
        offence(root, path, line, f"evaluation imports {name}")
        for path in sources(root, "modeling_cks/evaluation")
        for line, name, _ in imported(root, path)
        if within(name, models) or (within(name, {"modeling_cks"}) and not within(name, inside))
    ]


def prints(root: Path) -> list[str]:
    """The library logs; only the `main` of a module that is also a command prints."""
    found = []
    for package in PACKAGES:
        for path in sources(root, package):
            tree = parsed(read(path))
            spoken = {
                id(call)
                for node in tree.body
                if isinstance(node, ast.FunctionDef) and node.name == "main"
                for call in ast.walk(node)
            }
            found += [
                offence(root, path, node.lineno, "print")
                for node in ast.walk(tree)
                if isinstance(node, ast.Call)
                and isinstance(node.func, ast.Name)
                and node.func.id == "print"
                and id(node) not in spoken
            ]
    return found


def licence_lines(root: Path) -> list[str]:
    """Every Python file says under which licence it stands, first."""
    return [
        offence(root, path, 1, "no SPDX line")
        for path in texts(root)
        if path.suffix == ".py"
        and not read(path).startswith("# SPDX-License-Identifier: Apache-2.0\n")
    ]


def private_mentions(root: Path) -> list[str]:
    """Files speak to readers elsewhere, who have neither our folders nor our history."""
    patterns = {
        "somebody's folder": r"(?<![\w.~/-])/(?:work|home|root|Users)/\w",
        "a package index": r"--(?:extra-)?index-url|/simple/\w",
        "a number of an issue": r"\bissues?\s+#?\d+\b",
        "a working session": r"\b(?:this|previous|earlier|another|next|last) sessions?\b",
    }
    return [
        offence(root, path, number, what)
        for path in texts(root)
        if path.name != Path(__file__).name
        for number, line in enumerate(read(path).splitlines(), 1)
        for what, pattern in patterns.items()
        if re.search(pattern, line, re.IGNORECASE)
    ]


RULES = (
    package_borders,
    travelling_imports,
    relative_import_texts,
    evaluation_imports,
    prints,
    licence_lines,
    private_mentions,
)
# rule, file, line to add at its end, what the offence says
BROKEN = (
    (package_borders, "dataset_mod/schema.py", "import modeling_cks", "imports modeling_cks"),
    (
        package_borders,
        "dataset_mod/schema.py",
        "def f():\n    from modeling_cks.losses import match_loss",
        "imports modeling_cks.losses",
    ),
    (package_borders, "hub_cards/__init__.py", "from dataset_mod import schema", "dataset_mod"),
    (package_borders, "hub_cards/__init__.py", "from .. import modeling_cks", "modeling_cks"),
    (travelling_imports, "modeling_cks/ocr.py", "import rapidocr", "rapidocr at import"),
    (travelling_imports, "modeling_cks/ocr.py", "if True:\n    import tqdm", "tqdm at import"),
    (travelling_imports, "modeling_cks/losses.py", "from .backbones import build", "of .backbones"),
    (travelling_imports, "modeling_cks/losses.py", "from . import ranking", "import of ."),
    (travelling_imports, "modeling_cks/losses.py", "from .evaluation.metrics import ranks", "eval"),
    (
        travelling_imports,
        "modeling_cks/losses.py",
        "def f():\n    from modeling_cks.ranking import rank",
        "absolute import",
    ),
    (
        relative_import_texts,
        "modeling_cks/losses.py",
        '"""\nfrom .sub.mod import x\n"""',
        "read as an import",
    ),
    (
        evaluation_imports,
        "modeling_cks/evaluation/metrics.py",
        "from ..modeling_cks import CKSModel",
        "modeling_cks.modeling_cks",
    ),
    (evaluation_imports, "modeling_cks/evaluation/metrics.py", "import torch.nn", "torch"),
    (prints, "modeling_cks/ranking.py", "def f():\n    print(1)", "print"),
    (prints, "dataset_mod/sampling.py", "class A:\n    def main(self):\n        print(1)", "print"),
    (private_mentions, "scripts/_cli.py", "# as in /" + "home/ann/data", "folder"),
    (private_mentions, "pyproject.toml", "# see issue " + "#12", "issue"),
    (private_mentions, "Makefile", "# --index" + "-url", "index"),
    (private_mentions, "README.md", "As the previous " + "session found,", "session"),
)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_tree_keeps_the_rule(rule):
    assert rule(ROOT) == []


def test_the_list_of_travelling_files_is_what_a_checkpoint_carries():
    assert travelling_closure(ROOT) == TRAVELLING


@pytest.fixture(scope="module")
def pristine(tmp_path_factory) -> Path:
    """A copy of the sources, with no build outputs."""
    copy = tmp_path_factory.mktemp("tree")
    for path in texts(ROOT):
        target = copy / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    return copy


@pytest.mark.parametrize(
    ("rule", "file", "added", "says"), BROKEN, ids=lambda value: getattr(value, "__name__", None)
)
def test_a_rule_that_is_broken_is_seen(pristine, rule, file, added, says):
    path = pristine / file
    before = read(path)
    known = set(rule(pristine))
    path.write_text(f"{before}\n{added}\n", encoding="utf-8")
    try:
        (found,) = set(rule(pristine)) - known
    finally:
        path.write_text(before, encoding="utf-8")
    assert found.startswith(f"{file}:")
    assert says in found


def test_a_file_without_its_licence_line_is_seen(pristine):
    path = pristine / "scripts" / "new.py"
    path.write_text('"""A script."""\n', encoding="utf-8")
    try:
        assert "scripts/new.py:1: no SPDX line" in licence_lines(pristine)
    finally:
        path.unlink()


def test_every_package_was_looked_at():
    assert all(sources(ROOT, package) for package in PACKAGES)
    assert len(texts(ROOT)) > 40

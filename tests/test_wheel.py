# SPDX-License-Identifier: Apache-2.0
"""The package as others get it: a wheel, in an environment that knows nothing of the checkout."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest
from chat_files import write_stickers
from PIL import Image
from tiny_model import tiny_cks

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("modeling_cks", "dataset_mod", "hub_cards")


def run(*command, cwd, **environment):
    # Nothing of this process's own path may lead back to the checkout.
    own = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [str(each) for each in command], cwd=cwd, env={**own, **environment}, text=True,
        capture_output=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built of a copy so that the checkout stays as it is."""
    folder = tmp_path_factory.mktemp("wheel")
    leave = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in PACKAGES:
        shutil.copytree(ROOT / name, folder / "source" / name, ignore=leave)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / "source")
    run(sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index",
        "--wheel-dir", folder / "dist", folder / "source", cwd=folder)  # fmt: skip
    (built,) = (folder / "dist").iterdir()
    return built


def test_the_wheel_holds_every_file_of_the_packages_and_nothing_else(wheel):
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    wanted = {
        path.relative_to(ROOT).as_posix()
        for name in PACKAGES
        for path in (ROOT / name).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert held == wanted
    assert any(name.endswith(".j2") for name in held)
    assert "hub_cards/space/README.md" in held


def test_the_readmes_example_runs_where_only_the_wheel_is_installed(wheel, tmp_path):
    venv.create(tmp_path / "venv", with_pip=False, symlinks=True)
    python = tmp_path / "venv" / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index",
        "--quiet", wheel, cwd=tmp_path)  # fmt: skip
    # The dependencies are this environment's; its .pth files, which may name the checkout, are
    # not read from there.
    (site,) = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")

    work = tmp_path / "work"
    model, processor = tiny_cks(tmp_path, use_knowledge=False)
    model.save_pretrained(work / "runs" / "mini" / "model")
    processor.save_pretrained(work / "runs" / "mini" / "model")
    write_stickers(work / "my_stickers")
    for name in ("cry.png", "joy.gif"):
        Image.new("RGB", (40, 40), "teal").save(work / name)
    section = re.search(
        r"^## Use it in an application$(.*?)^## ", (ROOT / "README.md").read_text(), re.M | re.S
    )
    examples = re.findall(r"^```python\n(.*?)^```$", section[1], re.M | re.S)
    assert len(examples) >= 2 and "pipeline" in examples[0]
    seen = "print(modeling_cks.__file__)\nprint(tuple(scores.shape))\n"
    (work / "example.py").write_text("\n".join([*examples, seen]))
    told = run(python, "example.py", cwd=work, HF_HUB_OFFLINE="1").splitlines()
    assert told[-2] == str(site / "modeling_cks" / "__init__.py")
    assert told[-1] == "(1, 2)"
    # The first example prints the three best of the pack and the emotion.
    assert sum(name in told[0] for name in os.listdir(work / "my_stickers")) == 3
    assert "--rho" in run(python, "-m", "dataset_mod.synthetic", "--help", cwd=work)

# SPDX-License-Identifier: Apache-2.0
"""What the comparisons of benchmark.py share: taking turns, stage times, counted work."""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

Run = Callable[[int], Mapping[str, float]]
"""Does the work once more, given the number of the repeat; answers with the seconds by stage."""


class Clock:
    """Seconds from one stage's end to the next one's; `wait` is called before each reading."""

    def __init__(self, wait: Callable[[], object] | None = None):
        self.stages: dict[str, float] = {}
        self._wait = wait
        self._last = time.perf_counter()

    def stage(self, name: str) -> None:
        """End a stage; stages of one name add up."""
        if self._wait is not None:
            self._wait()
        now = time.perf_counter()
        self.stages[name] = self.stages.get(name, 0.0) + now - self._last
        self._last = now


def alternate(contestants: Mapping[str, Run], repeats: int) -> dict[str, dict]:
    """Run each contestant once unreported, then all of them in turn, repeat by repeat.

    What else the machine does at a time then falls on all of them alike.

    Returns:
        By contestant `seconds` (the median of the repeats' totals), `all_seconds`, and `stages`,
        the median of each stage.
    """
    for run in contestants.values():
        run(0)
    timings: dict[str, list[Mapping[str, float]]] = {name: [] for name in contestants}
    for number in range(1, repeats + 1):
        for name, run in contestants.items():
            timings[name].append(run(number))
    return {name: summary(taken) for name, taken in timings.items()}


def summary(taken: list[Mapping[str, float]]) -> dict:
    """Give the medians of repeats that were each timed by stage."""
    totals = [sum(one.values()) for one in taken]
    return {
        "seconds": statistics.median(totals),
        "all_seconds": totals,
        "stages": {name: statistics.median(one[name] for one in taken) for name in taken[0]},
    }


def timed(work: Callable[[int], object]) -> Run:
    """Make a contestant of one stage."""

    def run(number: int) -> dict[str, float]:
        start = time.perf_counter()
        work(number)
        return {"all": time.perf_counter() - start}

    return run


def in_processes(count: int, script: Sequence[object]) -> str:
    """Let torchrun run a script in so many processes on this machine.

    Each gets its share of the cores. They meet on the loopback interface, so that nothing depends
    on what the machine's own name resolves to.

    Returns:
        What was printed.

    Raises:
        ValueError: A process failed; with the error of the first that tells one.
    """
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(count)]
    command += ["--standalone", "--local_addr", "127.0.0.1", *map(str, script)]
    environment = dict(os.environ, OMP_NUM_THREADS=str(max(1, (os.cpu_count() or 1) // count)))
    if os.path.exists("/sys/class/net/lo"):  # what Linux calls it
        environment["GLOO_SOCKET_IFNAME"] = "lo"
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        processes = f"{count} process{'es' if count > 1 else ''} of {Path(script[0]).name}"
        raise ValueError(f"{processes} failed: {cause(done.stderr)}")
    return done.stdout


def cause(stderr: str) -> str:
    """Find the line that says why processes failed, before what torchrun adds to it."""
    said = [line.strip() for line in stderr.replace("\r", "\n").splitlines() if line.strip()]
    for pattern in (
        # A script's own line, or an exception's.
        r"(\[rank\d+\]: ?)?(\w+\.py: |([\w.]+\.)?\w*(Error|Exception|Interrupt)\b)",
        r"terminate called|what\(\)",
        r".*\b(exitcode|Signal)\b",
    ):
        for line in said:
            if re.match(pattern, line) and "ChildFailedError" not in line:
                return line
    return said[-1] if said else "it said nothing"


def flops(work: Callable[[], object]) -> float:
    """Count the floating-point operations of torch's matrix products, convolutions, attention.

    A recurrent layer's are not seen; CKS's LSTM is below one per cent of its work.
    """
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        work()
    return float(counter.get_total_flops())


def share(gflop: float | None, seconds: float, ceilings: dict | None, precision: str = "fp32"):
    """Say what per cent of a precision's ceiling is reached; None where it was not measured."""
    peak = (ceilings or {}).get(f"{precision}_gflops")
    return None if peak is None or gflop is None else 100 * gflop / seconds / peak


def slope(sizes: list[float], seconds: list[float]) -> float:
    """Fit seconds = c * size ** slope: 1 is linear."""
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])


def lines(titles: list[str], rows: list[list[object]]) -> str:
    """Lay a table out for the terminal: the first column to the left, numbers to the right."""
    cells = [titles, *([shown(each) for each in row] for row in rows)]
    widths = [max(len(row[place]) for row in cells) for place in range(len(titles))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if place == 0 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    )


def markdown(titles: list[str], rows: list[list[object]]) -> str:
    """Lay a table out in Markdown."""
    return "\n".join(
        "| " + " | ".join(each) + " |"
        for each in [
            titles,
            ["---"] * len(titles),
            *([shown(each).replace("|", "/") for each in row] for row in rows),
        ]
    )


def shown(value: object) -> str:
    """Write a number with three or four digits that mean something."""
    if value is None:
        return "-"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if not isinstance(value, float):
        return str(value)
    if value != 0 and abs(value) < 0.001:
        return f"{value:.1e}"
    digits = 3 if abs(value) < 10 else 2 if abs(value) < 100 else 1 if abs(value) < 1000 else 0
    return f"{value:,.{digits}f}"

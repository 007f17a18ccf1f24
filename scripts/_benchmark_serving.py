# SPDX-License-Identifier: Apache-2.0
"""The server under load: clients with a chat each, on loopback, batching and one at a time."""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
from _benchmark import lines, markdown, share
from _cli import ROOT, peak_memory_mib

TITLE = "Serving"
_TOKENS = 96
# By name: its options, how many it judges, and of which precision its ceiling is.
_SERVERS = {
    "batching": (["--packed", "float32"], None, "fp32"),
    "one at a time": (["--packed", "float32", "--max-batch", "1"], None, "fp32"),
    "batching, bfloat16, best 5 judged (shortcuts)": (
        ["--packed", "bfloat16", "--match-best", "5"], 5, "bf16",
    ),
}  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the clients and their requests."""
    parser.add_argument(
        "--serving-clients", type=int, nargs="+", default=[1, 4, 16], help="default: 1 4 16"
    )
    parser.add_argument(
        "--serving-requests",
        type=int,
        default=32,
        help="requests of all clients together, for each number of clients (default: 32)",
    )
    parser.add_argument(
        "--serving-stickers", type=int, default=11, help="stickers to choose from (default: 11)"
    )


def measure(args: argparse.Namespace) -> dict:
    """Start the servers, and let clients ask each of them in turn."""
    rows = []
    for size in args.sizes:
        with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
            work = _save(size, args, Path(folder))
            ports = {
                name: stack.enter_context(_server(Path(folder), options))
                for name, (options, _, _) in _SERVERS.items()
            }
            for port in ports.values():
                _load(port, 1, 2, "warm")
            for clients in args.serving_clients:
                count = max(args.serving_requests, 3 * clients)
                for name, port in ports.items():
                    seconds, latencies = _load(port, clients, count, f"{name} {clients}")
                    rows.append(
                        {
                            "size": size,
                            "server": name,
                            "clients": clients,
                            "requests": len(latencies),
                            "p50_ms": 1000 * float(np.percentile(latencies, 50)),
                            "p95_ms": 1000 * float(np.percentile(latencies, 95)),
                            "requests_per_second": len(latencies) / seconds,
                            "gflop": work[_SERVERS[name][1]],
                        }
                    )
    return {
        "rows": rows,
        "stickers": args.serving_stickers,
        "peak_memory_mib": peak_memory_mib(),
    }


def _save(size: str, args: argparse.Namespace, folder: Path) -> dict[int | None, float]:
    """Write a model with its COMET, and stickers, as a user has them; count a turn's GFLOP."""
    from _benchmark_models import TURNS, build_cks, dialogue, sticker_images, turn_flops
    from transformers import pipeline

    model, processor, _ = build_cks(
        size, seed=args.seed, comet=True, max_utterances=TURNS, max_dialogue_tokens=_TOKENS
    )
    images = sticker_images(args.serving_stickers, args.seed)
    select = pipeline("sticker-selection", model=model, processor=processor)
    pack = select.load_stickers({f"{number}.png": image for number, image in enumerate(images)})
    turns = [dialogue(_TOKENS, f"counted {number}") for number in range(4)]
    work = {
        None: turn_flops(select, pack, turns[0], turns[1]) / 1e9,
        5: turn_flops(select, pack, turns[2], turns[3], match_best=5) / 1e9,
    }
    comet = processor.knowledge_extractor
    comet.model.save_pretrained(folder / "comet")
    comet.tokenizer.save_pretrained(folder / "comet")
    processor.knowledge_extractor = None
    processor.comet = str(folder / "comet")
    model.save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")
    (folder / "stickers").mkdir()
    for number, image in enumerate(images):
        image.save(folder / "stickers" / f"{number}.png")
    return work


@contextmanager
def _server(folder: Path, options: list[str]):
    """Start scripts/serve.py in a process of its own and give its port."""
    command = [sys.executable, str(ROOT / "scripts" / "serve.py"), str(folder / "model")]
    command += ["--stickers", str(folder / "stickers"), "--port", "0", *options]
    with open(folder / "server.log", "w", encoding="utf-8") as log:
        server = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=log, text=True, env={**os.environ}
        )
        try:
            found = re.search(r"http://127\.0\.0\.1:(\d+)/", server.stdout.readline())
            if found is None:
                said = (folder / "server.log").read_text().strip().splitlines()
                raise ValueError(f"serve.py did not start: {said[-1] if said else 'no output'}")
            yield int(found[1])
        finally:
            server.terminate()
            server.wait(60)
            server.stdout.close()


def _load(port: int, clients: int, requests: int, name: str) -> tuple[float, list[float]]:
    """Let clients ask, each its next turn when the last was answered."""
    from _benchmark_models import dialogue, utterance

    latencies: list[float] = []
    problems: list[str] = []
    # A chat's first request reads all of its turns; what is timed is how it goes on.
    ready = threading.Barrier(clients + 1, timeout=900)

    def chat(client: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
        turns = [dict(turn) for turn in dialogue(_TOKENS, f"{name} {client}")]
        connection.connect()
        # As browsers and libraries do; otherwise the kernel holds a request's end back for 40 ms.
        connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def ask() -> float:
            start = time.perf_counter()
            connection.request("POST", "/select", json.dumps({"dialogue": turns, "top_k": 3}))
            answer = connection.getresponse()
            body = answer.read()
            if answer.status != 200:
                problems.append(body.decode(errors="replace")[:200])
            return time.perf_counter() - start

        try:
            ask()
            ready.wait()
            for number in range(requests // clients):
                words = utterance(_TOKENS // len(turns), f"{name} {client} {number}")
                turns = [*turns[1:], {"speaker": 1 - turns[-1]["speaker"], "text": words}]
                latencies.append(ask())
        except (OSError, http.client.HTTPException, threading.BrokenBarrierError) as error:
            problems.append(f"client {client}: {error!r}")
            ready.abort()
        finally:
            connection.close()

    threads = [threading.Thread(target=chat, args=(client,)) for client in range(clients)]
    for thread in threads:
        thread.start()
    with contextlib.suppress(threading.BrokenBarrierError):  # the problems say why
        ready.wait()
    start = time.perf_counter()
    for thread in threads:
        thread.join()
    if problems or len(latencies) != requests // clients * clients:
        raise ValueError(f"serving {name}: {(problems or ['answers are missing'])[0]}")
    return time.perf_counter() - start, latencies


def _cells(result: dict) -> tuple[list[str], list[list[object]]]:
    titles = ["server", "size", "clients", "requests", "p50, ms", "p95, ms", "requests/s",
              "GFLOP a request", "% of the ceiling"]  # fmt: skip
    return titles, [
        [row["server"], row["size"], row["clients"], row["requests"], row["p50_ms"],
         row["p95_ms"], row["requests_per_second"], row["gflop"],
         share(row["gflop"], 1 / row["requests_per_second"], result.get("ceilings"),
               _SERVERS[row["server"]][2])
         if row["size"] == "full" else None]
        for row in result["rows"]
    ]  # fmt: skip


def table(result: dict) -> str:
    """Lay out for the terminal."""
    return lines(*_cells(result))


def page(result: dict, folder) -> str:
    """Render the section."""
    return (
        f"`scripts/serve.py` in a process of its own, {result['stickers']} stickers; each client "
        "holds a chat and sends its next turn, new to every memory, as soon as the last was "
        "answered; clients share the cores with the server. COMET's knowledge is part of it. "
        "A chat's first request, which reads all of its six turns, is not counted. One request "
        "keeps all cores busy, so that more clients than one wait for each other.\n\n"
        f"{markdown(*_cells(result))}"
    )

# SPDX-License-Identifier: Apache-2.0
"""Serve a model and its stickers over HTTP; chats that ask at once are answered together.

python scripts/serve.py MODEL --stickers my_stickers/ --port 8000
curl http://127.0.0.1:8000/select -d '{"dialogue": ["I lost my keys.", "Oh no!"], "top_k": 3}'
"""

from __future__ import annotations

import argparse
import socket
from pathlib import Path

from _cli import run_main


def main(argv: list[str] | None = None) -> int:
    """Load, listen, answer until told to stop."""
    args = _parse(argv)
    try:
        import uvicorn
    except ImportError as error:
        raise ValueError("serving needs starlette and uvicorn: pip install cks[serve]") from error
    import torch
    from transformers import pipeline

    import modeling_cks  # noqa: F401 (registers the pipeline)
    from modeling_cks.serving import Batcher, create_app
    from modeling_cks.sticker_index import StickerIndex

    if not args.model.is_dir():
        raise ValueError(f"{args.model}: there is no model; train one with train.py")
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    select = pipeline("sticker-selection", model=str(args.model), device=args.device)
    if args.no_ocr:
        select.processor.ocr = "none"
    if args.packed is None:
        whole = select.device.type == "cpu" and select.model.dtype == torch.float32
        args.packed = "float32" if whole else "none"
    if args.packed != "none":
        select.pack_linear_maps(args.packed)
    if (args.stickers / "manifest.json").is_file():
        stickers = StickerIndex.open(args.stickers)
        stickers.check_model(select.model)
    else:
        stickers = select.load_stickers(args.stickers)
    batcher = Batcher(
        select,
        stickers,
        max_batch=args.max_batch,
        max_waiting=args.max_waiting,
        knowledge=args.knowledge,
        match_best=args.match_best,
        candidates=args.candidates,
    )
    # Bound here, so that the port that was free is told before anybody asks.
    with socket.create_server((args.host, args.port)) as listener:
        # An answer's end is not held back until the client has acknowledged its beginning: 40 ms.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        host, port = listener.getsockname()[:2]
        print(f"{len(stickers)} stickers on http://{host}:{port}/select", flush=True)
        # A client that keeps its connection may pause: while it does, nothing is closed under it.
        config = uvicorn.Config(create_app(batcher), log_level="warning", timeout_keep_alive=75)
        uvicorn.Server(config).run(sockets=[listener])
    return 0


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, help="folder of a trained model")
    parser.add_argument(
        "--stickers",
        type=Path,
        required=True,
        help="folder of stickers, or an index that build_index.py made",
    )
    parser.add_argument("--host", default="127.0.0.1", help="default: %(default)s, this machine")
    parser.add_argument("--port", type=int, default=8000, help="0: any (default: %(default)s)")
    parser.add_argument("--device", default="cpu", help="where the model runs (default: cpu)")
    parser.add_argument("--threads", type=int, help="of torch (default: its own choice)")
    parser.add_argument(
        "--max-batch",
        type=int,
        default=16,
        help="dialogues ranked together (default: %(default)s)",
    )
    parser.add_argument(
        "--max-waiting",
        type=int,
        default=256,
        help="requests that may wait; more are refused (default: %(default)s)",
    )
    parser.add_argument(
        "--no-knowledge",
        dest="knowledge",
        action="store_false",
        help="leave COMET out, at some loss of quality",
    )
    parser.add_argument("--no-ocr", action="store_true", help="read no words off the stickers")
    parser.add_argument(
        "--candidates",
        type=int,
        default=100,
        help="stickers of an index that are ranked (default: %(default)s)",
    )
    parser.add_argument(
        "--packed",
        choices=("none", "float32", "bfloat16", "int8"),
        help="lay the linear maps out for this processor: exact in float32, and a shortcut that "
        "is not in the others (default: float32 on a CPU)",
    )
    parser.add_argument(
        "--match-best",
        type=int,
        help="a shortcut that is not exact: judge only so many stickers, the best by contrast",
    )
    args = parser.parse_args(argv)
    for name in ("threads", "candidates", "match_best", "max_batch", "max_waiting"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise ValueError(f"--{name.replace('_', '-')} must be at least 1, not {value}")
    return args


if __name__ == "__main__":
    run_main(main)

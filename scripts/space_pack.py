# SPDX-License-Identifier: Apache-2.0
"""Draw the sticker pack of the Space: MOD-mini's faces, CC0, into hub_cards/space/pack."""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

import _cli

SIZE = 128
PACK = _cli.ROOT / "hub_cards" / "space" / "pack"
INDEX = "pack.json"
EXTRA = ("laugh-neon", "bawl-neon", "scowl-neon")


def main(argv: list[str] | None = None) -> int:
    """Draw the pack and its index."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=PACK, help="folder (default: %(default)s)")
    args = parser.parse_args(argv)
    print(f"{draw_pack(args.output)} stickers are in {args.output}")
    return 0


def draw_pack(folder: Path) -> int:
    """Draw every face once, the seen styles in turn, and three in a style unknown to training."""
    from dataset_mod.synthetic_drawing import encode_sticker
    from dataset_mod.synthetic_faces import draw_sticker
    from dataset_mod.synthetic_text import EMOTIONS
    from dataset_mod.synthetic_world import SEEN_STYLES, UNSEEN_STYLES, sticker_inventory

    drawings = {
        f"{one.face}-{one.style}": one for one in sticker_inventory(0, SEEN_STYLES, UNSEEN_STYLES)
    }
    faces = {emotion: [] for emotion in EMOTIONS}
    for one in drawings.values():
        if one.face not in faces[one.emotion]:
            faces[one.emotion].append(one.face)
    names = []
    for number, of_emotion in enumerate(faces.values()):
        styles = itertools.islice(itertools.cycle(SEEN_STYLES), number, None)
        names += map("-".join, zip(sorted(of_emotion), styles, strict=False))
    names += EXTRA
    folder.mkdir(parents=True, exist_ok=True)
    index = []
    for name in names:
        one = drawings[name]
        image = draw_sticker(one.face, one.style, one.caption, SIZE)
        (folder / f"{name}.png").write_bytes(encode_sticker(image, "png"))
        index.append(
            {"file": f"{name}.png", "caption": one.caption, "alt": f"{one.face}: {one.emotion}"}
        )
    _cli.write_json(folder / INDEX, {"licence": "CC0-1.0", "stickers": index})
    return len(names)


if __name__ == "__main__":
    _cli.run_main(main)

# SPDX-License-Identifier: Apache-2.0
"""Teach a small CLIP-type eye MOD-mini's faces in the seen styles, for causal_bench.py.

The models of the paper start from a CLIP, which has seen any number of faces; on MOD-mini alone
nobody learns to see. So every model of the bench starts from this eye. It is taught which of the
21 faces a picture shows, in the styles of training, shifted and in other colours. It sees no
sticker in an unseen style, no word, no dialogue, and no emotion.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import _cli
import torch
import torch.nn.functional as F
from PIL import Image
from tqdm.auto import tqdm
from train import read_recipe
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel

from dataset_mod.synthetic_drawing import STYLES
from dataset_mod.synthetic_faces import FACES, draw_sticker
from dataset_mod.synthetic_world import SEEN_STYLES

_BATCH, _RATE = 64, 2e-3


def main(argv: list[str] | None = None) -> int:
    """Draw the pictures, train the eye and save it with its image processor."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe", type=Path, help="whose scratch.vision_config is the eye's size")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=450)
    args = parser.parse_args(argv)
    config = CLIPVisionConfig(**read_recipe(args.recipe)["scratch"]["vision_config"])
    size = config.image_size
    image_processor = CLIPImageProcessor(
        size={"shortest_edge": size}, crop_size={"height": size, "width": size}
    )
    pixels, faces = draw(SEEN_STYLES, image_processor, captions=True)
    torch.manual_seed(0)
    eye = CLIPVisionModel(config)
    head, loss = teach(eye, pixels, faces, args.steps)
    named = {}
    for style in STYLES:
        shown, right = draw([style], image_processor, captions=False)
        with torch.no_grad():
            found = head(eye(pixel_values=shown).pooler_output).argmax(1)
        named[style] = round((found == right).float().mean().item(), 3)
    eye.save_pretrained(args.output)
    image_processor.save_pretrained(args.output)
    _cli.write_json(
        args.output / "training.json",
        _cli.evidence(
            pictures=len(pixels), steps=args.steps, loss=round(loss, 3), faces_named=named
        ),
    )  # fmt: skip
    return 0


def draw(
    styles: Sequence[str], image_processor: CLIPImageProcessor, captions: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw every face in some styles: pixels (N, 3, n, n) and the number of the face (N,).

    With `captions` each is drawn a second time with a word under it.
    """
    images, faces = [], []
    for style in tqdm(styles, desc="styles", unit="style"):
        for number, (name, face) in enumerate(FACES.items()):
            for caption in ("", face.captions[0]) if captions else ("",):
                images.append(on_white(draw_sticker(name, style, caption)))
                faces.append(number)
    pixels = image_processor(images=images, return_tensors="pt")["pixel_values"]
    return pixels, torch.tensor(faces)


def teach(
    eye: CLIPVisionModel, pixels: torch.Tensor, faces: torch.Tensor, steps: int
) -> tuple[torch.nn.Linear, float]:
    """Train the eye, under shifts and other colours, to tell the faces apart.

    Returns:
        The head that names the face, which is not kept, and the last loss.
    """
    head = torch.nn.Linear(eye.config.hidden_size, int(faces.max()) + 1)
    optimizer = torch.optim.AdamW([*eye.parameters(), *head.parameters()], lr=_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, _RATE, total_steps=steps, pct_start=0.1
    )
    eye.train()
    for _ in tqdm(range(steps), desc="eye", unit="step"):
        chosen = torch.randint(len(pixels), (_BATCH,))
        logits = head(eye(pixel_values=recolour(pixels[chosen])).pooler_output)
        loss = F.cross_entropy(logits, faces[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    eye.eval()
    return head, loss.item()


def recolour(pixels: torch.Tensor) -> torch.Tensor:
    """Shift a batch (N, 3, n, n) by up to 2 pixels, mix its colours, turn some into negatives."""
    moved = torch.roll(pixels, torch.randint(-2, 3, (2,)).tolist(), (2, 3))
    count = len(pixels)
    mix = torch.eye(3) + 0.2 * torch.randn(count, 3, 3)
    moved = torch.einsum("bij,bjhw->bihw", mix, moved) + 0.2 * torch.randn(count, 3, 1, 1)
    return torch.where(torch.rand(count, 1, 1, 1) < 0.3, -moved, moved)


def on_white(image: Image.Image) -> Image.Image:
    """Lay a picture on white, as stickers are read."""
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")


if __name__ == "__main__":
    _cli.run_main(main)

# SPDX-License-Identifier: Apache-2.0
"""The page on which people try CKS: a dialogue on one side, the ranked stickers on the other.

    CKS_MODEL=path/or/name python app.py

Without CKS_MODEL the model is the first one that README.md names under `models`, as on the Hub.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

# Before Gradio is imported: the page is not reported to anybody.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

import chat
import gradio as gr
import uploads
import view
from doors import Doors
from huggingface_hub import metadata_load
from selection import Answer, Pack, Selector
from starlette.middleware import Middleware

HERE = Path(__file__).resolve().parent
VISIT_SECONDS = 3600
FONT = (
    "system-ui",
    "-apple-system",
    "Segoe UI",
    "Roboto",
    "Noto Sans",
    "DejaVu Sans",
    "sans-serif",
)


def build(selector: Selector) -> gr.Blocks:
    """Lay out the page and say what each of its parts does.

    The visit's state is three values: the dialogue, an own pack (None: the drawn one) and the
    newest answer. Quick steps change the dialogue and show it; the model's answer follows.
    """
    drawn = selector.bundled_pack()
    examples = chat.read_examples(HERE / "examples.json", drawn.stickers)
    script = (HERE / "page.js").read_text(encoding="utf-8")

    def part(value: str = "", name: str | None = None) -> gr.HTML:
        return gr.HTML(value, elem_id=name, js_on_load=script, apply_default_css=False)

    with gr.Blocks(title="CKS: which sticker fits", analytics_enabled=False) as page:
        dialogue = gr.State((), time_to_live=VISIT_SECONDS)
        own = gr.State(None, time_to_live=VISIT_SECONDS)
        answer = gr.State(None, time_to_live=VISIT_SECONDS)
        part(view.header(), "header")
        with gr.Row(elem_id="columns"):
            with gr.Column(elem_id="left", elem_classes="card", min_width=320):
                with gr.Row(elem_id="examples"):
                    loaders = [(gr.Button(title, size="sm"), turns)
                               for title, turns in examples.items()]  # fmt: skip
                talk = part(view.chat(()), "dialogue")
                with gr.Row(elem_id="turn-bar"):
                    speaker = gr.Radio(
                        [("Speaker 1", 0), ("Speaker 2", 1)], value=0, label="Who speaks",
                        elem_id="speaker", container=False, min_width=220,
                    )  # fmt: skip
                    undo = gr.Button("Undo last", size="sm", elem_id="undo")
                    clear = gr.Button("Clear", size="sm", elem_id="clear")
                with gr.Row(elem_id="writing"):
                    text = gr.Textbox(
                        label="What they say", placeholder="Write a turn; Enter sends it",
                        max_length=chat.MAX_TEXT, lines=1, max_lines=1, elem_id="text",
                        container=False, scale=4,
                    )  # fmt: skip
                    say = gr.Button("Send", variant="primary", elem_id="say", min_width=72)
                notice = gr.HTML("", elem_id="notice", apply_default_css=False)
            with gr.Column(elem_id="right", min_width=320):
                stickers = part(view.pack(drawn), "pack")
                ranking = part(view.ranking(None), "ranking")
        with gr.Column(elem_id="undo-word", elem_classes="card"):
            gr.HTML(view.undo_word(), apply_default_css=False)
            with gr.Row(elem_id="swapping"):
                word = gr.Dropdown(
                    [], label="Word", allow_custom_value=True, elem_id="word", min_width=180
                )
                other = gr.Textbox(
                    label="In its place", placeholder="nothing: the word is left out",
                    max_length=chat.MAX_TEXT, lines=1, max_lines=1, elem_id="other",
                    min_width=180,
                )  # fmt: skip
                swap = gr.Button("Undo the word", variant="primary", elem_id="swap")
            compared = part(view.no_comparison(), "comparison")
        part(view.footer(selector), "footer")

        def add(said: chat.Dialogue, who: int, words: str):
            try:
                said = chat.say(said, who, words)
            except ValueError as error:
                return said, gr.skip(), who, words, view.notice(str(error))
            return said, view.chat(said), 1 - who, "", ""

        def replace(said: chat.Dialogue):
            who = 1 - said[-1].speaker if said else 0
            return said, view.chat(said), who, ""

        def send(said: chat.Dialogue, given: Answer | None, event: gr.EventData):
            try:
                said = chat.send(said, given.pack.stickers[int(event.position)])
            except (AttributeError, IndexError, TypeError, ValueError):
                return gr.skip(), gr.skip(), gr.skip()
            return said, view.chat(said), 1 - said[-1].speaker

        def refresh(said: chat.Dialogue, mine: Pack | None):
            if not said:
                nothing = gr.Dropdown(choices=[], value=None)
                return None, view.chat(()), view.ranking(None), nothing, view.no_comparison()
            found = selector.rank(said, mine or drawn)
            return (
                found,
                view.chat(said, found, comet_note=selector.comet_note),
                view.ranking(found),
                gr.Dropdown(
                    choices=chat.words(said), value=chat.tempting_word(said, found.weights)
                ),
                view.no_comparison(),
            )

        def explain(said: chat.Dialogue, found: Answer | None):
            # A turn that has come meanwhile brings an explanation of its own.
            if found is None or found.dialogue != said or not selector.has_comet:
                return gr.skip()
            return view.chat(said, found, selector.infer(turn.text for turn in said))

        def bring(mine: Pack | None, event: gr.EventData):
            pictures, problems = uploads.read_uploads(getattr(event, "files", None))
            if not pictures:
                return mine, view.pack(mine or drawn, mine is not None, problems)
            mine = selector.make_pack("Your pictures", pictures)
            return mine, view.pack(mine, True, problems, view.count(len(pictures), "picture"))

        def compare(found: Answer | None, without: str | None, instead: str):
            if found is None:
                return view.no_comparison("Write a dialogue first.")
            try:
                changed = chat.swap(found.dialogue, without or "", instead)
            except ValueError as error:
                return view.no_comparison(str(error))
            return view.comparison(found, selector.rank(changed, found.pack), without, instead)

        def compare_without(found: Answer | None, event: gr.EventData):
            chosen = str(getattr(event, "word", "")).lower()
            return chosen, "", compare(found, chosen, "")

        quick = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
        asking = {
            "concurrency_id": "model", "concurrency_limit": 1, "show_progress": "hidden",
            "api_visibility": "private",
        }  # fmt: skip

        def follow(event) -> None:
            event.then(
                refresh, [dialogue, own], [answer, talk, ranking, word, compared], **asking
            ).then(explain, [dialogue, answer], talk, **asking)

        spoken = [dialogue, talk, speaker, text, notice]
        renewed = [dialogue, talk, speaker, notice]
        follow(
            gr.on(
                [text.submit, say.click], add, [dialogue, speaker, text], spoken,
                trigger_mode="multiple", **quick,
            )
        )  # fmt: skip
        follow(undo.click(lambda said: replace(chat.undo(said)), dialogue, renewed, **quick))
        follow(clear.click(lambda: replace(()), None, renewed, **quick))
        for button, turns in loaders:
            follow(button.click(lambda turns=turns: replace(turns), None, renewed, **quick))
        follow(page.load(lambda: replace(next(iter(examples.values()))), None, renewed, **quick))
        for shown in (talk, ranking):
            follow(shown.sticker(send, [dialogue, answer], [dialogue, talk, speaker], **quick))
        follow(stickers.brought(bring, own, [own, stickers], **asking))
        follow(stickers.bundled(lambda: (None, view.pack(drawn)), None, [own, stickers], **quick))
        gr.on([swap.click, other.submit], compare, [answer, word, other], compared, **asking)
        talk.word(compare_without, answer, [word, other, compared], **asking)
    return page


def launch(page: gr.Blocks) -> str:
    """Start to serve the page where GRADIO_SERVER_NAME and _PORT say; return its address."""
    _, address, _ = page.queue(max_size=64).launch(
        theme=gr.themes.Base(font=FONT, font_mono=("monospace",)),
        css_paths=HERE / "style.css",
        favicon_path=HERE / "pack" / "wink-flat.png",
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        state_session_capacity=500,
        pwa=False,
        ssr_mode=False,
        share=False,
        quiet=True,
        prevent_thread_lock=True,
        app_kwargs={"middleware": [Middleware(Doors)]},
    )
    return address


def main(argv: list[str] | None = None) -> int:
    """Load the model and serve the page until stopped."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", help="folder or Hub name (default: CKS_MODEL, or the README's)")
    args = parser.parse_args(argv)
    model = args.model or os.environ.get("CKS_MODEL") or _named_model()
    if not model:
        parser.error("name a model by --model, by CKS_MODEL or under `models` in README.md")
    try:
        selector = Selector(model)
    except (OSError, ValueError) as error:
        parser.exit(2, f"app.py: {model}: {' '.join(str(error).split())}\n")
    page = build(selector)
    print(f"The page: {launch(page)} (Ctrl-C ends it)", flush=True)
    page.block_thread()
    return 0


def _named_model() -> str | None:
    return next(iter((metadata_load(HERE / "README.md") or {}).get("models") or []), None)


if __name__ == "__main__":
    sys.exit(main())

# SPDX-License-Identifier: Apache-2.0
"""Fine-tune a CKS on your own data with the library's own Trainer, as docs/finetune.ipynb tells.

The data is what prepare_chats.py or prepare_mod.py wrote. Its emotions take the place of the
checkpoint's: as many of them go on from its head, more or fewer get a new one, and where nobody
named any the head stays as it is.
"""

import argparse

import _cli
from transformers import AutoConfig, AutoModel, AutoProcessor, Trainer, TrainingArguments, set_seed

# Registers CKS with AutoModel and AutoProcessor.
import modeling_cks  # noqa: F401
from dataset_mod import NegativeSampler, load_prepared
from modeling_cks.training import CKSCollator, StickerInventory, TrainingSamples
from modeling_cks.training.trainer import Epoch

# The projections of attention in the text encoder, CLIP and the multimodal encoder.
LORA_TARGETS = ["query", "value", "q_proj", "v_proj", "query_key_value"]


def main(argv: list[str] | None = None) -> int:
    """Load a checkpoint and data, train, and save a checkpoint."""
    args = _parse(argv)
    set_seed(args.seed)
    data = load_prepared(args.data)
    labels = dict(AutoConfig.from_pretrained(args.model).id2label)
    if data.emotions and data.emotions != list(labels.values()):
        labels = dict(enumerate(data.emotions))
    label2id = {name: number for number, name in labels.items()}
    model = AutoModel.from_pretrained(
        args.model, id2label=labels, label2id=label2id, ignore_mismatched_sizes=True
    )
    processor = AutoProcessor.from_pretrained(args.model)
    if args.lora:
        from peft import LoraConfig, get_peft_model

        # A head is new where the emotions are: it is trained whole.
        heads = ["emotion_head"] if model.config.use_emotion else None
        model = get_peft_model(
            model, LoraConfig(target_modules=LORA_TARGETS, modules_to_save=heads)
        )
        model.print_trainable_parameters()

    stickers = StickerInventory(data.stickers, processor)
    negatives = NegativeSampler(stickers.ids, stickers.emotions, args.seed)
    train, validation = (
        TrainingSamples(data.splits[split], negatives) for split in ("train", "validation")
    )
    trainer = Trainer(
        model,
        TrainingArguments(
            args.output,
            num_train_epochs=args.epochs,
            learning_rate=args.learning_rate,
            per_device_train_batch_size=args.batch_size,
            eval_strategy="epoch",
            save_strategy="no",
            logging_steps=10,
            seed=args.seed,
            remove_unused_columns=False,  # the collator reads them all
            label_names=["emotion_labels"],
        ),
        data_collator=CKSCollator(processor, stickers, knowledge=processor.comet is not None),
        train_dataset=train,
        eval_dataset=validation,
        callbacks=[Epoch(train)],  # other negatives in every epoch
    )
    trainer.train()
    trainer.save_state()  # trainer_state.json: the losses on the way
    if args.lora:
        model.save_pretrained(f"{args.output}/adapter")
        model = model.merge_and_unload()
    processor.save_pretrained(args.output)
    model.save_pretrained(args.output)
    print(f"fine-tuned on {len(train)} samples; the model is in {args.output}")
    return 0


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="folder or Hub name of a CKS to start from, e.g. org/cks")
    parser.add_argument("--data", required=True, help="folder of prepare_chats.py")
    parser.add_argument("--output", required=True, help="folder of the fine-tuned model")
    parser.add_argument("--lora", action="store_true", help="train small matrices beside the"
                        " weights (peft), keep them in adapter/, and merge them")  # fmt: skip
    parser.add_argument("--epochs", type=float, default=3, help="default: %(default)s")
    parser.add_argument("--learning-rate", type=float, default=5e-5, help="default: %(default)s")
    parser.add_argument("--batch-size", type=int, default=32, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="of order, dropout and negatives")
    return parser.parse_args(argv)


if __name__ == "__main__":
    _cli.run_main(main)

# SPDX-License-Identifier: Apache-2.0
"""The datasets builder: `load_dataset("mod", "en", data_dir=RELEASE)`, no preparation."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import datasets
import pyarrow as pa

from dataset_mod.prepared import count_tables, sticker_table
from dataset_mod.release import Release
from dataset_mod.schema import (
    LANGUAGES,
    SCHEMA_VERSION,
    SPLITS,
    STICKERS,
    TRAIN,
    sticker_features,
)

logger = logging.getLogger(__name__)


@dataclass
class ModConfig(datasets.BuilderConfig):
    """What to load: a language's samples, or the stickers.

    Attributes:
        skip_bad: leave broken records out, with a warning each, instead of raising.
    """

    skip_bad: bool = False

    def release(self) -> Release:
        """Open the release; the stickers take the first language that it has."""
        if self.data_dir is None:
            raise ValueError('load_dataset("mod", ...) needs data_dir, the folder of the release')
        language = None if self.name == STICKERS else self.name
        return Release(Path(self.data_dir).expanduser(), language, skip_bad=self.skip_bad)

    def create_config_id(
        self, config_kwargs: dict, custom_features: datasets.Features | None = None
    ) -> str:
        """Name the cache by what the files hold: `datasets` looks at their names and dates."""
        fingerprint = self.release().fingerprint
        own = f"{fingerprint} {self.skip_bad} {custom_features}".encode()
        return f"{self.name}-{hashlib.sha256(own).hexdigest()[:16]}"


class Mod(datasets.ArrowBasedBuilder):
    """Builds the tables of a release that lies in `data_dir`."""

    BUILDER_CONFIG_CLASS = ModConfig
    BUILDER_CONFIGS = [
        ModConfig(name=name, version=datasets.Version(SCHEMA_VERSION))
        for name in (*LANGUAGES, STICKERS)
    ]

    def _info(self) -> datasets.DatasetInfo:
        release = self.config.release()
        is_stickers = self.config.name == STICKERS
        features = sticker_features(release.emotions) if is_stickers else release.features
        return datasets.DatasetInfo(features=features)

    def _split_generators(self, dl_manager: object) -> list[datasets.SplitGenerator]:
        release = self.config.release()
        if self.config.name == STICKERS:
            return [datasets.SplitGenerator(TRAIN, {"split": STICKERS, "shards": [0]})]
        return [
            datasets.SplitGenerator(split, {"split": split, "shards": release.shards(split)})
            for split in SPLITS
        ]

    def _generate_tables(self, split: str, shards: list[int]) -> Iterator[tuple[tuple, pa.Table]]:
        release = self.config.release()
        if split == STICKERS:
            emotions = count_tables(release, release.tables(TRAIN)).sticker_emotions()
            yield (0, 0), sticker_table(release, emotions)
            return
        for position, table in enumerate(release.tables(split, shards)):
            yield (shards[0], position), table

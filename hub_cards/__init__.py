# SPDX-License-Identifier: Apache-2.0
"""Model, dataset and Space cards, rendered from results."""

from hub_cards.contact_sheet import contact_sheet
from hub_cards.record import CardError, Record
from hub_cards.render import (
    SHEET_FILE,
    DatasetFacts,
    ModelFacts,
    render_dataset_card,
    render_eval_results,
    render_model_card,
)

__all__ = [
    "SHEET_FILE",
    "CardError",
    "DatasetFacts",
    "ModelFacts",
    "Record",
    "contact_sheet",
    "render_dataset_card",
    "render_eval_results",
    "render_model_card",
]

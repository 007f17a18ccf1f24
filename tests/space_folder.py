# SPDX-License-Identifier: Apache-2.0
"""Where the Space lies; its modules know each other by their bare names, as where it runs."""

import sys
from pathlib import Path

SPACE = Path(__file__).resolve().parents[1] / "hub_cards" / "space"
sys.path.insert(0, str(SPACE))

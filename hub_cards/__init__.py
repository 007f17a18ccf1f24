# SPDX-License-Identifier: Apache-2.0
"""Model, dataset and Space cards, rendered from results."""

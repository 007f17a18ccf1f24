# SPDX-License-Identifier: Apache-2.0
"""CKS: causal knowledge-enhanced sticker selection.

Importing the package makes `AutoConfig`, `AutoModel`, `AutoProcessor` and the pipeline
"sticker-selection" know CKS.
"""

from transformers import AutoConfig, AutoModel, AutoProcessor
from transformers.pipelines import PIPELINE_REGISTRY

from .configuration_cks import CKSConfig
from .modeling_cks import CKSModel, CKSOutput
from .pipeline_cks import StickerSelectionPipeline
from .processing_cks import CKSProcessor

__version__ = "0.1.0"

# All three or none: where one is registered, its local class wins over a checkpoint's own code.
AutoConfig.register(CKSConfig.model_type, CKSConfig, exist_ok=True)
AutoModel.register(CKSConfig, CKSModel, exist_ok=True)
AutoProcessor.register(CKSConfig, CKSProcessor, exist_ok=True)
PIPELINE_REGISTRY.register_pipeline(
    "sticker-selection",
    pipeline_class=StickerSelectionPipeline,
    pt_model=AutoModel,
    type="multimodal",
)

__all__ = ["CKSConfig", "CKSModel", "CKSOutput", "CKSProcessor", "StickerSelectionPipeline"]

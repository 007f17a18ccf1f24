# SPDX-License-Identifier: Apache-2.0
"""Linear maps packed for the processor they run on: a model that only answers, faster.

Nearly all of CKS's work are linear maps. oneDNN runs them faster when their weights are laid out
for it once, above all on processors that are not Intel's; in bfloat16 or int8 faster still, where
the processor has the instructions.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn

from .sticker_pack import features_fingerprint

PRECISIONS = ("float32", "bfloat16", "int8")
# Run by nobody who ranks: what COMET writes out for people to read goes through the first, which is
# large, and the one step behind its features reads the others' weights themselves.
_LEFT_OUT = ("lm_head", "encoder_attn.k_proj", "encoder_attn.v_proj")


def supported_precisions() -> list[str]:
    """Name the precisions for which this processor has instructions, float32 always."""
    found = ["float32"]
    capability = torch.cpu.get_capabilities()
    if any(capability.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16")):
        found.append("bfloat16")
    integers = any(capability.get(name) for name in ("avx512_vnni", "avx_vnni", "amx_int8"))
    if integers and hasattr(torch, "quantize_per_channel"):
        found.append("int8")
    return found


def pack_linear_maps(model: nn.Module, processor=None, precision: str = "float32") -> int:
    """Lay out the linear maps of a model, and of its processor's COMET, for this processor.

    In place, and for good: what is packed only answers, and can be neither trained nor saved. In
    float32 scores stay what they were but for the last digits. **bfloat16 and int8 are shortcuts
    that are not exact**: weights and inputs of the linear maps are rounded (int8: weights by
    output, inputs by call), everything between them stays float32; a COMET of less precision has
    knowledge of its own, in memory and in stores.

    Args:
        model: a [`CKSModel`], or any module.
        processor: its [`CKSProcessor`]; a COMET that is loaded, or can be, is packed too.
        precision: one of `PRECISIONS`.

    Returns:
        The number of maps that were packed.

    Raises:
        ValueError: an unknown precision; a module on another device than the CPU, in training
            mode, not in float32, or packed already.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, not {precision!r}")
    comet = None
    if processor is not None and (processor.comet or processor._knowledge):
        comet = processor.knowledge_extractor
    modules = [model] if comet is None else [model, comet.model]
    for module in modules:
        _check(module)
    if hasattr(model, "visual_extractor"):
        # Packed maps do not show their weights, by which an index knows the model it was built for.
        model.known_fingerprint = features_fingerprint(model)
    if comet is not None:
        comet.use_precision(precision)
    return sum(_pack(module, precision) for module in modules)


class PackedLinear(nn.Module):
    """A linear map (..., in) to (..., out) whose weights lie as oneDNN, or FBGEMM, wants them."""

    def __init__(self, linear: nn.Linear, precision: str):
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.precision = precision
        weight = linear.weight.detach()
        self.bias = None if linear.bias is None else linear.bias.detach()
        if precision == "int8":
            scales = weight.abs().amax(1).clamp(min=1e-12).double() / 127
            with warnings.catch_warnings():
                # torch will drop this form one day, and has none yet that is as fast uncompiled.
                warnings.simplefilter("ignore")
                whole = torch.quantize_per_channel(
                    weight, scales, torch.zeros(len(weight), dtype=torch.long), 0, torch.qint8
                )
                self.packed = torch.ops.quantized.linear_prepack(whole, self.bias)
        else:
            self.packed = torch.ops.mkldnn._reorder_linear_weight(weight.to(_DTYPES[precision]))
            self.bias = None if self.bias is None else self.bias.to(_DTYPES[precision])

    @torch.no_grad()
    def forward(self, inputs: Tensor) -> Tensor:
        """Apply the map; what comes out is float32."""
        if self.precision == "int8":
            return torch.ops.quantized.linear_dynamic(inputs.contiguous(), self.packed, False)
        given = inputs.to(_DTYPES[self.precision])
        return torch.ops.mkldnn._linear_pointwise(given, self.packed, self.bias, "none", [], "").to(
            inputs.dtype
        )

    def extra_repr(self) -> str:
        """Tell sizes and precision."""
        return f"{self.in_features}, {self.out_features}, {self.precision}"

    def _save_to_state_dict(self, destination, prefix, keep_vars):
        raise ValueError("a model whose linear maps are packed cannot be saved: save it before")


_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def _check(module: nn.Module) -> None:
    name = type(module).__name__
    if module.training:
        raise ValueError(f"{name} is in training mode: packed maps only answer, call eval() first")
    for part in module.modules():
        if isinstance(part, PackedLinear):
            raise ValueError(f"the linear maps of {name} are packed already")
        if isinstance(part, nn.Linear) and part.weight.device.type != "cpu":
            raise ValueError(f"{name} lies on {part.weight.device}: only a CPU's maps are packed")
        if isinstance(part, nn.Linear) and part.weight.dtype != torch.float32:
            raise ValueError(f"{name} is in {part.weight.dtype}: load it in float32 to pack it")


def _pack(module: nn.Module, precision: str) -> int:
    count = 0
    for path, part in list(module.named_modules()):
        if path and isinstance(part, nn.Linear) and not path.endswith(_LEFT_OUT):
            module.set_submodule(path, PackedLinear(part, precision))
            count += 1
    return count

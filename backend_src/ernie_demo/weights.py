"""The demo model's weights to and from a published `-PT` folder; knows no training."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import Ernie4_5_VLMoeForConditionalGeneration

from ernie_backend.config import ModelConfig
from ernie_backend.execution.safetensors_file import SINGLE_FILE

from .model import build, is_float32, their_config

Model = Ernie4_5_VLMoeForConditionalGeneration
Tensors = dict[str, torch.Tensor]

_RENAMED = (
    ("model.language_model.", "model."),
    ("model.vision_tower.", "vision_model."),
    (".fc1.", ".0."),
    (".fc2.", ".2."),
    (".ln.", ".3."),
)
"""transformers' names and the published ones; the last three within the resampler only."""


def export(model: Model, files: Path, folder: Path) -> None:
    """A complete model folder: those of `files` that are no weights, and the weights in bfloat16, routers and their biases in float32."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in files.iterdir():
        shutil.copy(path, folder)
    tensors = {
        name: tensor.detach().to("cpu", torch.float32 if is_float32(theirs) else torch.bfloat16).contiguous()
        for theirs, parameter in model.named_parameters()
        for name, tensor in _published(theirs, parameter.data).items()
    }
    tensors |= _joined_biases(model)
    temporary = folder / f"{SINGLE_FILE}.part"
    save_file(tensors, temporary, metadata={"format": "pt"})
    temporary.replace(folder / SINGLE_FILE)


def load(folder: Path, dtype: torch.dtype) -> Model:
    """What `export` wrote, as transformers' model. `KeyError` or `RuntimeError` if the file is of another model."""
    flat = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    model = build(their_config(ModelConfig.from_folder(folder), flat), dtype, seed=0)
    tensors = load_file(folder / SINGLE_FILE)
    with torch.no_grad():
        for theirs, parameter in model.named_parameters():
            if theirs.endswith("e_score_correction_bias"):
                at, row = theirs.split(".layers.")[1].split(".")[0], int("vision_moe" in theirs)
                parameter.copy_(tensors[f"model.layers.{at}.mlp.moe_statics.e_score_correction_bias"][row : row + 1])
                continue
            for name, view in _published(theirs, parameter.data).items():
                view.copy_(tensors[name])
    return model


def _published(theirs: str, tensor: torch.Tensor) -> Tensors:
    """Published name → view of the tensor or of a part of it."""
    if theirs.endswith("e_score_correction_bias"):
        return {}
    name = theirs
    for one, other in _RENAMED[:2]:
        name = name.replace(one, other)
    if "resampler_model" in name:
        for one, other in _RENAMED[2:]:
            name = name.replace(one, other)
    if ".text_moe.gate.weight" in name:
        return {name.replace(".text_moe.gate.weight", ".gate.weight"): tensor.T}
    if ".vision_moe.gate.weight" in name:
        return {name.replace(".vision_moe.gate.weight", ".gate.weight_1"): tensor.T}
    for part in ("text_moe", "vision_moe"):
        head, found, kind = name.partition(f".{part}.experts.")
        if found:
            return _experts(f"{head}.experts", kind, tensor, first=len(tensor) * (part == "vision_moe"))
    return {name: tensor}


def _experts(head: str, kind: str, tensor: torch.Tensor, first: int) -> Tensors:
    """[experts, out, in], gate and up as one or down; vision experts are counted on behind those for text."""
    if kind == "down_proj":
        return {f"{head}.{first + i}.down_proj.weight": weight for i, weight in enumerate(tensor)}
    width = tensor.shape[1] // 2
    gates = {f"{head}.{first + i}.gate_proj.weight": weight[:width] for i, weight in enumerate(tensor)}
    return gates | {f"{head}.{first + i}.up_proj.weight": weight[width:] for i, weight in enumerate(tensor)}


def _joined_biases(model: Model) -> Tensors:
    """[2, experts] for each sparse layer: text, then vision."""
    found = {}
    for at, layer in enumerate(model.model.language_model.layers):
        if hasattr(layer.mlp, "text_moe"):
            rows = [
                moe.gate.moe_statics.e_score_correction_bias.detach().float().cpu() for moe in (layer.mlp.text_moe, layer.mlp.vision_moe)
            ]
            found[f"model.layers.{at}.mlp.moe_statics.e_score_correction_bias"] = torch.cat(rows).contiguous()
    return found

"""Small random models that see, made and saved by transformers, with prompts of text, images and videos for theirs and for ours."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from transformers import (
    Ernie4_5_VLMoeConfig,
    Ernie4_5_VLMoeForConditionalGeneration,
    PaddleOCRVLConfig,
    PaddleOCRVLForConditionalGeneration,
)

from ernie_backend.model_config import CLIP_MEAN, CLIP_STD
from ernie_backend.protocol import MediaItem, MediaKind

from .transformers_checkpoints import save_shards

IMAGE, START, END, VIDEO_START, VIDEO_END, THEIR_VIDEO = 500, 501, 502, 503, 504, 505
"""Placeholder and delimiters; transformers has a placeholder of its own for videos, Paddle's stacks have one for both."""
TOKEN_IDS = {
    "vl": {
        **{"image_token_id": IMAGE, "image_start_token_id": START, "image_end_token_id": END},
        **{"video_start_token_id": VIDEO_START, "video_end_token_id": VIDEO_END, "video_token_id": THEIR_VIDEO},
    },
    "ocr": {"image_token_id": IMAGE, "vision_start_token_id": START, "vision_end_token_id": END, "video_token_id": THEIR_VIDEO},
}
"""Keys of transformers' configurations."""
PATCH = 14

_VL_TEXT = {
    **{"vocab_size": 512, "num_hidden_layers": 3, "hidden_size": 64, "intermediate_size": 96, "max_position_embeddings": 512},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "moe_num_experts": 8, "moe_k": 2, "moe_intermediate_size": [48, 16]},
    **{"moe_num_shared_experts": 2, "head_dim": 16},
    "rope_parameters": {"rope_theta": 500000.0, "rope_type": "default", "mrope_section": [3, 3, 2]},
}
_VL_VISION = {"depth": 2, "hidden_size": 64, "intermediate_size": 128, "num_heads": 4, "patch_size": PATCH}
CASES: dict[str, dict[str, Any]] = {
    "vl": {"text_config": _VL_TEXT, "vision_config": _VL_VISION},
    "vl-published-heads": {  # 128 = 44 + 20 frequencies and 80, as in the published models; no shared experts, first two layers dense
        "text_config": {
            **{key: value for key, value in _VL_TEXT.items() if key not in ("rope_parameters", "head_dim")},
            **{"hidden_size": 256, "num_attention_heads": 2, "num_key_value_heads": 1, "moe_num_shared_experts": 0},
            **{"mlp_layer_types": ["dense", "dense", "sparse"], "moe_num_experts": 64, "moe_k": 6},
        },
        "vision_config": {**_VL_VISION, "hidden_size": 160, "num_heads": 2, "intermediate_size": 192},
        "tie_word_embeddings": False,
    },
    "ocr": {
        "text_config": {
            **{"vocab_size": 512, "num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 96, "max_position_embeddings": 512},
            **{"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 128},
        },
        "vision_config": {"num_hidden_layers": 2, "hidden_size": 144, "intermediate_size": 100, "num_attention_heads": 2, "image_size": 98},
    },
}


def make_model(name: str, seed: int = 0, case: dict[str, Any] | None = None) -> torch.nn.Module:
    """Linears N(0, 0.05), biases too, norms near 1, a correction bias that changes choices; half of the tokens' rows come from images."""
    case = CASES[name] if case is None else case
    config = (PaddleOCRVLConfig if name == "ocr" else Ernie4_5_VLMoeConfig)(**case, **TOKEN_IDS[name if name == "ocr" else "vl"])
    model = (PaddleOCRVLForConditionalGeneration if name == "ocr" else Ernie4_5_VLMoeForConditionalGeneration)(config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            values = torch.randn(parameter.shape, generator=generator)
            near_one = re.search(r"(norm\d?|\.ln|layer_norm\d)\.weight$", parameter_name)
            parameter.copy_(1 + 0.1 * values if near_one else 0.05 * values)
    return model


@dataclass
class Prompt:
    """Token ids with the media that stand for their placeholders."""

    token_ids: list[int]
    media: tuple[MediaItem, ...] = ()

    def theirs(self, extra: list[int]) -> dict[str, torch.Tensor]:
        """What transformers' model takes; `extra` ids follow the prompt."""
        ids = torch.tensor([self.token_ids + extra])
        kinds = torch.zeros_like(ids)
        for item in self.media:
            place = slice(item.start, item.start + item.num_tokens)
            kinds[0, place] = 1 if item.kind is MediaKind.IMAGE else 2
            if item.kind is MediaKind.VIDEO:
                ids[0, place] = THEIR_VIDEO
        experts = kinds.bool() | torch.isin(ids, torch.tensor([START, END, VIDEO_START, VIDEO_END]))
        experts[0, len(self.token_ids) :] = False
        found: dict[str, torch.Tensor] = {"input_ids": ids, "mm_token_type_ids": kinds, "moe_mm_token_type_ids": experts.int()}
        for kind, pixels, grids in (
            (MediaKind.IMAGE, "pixel_values", "image_grid_thw"),
            (MediaKind.VIDEO, "pixel_values_videos", "video_grid_thw"),
        ):
            items = [item for item in self.media if item.kind is kind]
            if items:
                found[pixels] = torch.cat([normalized(item) for item in items])
                found[grids] = torch.tensor([item.grid for item in items])
        return found


def normalized(item: MediaItem) -> torch.Tensor:
    """Patches as transformers' processors hand them over: [N, 3 · patch²] float32."""
    pixels = torch.frombuffer(bytearray(item.patches), dtype=torch.uint8).reshape(-1, 3, PATCH * PATCH).float() / 255
    mean, std = (torch.tensor(values).reshape(1, 3, 1) for values in (CLIP_MEAN, CLIP_STD))
    return ((pixels - mean) / std).reshape(len(pixels), -1)


def make_item(rng: np.random.Generator, grid: tuple[int, int, int], kind: MediaKind, start: int = 0) -> MediaItem:
    frames, height, width = grid
    patches = rng.integers(0, 256, frames * height * width * 3 * PATCH * PATCH, np.uint8).tobytes()
    count = max(1, frames // 2) * height * width // 4
    return MediaItem(kind, patches, grid, start, count, hashlib.blake2b(patches + str(grid).encode(), digest_size=16).digest())


def make_prompt(seed: int, parts: list[int | tuple[int, int, int]]) -> Prompt:
    """A number is that many tokens of text, a grid (t, h, w) an image, or a video where t > 1."""
    rng = np.random.default_rng(seed)
    ids: list[int] = []
    media = []
    for part in parts:
        if isinstance(part, int):
            ids += rng.integers(3, 480, part).tolist()
            continue
        is_image = part[0] == 1
        item = make_item(rng, part, MediaKind.IMAGE if is_image else MediaKind.VIDEO, len(ids) + 1)
        media.append(item)
        ids += [START if is_image else VIDEO_START, *[IMAGE] * item.num_tokens, END if is_image else VIDEO_END]
    return Prompt(ids, tuple(media))


IMAGE_PROMPTS: dict[str, list[int | tuple[int, int, int]]] = {
    "text": [19],
    "one image": [5, (1, 4, 6), 7],
    "images of different sizes": [3, (1, 2, 2), 4, (1, 6, 4), (1, 2, 8), 9],
    "image first": [(1, 4, 4), 6],
}
VIDEO_PROMPTS: dict[str, list[int | tuple[int, int, int]]] = {
    "video": [4, (4, 4, 6), 5],
    "video and images": [2, (1, 4, 2), 3, (2, 4, 4), 2, (1, 2, 6), (6, 6, 4), 4],
}
"""None of these videos lasts longer than it is wide or high in tokens, where transformers and Paddle agree about what follows."""


def save_as_paddle(source: Path, target: Path, shards: int = 1) -> None:
    """An ERNIE-4.5-VL checkpoint that transformers saved in its original format, as the published -Paddle: flat config.json, fused linears
    stored [in, out], prefix `ernie.`, the tower under `vision_model.`."""
    target.mkdir()
    (target / "config.json").write_text(json.dumps(flat_config(json.loads((source / "config.json").read_text()))))
    old = load_file(source / "model.safetensors")
    new: dict[str, torch.Tensor] = {}
    for name, tensor in old.items():
        renamed = re.sub(r"^model\.(vision_model\.)?", lambda found: found[1] or "ernie.", name)
        is_linear = tensor.ndim == 2 and not re.search(r"embed_tokens|e_score|mlp\.gate\.weight", name)
        if "q_proj" in name:
            parts = [old[name.replace("q_proj", part)].T for part in ("q_proj", "k_proj", "v_proj")]
            new[renamed.replace("q_proj", "qkv_proj")] = torch.cat(parts, dim=1).contiguous()
        elif ".gate_proj" in name:
            parts = [tensor.T, old[name.replace("gate_proj", "up_proj")].T]
            new[renamed.replace("gate_proj", "up_gate_proj")] = torch.cat(parts, dim=1).contiguous()
        elif not re.search(r"\.(k_proj|v_proj|up_proj)\.", name):
            new[renamed] = tensor.T.contiguous() if is_linear else tensor.contiguous()
    save_shards(new, target, shards)


def flat_config(nested: dict[str, Any]) -> dict[str, Any]:
    """The configuration that transformers wrote, in the published form."""
    text, vision = nested["text_config"], nested["vision_config"]
    sparse = [i for i, kind in enumerate(text["mlp_layer_types"]) if kind == "sparse"]
    rope = text["rope_parameters"]
    experts = text["moe_num_experts"]
    kept = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
    kept += ("rms_norm_eps", "max_position_embeddings", "moe_k", "moe_intermediate_size", "moe_num_shared_experts", "hidden_act")
    head_dim = text.get("head_dim", text["hidden_size"] // text["num_attention_heads"])
    return {
        "architectures": ["Ernie4_5_VLMoeForConditionalGeneration"],
        "model_type": "ernie4_5_moe_vl",
        **{key: text[key] for key in kept},
        **{
            key: nested[key] for key in nested if key.endswith("_token_id") and key.startswith(("image_s", "image_e", "video_s", "video_e"))
        },
        "head_dim": head_dim,
        "im_patch_id": nested["image_token_id"],
        "moe_num_experts": [experts, experts],
        "moe_layer_start_index": [sparse[0], sparse[0]],
        "moe_layer_end_index": [29, 28],
        "rope_theta": rope["rope_theta"],
        "rope_3d": True,
        "freq_allocation": rope.get("mrope_section", [22, 22, 20])[2],
        "tie_word_embeddings": nested["tie_word_embeddings"],
        "vision_config": {
            "model_type": "DFNRope_vision_transformer",
            "embed_dim": vision["hidden_size"],
            "hidden_size": vision["hidden_size"],
            "mlp_ratio": vision["intermediate_size"] / vision["hidden_size"],
            **{key: vision[key] for key in ("depth", "num_heads", "patch_size", "spatial_merge_size", "in_channels", "hidden_act")},
        },
    }

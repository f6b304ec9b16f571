"""What model folders say of their media, without the rest of a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ERNIE_VL: dict[str, Any] = {
    "architectures": ["Ernie4_5_VLMoeForConditionalGeneration"],
    "model_type": "ernie4_5_moe_vl",
    "im_patch_id": 100295,
    "spatial_conv_size": 2,
    "temporal_conv_size": 2,
    "vision_config": {"model_type": "DFNRope_vision_transformer", "patch_size": 14, "spatial_merge_size": 2},
}
ERNIE_VL_TRANSFORMERS: dict[str, Any] = {
    "architectures": ["Ernie4_5_VLMoeForConditionalGeneration"],
    "model_type": "ernie4_5_vl_moe",
    "image_token_id": 100295,
    "video_token_id": 103367,
    "vision_config": {"patch_size": 14, "spatial_merge_size": 2, "temporal_merge_size": 2},
}
PADDLEOCR_VL: dict[str, Any] = {
    "architectures": ["PaddleOCRVLForConditionalGeneration"],
    "model_type": "paddleocr_vl",
    "image_token_id": 100295,
    "video_token_id": 100296,
    "vision_config": {"patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2},
}


def write_folder(folder: Path, config: dict[str, Any], **files: Any) -> Path:
    """`preprocessor_config={…}` writes preprocessor_config.json."""
    for name, content in {"config": config, **files}.items():
        (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    return folder

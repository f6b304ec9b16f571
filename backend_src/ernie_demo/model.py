"""The demo model as transformers builds it, and how a packed batch runs through its modules; knows no skill and no optimizer.

Weights, initialisation and layers are transformers' own class. Three of its loops are replaced by equal ones over whole batches, which
wait for no number from the GPU: attention in the tower, which transformers runs one picture at a time, the pairing of frames in the
resampler, and the choice of a token's experts by its kind.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from types import MethodType
from typing import Any

import torch
from torch.nn import functional
from transformers import Ernie4_5_VLMoeConfig, Ernie4_5_VLMoeForConditionalGeneration

from ernie_backend.model_config import CLIP_MEAN, CLIP_STD, ModelConfig

Tensor = torch.Tensor
Batch = dict[str, Tensor]


def their_config(config: ModelConfig, flat: dict[str, Any]) -> Ernie4_5_VLMoeConfig:
    """transformers' form of our folder's config.json (`flat`, and what it means)."""
    vision = config.vision
    assert vision is not None
    sparse = ["sparse" if config.is_sparse(layer) else "dense" for layer in range(config.num_layers)]
    keys: tuple[str, ...] = (
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
    )
    keys += ("max_position_embeddings", "rms_norm_eps", "moe_k", "moe_intermediate_size", "moe_num_shared_experts")
    rows = config.rope_axes.count(1)
    delimiters: dict[str, Any] = dict(zip(_DELIMITERS, config.media_delimiter_ids, strict=True))
    return Ernie4_5_VLMoeConfig(
        text_config={
            **{key: flat[key] for key in keys},
            "moe_num_experts": config.num_experts,
            "mlp_layer_types": sparse,
            "rope_parameters": {
                "rope_theta": config.rope_theta,
                "rope_type": "default",
                "mrope_section": [rows, rows, config.rope_axes.count(0)],
            },
            "initializer_range": 0.5 * config.hidden_size**-0.5,
        },
        vision_config={
            **{"depth": vision.num_layers, "hidden_size": vision.hidden_size, "intermediate_size": vision.intermediate_size},
            **{"num_heads": vision.num_heads, "patch_size": vision.patch_size, "initializer_range": 0.04},
        },
        image_token_id=config.image_token_id,
        video_token_id=config.image_token_id,
        **delimiters,
        tie_word_embeddings=True,
    )


_DELIMITERS = ("image_start_token_id", "image_end_token_id", "video_start_token_id", "video_end_token_id")


@dataclass
class Output:
    logits: Tensor  # [answer tokens, vocab]
    expert_counts: Tensor  # [routers, experts] float32: how many tokens each serves in this step


class Demo:
    """The model, ready for packed batches on one device."""

    def __init__(self, model: Ernie4_5_VLMoeForConditionalGeneration, device: torch.device) -> None:
        self.model: Any = model
        model.to(device)  # type: ignore[arg-type]
        self.device = device
        inner = self.model.model
        self._text, self._tower, self._resampler = inner.language_model, inner.vision_tower, inner.resampler_model
        self._mean, self._std = (torch.tensor(v, device=device).repeat_interleave(14 * 14) for v in (CLIP_MEAN, CLIP_STD))
        self._counts: list[Tensor] = []
        self.routers = []
        for layer in self._text.layers:
            if hasattr(layer.mlp, "vision_moe"):
                layer.mlp.forward = MethodType(_experts_by_rows, layer.mlp)
                self.routers += [layer.mlp.text_moe.gate, layer.mlp.vision_moe.gate]
        for router in self.routers:
            router.register_forward_hook(self._count)

    def forward(self, batch: Batch) -> Output:
        """`batch`: `packing.packed`'s, on the device."""
        self._counts = []
        ids = batch["ids"]
        x = self._text.embed_tokens(ids)
        if batch["media_rows"].numel():
            flat = x.reshape(-1, x.shape[-1])
            x = flat.index_copy(0, batch["media_rows"], self._see(batch).to(flat.dtype)).view_as(x)
        segments = batch["segments"]
        length = segments.shape[1]
        same = segments[:, :, None] == segments[:, None, :]
        mask = same & torch.ones(length, length, dtype=torch.bool, device=ids.device).tril()
        hidden = self._text(
            inputs_embeds=x,
            position_ids=batch["positions"],
            attention_mask=_additive(mask, x.dtype),
            moe_mm_token_type_ids=(batch["text_rows"], batch["visual_rows"]),
            use_cache=False,
        ).last_hidden_state
        answers = hidden.reshape(-1, hidden.shape[-1]).index_select(0, batch["label_rows"])
        return Output(self.model.lm_head(answers), torch.stack(self._counts))

    def _see(self, batch: Batch) -> Tensor:
        """Rows for the placeholders, in their order."""
        x = self._patches(batch)
        resampler = self._resampler
        x = resampler.spatial_linear(x.reshape(-1, 4 * x.shape[-1]))
        pairs = torch.cat([x.index_select(0, batch["first_blocks"]), x.index_select(0, batch["second_blocks"])], dim=-1)
        return resampler.after_norm(resampler.mlp(resampler.temporal_linear(pairs)))

    def _patches(self, batch: Batch) -> Tensor:
        """The tower over rows of patches."""
        tower = self._tower
        pixels = (batch["pixels"].float() / 255 - self._mean) / self._std
        x = tower.patch_embed(pixels)
        heads = tower.config.num_heads
        width = tower.config.hidden_size // heads
        frequencies = 10000.0 ** (-torch.arange(0, width // 2, 2, device=x.device, dtype=torch.float32) / (width // 2))
        angles = torch.cat([plane[..., None].float() * frequencies for plane in batch["patch_positions"]], dim=-1)
        cos, sin = angles.cos()[:, None].to(x.dtype), angles.sin()[:, None].to(x.dtype)
        segments = batch["patch_segments"]
        mask = _additive(segments[:, :, None] == segments[:, None, :], x.dtype)
        for block in tower.blocks:
            q, k, v = block.attn.qkv(block.norm1(x)).unflatten(-1, (3, heads, width)).permute(2, 0, 3, 1, 4)
            seen = functional.scaled_dot_product_attention(_turned(q, cos, sin), _turned(k, cos, sin), v, attn_mask=mask)
            x = x + block.attn.proj(seen.transpose(1, 2).flatten(2))
            x = x + block.mlp(block.norm2(x))
        return tower.ln(x)

    def _count(self, router: Any, given: Any, found: tuple[Tensor, Tensor, Tensor]) -> None:
        chosen = found[2].reshape(-1)
        counts = torch.zeros(router.num_experts, device=chosen.device)
        self._counts.append(counts.scatter_add_(0, chosen, torch.ones_like(chosen, dtype=counts.dtype)))


def _experts_by_rows(block: Any, hidden: Tensor, rows: tuple[Tensor, Tensor]) -> tuple[Tensor, None]:
    """transformers' block of experts, told which rows are text and which are seen instead of a mask."""
    flat = hidden.reshape(-1, hidden.shape[-1])
    text, seen = rows
    found = torch.zeros_like(flat)
    for experts, chosen in ((block.text_moe, text), (block.vision_moe, seen)):
        if chosen.numel():
            rows_of = flat.index_select(0, chosen)
            _, weights, ids = experts.gate(rows_of)
            found = found.index_copy(0, chosen, experts.experts(rows_of, ids, weights).to(flat.dtype))
        else:
            experts.gate(flat[:1])  # counted as a router that was asked, so that every step has as many counts
    return (found + block.shared_experts(flat)).view_as(hidden), None


def _turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """The tower's rotation of [rows, heads, patches, width]: pairs lie half a width apart."""
    one, other = x.chunk(2, dim=-1)
    return torch.cat([one * cos - other * sin, other * cos + one * sin], dim=-1)


def _additive(allowed: Tensor, dtype: torch.dtype) -> Tensor:
    """[rows, n, n] bool → [rows, 1, n, n]: 0 where allowed, a very negative number elsewhere."""
    return torch.where(allowed, 0.0, torch.finfo(dtype).min / 2).to(dtype)[:, None]


def build(config: Ernie4_5_VLMoeConfig, dtype: torch.dtype, seed: int) -> Ernie4_5_VLMoeForConditionalGeneration:
    """Freshly initialised. Routers and their biases stay float32."""
    torch.manual_seed(seed)
    model = Ernie4_5_VLMoeForConditionalGeneration(config)
    return with_dtype(model, dtype)


def with_dtype(model: Ernie4_5_VLMoeForConditionalGeneration, dtype: torch.dtype) -> Ernie4_5_VLMoeForConditionalGeneration:
    for name, parameter in model.named_parameters():
        if not is_float32(name):
            parameter.data = parameter.data.to(dtype)
    return model


def is_float32(name: str) -> bool:
    """Whether a parameter of this name is kept in float32: routers and their correction biases."""
    return name.endswith(("gate.weight", "e_score_correction_bias"))


def trainable(model: torch.nn.Module) -> Iterable[tuple[str, torch.nn.Parameter]]:
    return [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]

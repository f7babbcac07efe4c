"""Transformers that detect: what they add to PyTorch's attention."""

from __future__ import annotations

import importlib
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..registry import ADAPTERS
from ..tracing import declarations
from .base import Adapter
from .layers import Shapes
from .multihead import HeadMasks
from .unseen import fixed

MMDET_TRANSFORMER = 'mmdet.models.layers.transformer.utils'
MMCV_ATTENTION = 'mmcv.ops.multi_scale_deform_attn'
"""Modules of the classes below; imported when one of these runs, so that neither package need be installed."""


@ADAPTERS.register_module()
class SinePositionalEncodingAdapter(Adapter):
    """A wave per channel, added to the features: it stays or goes with the channel."""

    adapts = 'mmdet.models.layers.positional_encoding.SinePositionalEncoding'

    def setup(self) -> None:
        """List the waves."""
        self.places = list(range(2 * self.num_feats))

    def forward(self, mask: Tensor | None, input: Tensor | None = None) -> Tensor:
        """As the module, (B, C, H, W); mask is (B, H, W) or absent, then input (B, C, H, W) tells the size."""
        waves = super().forward(mask, input)
        if len(self.places) < waves.size(1):
            waves = waves[:, self.places]
        if input is None:
            return waves
        self._mmdms.listed('places', input, 1)
        return self._mmdms.carry(waves, input, 1)


@ADAPTERS.register_module()
class ConditionalAttentionAdapter(HeadMasks):
    """Conditional and DAB-DETR: content and position are compared apart where a query attends to the image."""

    adapts = 'mmdet.models.layers.transformer.utils.ConditionalAttention'

    def setup(self) -> None:
        """Widths of a head, and the scale, which stays that of the supernet."""
        width = self.embed_dims // self.num_heads
        self.qk_dims = self.v_dims = self.pos_dims = width
        self.scale = (2 * width if self.cross_attn else width) ** -0.5
        self.places = list(range(self.num_heads))

    def forward(
        self,
        query: Tensor,
        key: Tensor | None = None,
        query_pos: Tensor | None = None,
        ref_sine_embed: Tensor | None = None,
        key_pos: Tensor | None = None,
        attn_mask: Tensor | None = None,
        key_padding_mask: Tensor | None = None,
        is_first: bool = False,
    ) -> Tensor:
        """As the module; query and what belongs to it are (B, N, C), key and its position (B, M, C)."""
        if not self.cross_attn:
            key, key_pos = query, query_pos
        joint = not self.cross_attn or is_first or self.keep_query_pos  # positions are added to content, too
        q, k, place = self.qcontent_proj(query), self.kcontent_proj(key), self.kpos_proj(key_pos)
        if joint:
            q, k = q + self.qpos_proj(query_pos), k + place
        q, k = self._mmdms.contract('content', self.heads(q, 'qk_dims'), self.heads(k, 'qk_dims'))
        attention = q @ k.transpose(-2, -1)
        if self.cross_attn:
            width = 'qk_dims' if joint else 'pos_dims'
            sine, place = self.heads(self.qpos_sine_proj(ref_sine_embed), width), self.heads(place, width)
            sine, place = self._mmdms.contract('position', sine, place)
            attention = attention + sine @ place.transpose(-2, -1)
        attention = self.add_mask(attention * self.scale, attn_mask, key_padding_mask)
        mixed = self.attn_drop(attention.softmax(-1)) @ self.heads(self.v_proj(key), 'v_dims')
        return query + self.proj_drop(self.out_proj(mixed.transpose(1, 2).flatten(2)))

    def heads(self, x: Tensor, width: str) -> Tensor:
        """x (B, N, C) as (B, heads, N, width)."""
        return self._mmdms.split_heads(x, width=width).transpose(1, 2)

    def resized(self, old: Shapes) -> None:
        """The width of queries is that of the layer which reads them."""
        self.embed_dims = self.qcontent_proj.in_features


@ADAPTERS.register_module()
class DABDETRAdapter(Adapter):
    """DAB-DETR makes queries of zeros as wide as its embedding."""

    adapts = 'mmdet.models.detectors.dab_detr.DABDETR'

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As the detector."""
        return super().forward(*args, **kwargs)

    def pre_decoder(self, memory: Tensor) -> tuple[dict[str, Any], dict[str, Any]]:
        """As the detector; memory is (B, N, C), whose width is that of queries."""
        decoder, head = super().pre_decoder(memory)
        if self.num_patterns == 0:
            decoder['query'] = torch.zeros_like(memory[:, :1]).repeat(1, self.num_queries, 1)
        return decoder, head

    def resized(self, old: Shapes) -> None:
        """The width of the embedding is that of the norm of what the decoder gives out."""
        self.embed_dims = self.decoder.post_norm.weight.numel()


@ADAPTERS.register_module()
class DeformableDETRAdapter(Adapter):
    """Deformable DETR splits what it knows of queries by the width of the features; here into halves."""

    adapts = 'mmdet.models.detectors.deformable_detr.DeformableDETR'

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As the detector."""
        return super().forward(*args, **kwargs)

    def pre_decoder(
        self, memory: Tensor, memory_mask: Tensor | None, spatial_shapes: Tensor
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """As the detector; memory is (B, N, C). With two stages queries are as wide as features."""
        if self.as_two_stage:
            decoder, head = super().pre_decoder(memory, memory_mask, spatial_shapes)
            self._mmdms.tie(memory[:, :1], decoder['query'][:, :1])
            return decoder, head
        place, query = self.query_embedding.weight.expand(len(memory), -1, -1).chunk(2, dim=2)
        points = self.reference_points_fc(place).sigmoid()
        head = dict(enc_outputs_class=None, enc_outputs_coord=None) if self.training else {}
        return dict(query=query, query_pos=place, memory=memory, reference_points=points), head


@ADAPTERS.register_module()
class DINOAdapter(Adapter):
    """DINO embeds noisy labels beside its queries, in training only."""

    adapts = 'mmdet.models.detectors.dino.DINO'

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As the detector."""
        return super().forward(*args, **kwargs)

    def pre_decoder(self, *args: Any, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """As the detector."""
        decoder, head = super().pre_decoder(*args, **kwargs)
        if declarations.active_tracer() is not None:
            decoder['query'] + self.dn_query_generator.label_embedding.weight[:1]  # a trace sees that they are as wide
        return decoder, head


@ADAPTERS.register_module()
class CdnQueryGeneratorAdapter(Adapter):
    """The noisy labels."""

    adapts = 'mmdet.models.layers.transformer.dino_layers.CdnQueryGenerator'

    def resized(self, old: Shapes) -> None:
        """Queries are as wide as the embedding of a label."""
        self.embed_dims = self.label_embedding.weight.size(1)


@ADAPTERS.register_module()
class DinoDecoderAdapter(Adapter):
    """DINO encodes positions in as many waves as a query is wide; here in as many as in the supernet."""

    adapts = 'mmdet.models.layers.transformer.dino_layers.DinoTransformerDecoder'

    def setup(self) -> None:
        """Count the waves."""
        self.waves = self.embed_dims

    def forward(
        self,
        query: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None,
        self_attn_mask: Tensor | None,
        reference_points: Tensor,
        spatial_shapes: Tensor,
        level_start_index: Tensor,
        valid_ratios: Tensor,
        reg_branches: Any,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor]:
        """As the module; query is (B, N, C), reference_points (B, N, 4)."""
        mmdet = importlib.import_module(MMDET_TRANSFORMER)
        ratios = torch.cat([valid_ratios, valid_ratios], -1)[:, None]
        found, places = [], [reference_points]
        for index, layer in enumerate(self.layers):
            boxes = reference_points[:, :, None] * ratios
            query = layer(
                query,
                query_pos=self.ref_point_head(mmdet.coordinate_to_encoding(boxes[:, :, 0], num_feats=self.waves)),
                value=value,
                key_padding_mask=key_padding_mask,
                self_attn_mask=self_attn_mask,
                spatial_shapes=spatial_shapes,
                level_start_index=level_start_index,
                valid_ratios=valid_ratios,
                reference_points=boxes,
                **kwargs,
            )
            if reg_branches is not None:
                moved = reg_branches[index](query) + mmdet.inverse_sigmoid(reference_points, eps=1e-3)
                reference_points = moved.sigmoid().detach()
                places.append(moved.sigmoid())
            found.append(self.norm(query))
        if self.return_intermediate:
            return torch.stack(found), torch.stack(places)
        return query, reference_points


@ADAPTERS.register_module()
class DeformableAttentionAdapter(Adapter):
    """Deformable DETR: every head reads the maps at points that it chooses; their number stays."""

    adapts = 'mmcv.ops.multi_scale_deform_attn.MultiScaleDeformableAttention'

    def setup(self) -> None:
        """What every head gives out: values, coordinates, and weights of points."""
        points = self.num_levels * self.num_points
        self.value_dims = self.value_proj.out_features // self.num_heads
        self.offset_dims, self.weight_dims = 2 * points, points

    def forward(
        self,
        query: Tensor,
        key: Tensor | None = None,
        value: Tensor | None = None,
        identity: Tensor | None = None,
        query_pos: Tensor | None = None,
        key_padding_mask: Tensor | None = None,
        reference_points: Tensor | None = None,
        spatial_shapes: Tensor | None = None,
        level_start_index: Tensor | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """As the module; query is (B, N, C), or (N, B, C), reference_points (B, N, levels, 2 or 4)."""
        assert reference_points is not None and spatial_shapes is not None
        identity = query if identity is None else identity
        value = query if value is None else value
        query = query if query_pos is None else query + query_pos
        if not self.batch_first:
            query, value = query.transpose(0, 1), value.transpose(0, 1)
        value = self.value_proj(value)
        if key_padding_mask is not None:
            value = value.masked_fill(key_padding_mask[..., None], 0.0)
        value = self._mmdms.split_heads(value, width='value_dims')
        out = self.sampled(
            value, spatial_shapes, level_start_index, self.locations(query, reference_points, spatial_shapes),
            self.point_weights(query),
        )  # fmt: skip
        out = self.output_proj(out)
        return self.dropout(out if self.batch_first else out.transpose(0, 1)) + identity

    def locations(self, query: Tensor, places: Tensor, shapes: Tensor) -> Tensor:
        """Where heads look, shape (B, N, heads, levels, points, 2), as shares of a map's width and height."""
        offsets = self._mmdms.split_heads(self.sampling_offsets(query), width='offset_dims')
        offsets = fixed(offsets, -1, reason='moves the samples of deformable attention')
        offsets = offsets.unflatten(-1, (self.num_levels, self.num_points, 2))
        places = fixed(places, -1, reason='is a coordinate')[:, :, None, :, None]
        if places.size(-1) == 2:
            return places + offsets / shapes.flip(-1)[:, None]
        return places[..., :2] + offsets / self.num_points * places[..., 2:] * 0.5

    def point_weights(self, query: Tensor) -> Tensor:
        """How much every point counts, shape (B, N, heads, levels, points)."""
        weights = self._mmdms.split_heads(self.attention_weights(query), width='weight_dims')
        weights = fixed(weights, -1, reason='weighs the samples of deformable attention').softmax(-1)
        return weights.unflatten(-1, (self.num_levels, self.num_points))

    def sampled(self, value: Tensor, shapes: Tensor, starts: Any, locations: Tensor, weights: Tensor) -> Tensor:
        """Values (B, M, heads, width) as heads read them, (B, N, heads * width)."""
        if value.is_cuda and value.dtype != torch.bfloat16 and declarations.active_tracer() is None:
            compiled = importlib.import_module(MMCV_ATTENTION).MultiScaleDeformableAttnFunction
            return compiled.apply(value, shapes, starts, locations, weights, self.im2col_step)
        return sampled_maps(value, shapes.tolist(), locations, weights)

    def resized(self, old: Shapes) -> None:
        """The width of queries is that of the layer which reads them."""
        self.embed_dims = self.value_proj.in_features


def sampled_maps(value: Tensor, shapes: list[list[int]], locations: Tensor, weights: Tensor) -> Tensor:
    """What mmcv's compiled operation computes, in operations of PyTorch that a trace can follow.

    Args:
        value: all positions of all maps, shape (B, M, heads, width).
        shapes: height and width of every map.
        locations: shares of width and height, shape (B, N, heads, maps, points, 2).
        weights: (B, N, heads, maps, points).

    Returns:
        Shape (B, N, heads * width).
    """
    batch = len(value)
    found = []
    for level, part in enumerate(value.split([height * width for height, width in shapes], 1)):
        maps = part.permute(0, 2, 3, 1).flatten(0, 1).unflatten(-1, tuple(shapes[level]))
        grid = 2 * locations[:, :, :, level].transpose(1, 2).flatten(0, 1) - 1
        found.append(F.grid_sample(maps, grid, align_corners=False))
    weights = weights.transpose(1, 2).flatten(0, 1).flatten(2)
    mixed = (torch.stack(found, -2).flatten(-2) * weights[:, None]).sum(-1)
    return mixed.unflatten(0, (batch, -1)).permute(0, 3, 1, 2).flatten(2)

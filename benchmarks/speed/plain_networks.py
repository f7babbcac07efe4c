"""A ResNet, a DeiT and a Llama-shaped decoder out of torch alone, with a batch and a loss for each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.functional import cross_entropy, scaled_dot_product_attention, silu


def convolution(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """A convolution and its batch norm."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(outputs))


class Bottleneck(nn.Module):
    """ResNet's block of three convolutions; the stride is that of the second."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = 4 * width
        self.branch = nn.Sequential(
            convolution(inputs, width, 1), nn.ReLU(inplace=True),
            convolution(width, width, 3, stride), nn.ReLU(inplace=True),
            convolution(width, outputs, 1),
        )  # fmt: skip
        changes = stride > 1 or inputs != outputs
        self.shortcut = convolution(inputs, outputs, 1, stride) if changes else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.branch(x) + self.shortcut(x))


def resnet(depths: tuple[int, ...], width: int, classes: int) -> nn.Module:
    """A ResNet of bottlenecks: ``(3, 4, 6, 3)`` and 64 are those of ResNet-50."""
    layers: list[nn.Module] = [convolution(3, width, 7, 2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)]
    channels = width
    for stage, depth in enumerate(depths):
        blocks = []
        for number in range(depth):
            inner = width * 2**stage
            blocks.append(Bottleneck(channels, inner, 2 if stage and not number else 1))
            channels = 4 * inner
        layers.append(nn.Sequential(*blocks))
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


class Attention(nn.Module):
    """Self-attention; with fewer heads of keys than of queries, each of them serves several."""

    def __init__(self, width: int, heads: int, kv_heads: int, causal: bool) -> None:
        super().__init__()
        self.size, self.causal, self.repeats = width // heads, causal, heads // kv_heads
        self.q, self.o = nn.Linear(width, width, bias=not causal), nn.Linear(width, width, bias=not causal)
        self.k = nn.Linear(width, kv_heads * self.size, bias=not causal)
        self.v = nn.Linear(width, kv_heads * self.size, bias=not causal)

    def forward(self, x: torch.Tensor, rotation: tuple[torch.Tensor, torch.Tensor] | None = None) -> torch.Tensor:
        batch, tokens, _ = x.shape
        q, k, v = (layer(x).view(batch, tokens, -1, self.size).transpose(1, 2) for layer in (self.q, self.k, self.v))
        if rotation is not None:
            q, k = (rotate(one, *rotation) for one in (q, k))
        if self.repeats > 1:
            k, v = (one.repeat_interleave(self.repeats, 1) for one in (k, v))
        mixed = scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return self.o(mixed.transpose(1, 2).flatten(2))


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary positions: ``x`` of shape (batch, heads, tokens, size), halves paired."""
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat((-second, first), -1) * sin


class Encoder(nn.Module):
    """A block of DeiT: attention and an MLP, each behind a layer norm, each added to the stream."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads, heads, causal=False)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class DeiT(nn.Module):
    """DeiT: patches of 16 pixels (of a quarter of the image, if that is less) and a class token."""

    def __init__(self, size: int, width: int, heads: int, depth: int, classes: int) -> None:
        super().__init__()
        patch = min(16, size // 4)
        self.patches = nn.Conv2d(3, width, patch, patch)
        self.token = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.position = nn.Parameter(torch.randn(1, (size // patch) ** 2 + 1, width) * 0.02)
        self.blocks = nn.Sequential(*(Encoder(width, heads) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat((self.token.expand(len(x), -1, -1), x), 1) + self.position
        return self.head(self.norm(self.blocks(x))[:, 0])


class Decoder(nn.Module):
    """A block of Llama: causal attention with rotary positions and a gated MLP, behind RMS norms."""

    def __init__(self, width: int, heads: int, kv_heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.RMSNorm(width), nn.RMSNorm(width)
        self.attention = Attention(width, heads, kv_heads, causal=True)
        self.gate, self.up = nn.Linear(width, hidden, bias=False), nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: torch.Tensor, rotation: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        x = x + self.attention(self.norm1(x), rotation)
        y = self.norm2(x)
        return x + self.down(silu(self.gate(y)) * self.up(y))


class Llama(nn.Module):
    """A decoder of Llama's shape: token ids in, logits of every position out."""

    def __init__(self, vocabulary: int, tokens: int, width: int, heads: int, hidden: int, depth: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width)
        self.blocks = nn.ModuleList(Decoder(width, heads, max(1, heads // 4), hidden) for _ in range(depth))
        self.norm, self.head = nn.RMSNorm(width), nn.Linear(width, vocabulary, bias=False)
        size = width // heads
        angles = torch.outer(torch.arange(tokens), 10000.0 ** -(torch.arange(0, size, 2) / size)).repeat(1, 2)
        self.register_buffer('cos', angles.cos(), persistent=False)
        self.register_buffer('sin', angles.sin(), persistent=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.embed(ids)
        for block in self.blocks:
            x = block(x, (self.cos, self.sin))
        return self.head(self.norm(x))


@dataclass
class Case:
    """A network, its batch and its loss.

    Attributes:
        build: makes the network, with random weights.
        inputs: makes the input of a batch of so many.
        loss: of the network's output and that input; targets are random.
    """

    build: Callable[[], nn.Module]
    inputs: Callable[[int], torch.Tensor]
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def classes_loss(logits: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """Cross entropy with classes that depend on the place in the batch alone."""
    return cross_entropy(logits, torch.arange(len(images), device=images.device) % logits.shape[1])


def tokens_loss(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Cross entropy of every next token."""
    return cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())


def images_of(size: int) -> Callable[[int], torch.Tensor]:
    """A maker of batches of random images."""
    return lambda batch: torch.rand(batch, 3, size, size)


def cases(tiny: bool = False) -> dict[str, Case]:
    """ResNet-50 and DeiT-Small at 224 pixels and a decoder of 190 M parameters at 512 tokens, or tiny ones."""
    if tiny:
        return {
            'resnet': Case(lambda: resnet((1, 1), 8, 10), images_of(32), classes_loss),
            'deit': Case(lambda: DeiT(32, 16, 4, 2, 10), images_of(32), classes_loss),
            'llama': Case(lambda: Llama(64, 16, 32, 4, 48, 2), lambda n: torch.randint(64, (n, 16)), tokens_loss),
        }
    return {
        'resnet50': Case(lambda: resnet((3, 4, 6, 3), 64, 1000), images_of(224), classes_loss),
        'deit-small': Case(lambda: DeiT(224, 384, 6, 12, 1000), images_of(224), classes_loss),
        'llama': Case(
            lambda: Llama(8192, 512, 1024, 16, 2816, 16), lambda n: torch.randint(8192, (n, 512)), tokens_loss
        ),
    }

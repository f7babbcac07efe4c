"""RepMLP: a fully connected layer over positions, of which every group of channels has one."""

from __future__ import annotations

from torch import Tensor

from ..registry import ADAPTERS
from .base import Adapter
from .layers import Shapes


@ADAPTERS.register_module()
class RepMLPBlockAdapter(Adapter):
    """The block: channels are rows times sets, a set shares its layer among all rows."""

    adapts = 'mmpretrain.models.backbones.repmlp.RepMLPBlock'
    channels: int

    def setup(self) -> None:
        """Count the rows."""
        self.rows = self.channels // self.num_sharesets

    def forward(self, x: Tensor) -> Tensor:
        """As the module; x is (B, C, H, W)."""
        gate = self.gp(x)
        size = x.size(2) // self.path_h, x.size(3) // self.path_w
        if self.num_sharesets == 1:
            self._mmdms.sized('rows', x, 1)
            parts = x.unsqueeze(2)
        else:
            parts = self._mmdms.split_heads(x, 'rows', 'num_sharesets', dim=1)
        mask = self._mmdms.follow('rows', parts, 1)
        if mask is None:
            mixed = self.mix(parts, size)
        else:  # norms in training take their statistics of the rows that stay
            rows = (mask > 0).nonzero().flatten()
            mixed = self.mix(parts[:, rows], size)
            mixed = mixed.new_zeros(parts.shape).index_copy(1, rows, mixed)
        return mixed.flatten(1, 2) * gate

    def mix(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """Mix positions within every part of an image; x is (B, rows, sets, H, W), ``size`` the number of parts."""
        x = x.unflatten(4, (size[1], self.path_w)).unflatten(3, (size[0], self.path_h))
        x = x.permute(0, 1, 3, 5, 2, 4, 6)  # (B, rows, parts down, parts across, sets, path_h, path_w)
        parts = x.flatten(0, 3)
        mixed = self.fc3_bn(self.fc3(parts.flatten(1)[..., None, None]).view(parts.shape))
        if self.reparam_conv_kernels is not None and not self.deploy:
            mixed = mixed + sum(getattr(self, f'repconv{kernel}')(parts) for kernel in self.reparam_conv_kernels)
        return mixed.view(x.shape).permute(0, 1, 4, 2, 5, 3, 6).flatten(5, 6).flatten(3, 4)

    def resized(self, old: Shapes) -> None:
        """Groups of the layer are its sets."""
        self.channels = self.rows * self.num_sharesets
        self._path_vec_channles = self.path_h * self.path_w * self.num_sharesets  # a name of the module's own
        self.fc3.groups = self.num_sharesets
        self.fc3.in_channels = self._path_vec_channles

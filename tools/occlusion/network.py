"""The occlusion network: a small encoder and decoder, 56 × 56 gray pixels to 28 × 28 cells."""

import torch
from torch import Tensor, nn
from torch.nn import functional


class ConvBlock(nn.Module):
    """Convolution, batch normalisation, ReLU."""

    def __init__(self, channels_in: int, channels_out: int, size: int = 3, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, size, stride, size // 2, bias=False)
        self.norm = nn.BatchNorm2d(channels_out)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.norm(self.conv(x)))


class OcclusionNet(nn.Module):
    """Logits (n, 1, 28, 28) of how covered each cell is, for chips (n, 1, 56, 56).

    `place` is learnt and added at the coarse level: an aligned face has its features at fixed
    places, so what belongs there depends on where it is.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvBlock(1, 16, 5, 2)  # 28
        self.fine = ConvBlock(16, 24)
        self.down = ConvBlock(24, 48, 3, 2)  # 14
        self.middle = ConvBlock(48, 48)
        self.deep = ConvBlock(48, 72, 3, 2)  # 7
        self.place = nn.Parameter(torch.zeros(1, 72, 7, 7))
        self.deep2 = ConvBlock(72, 72)
        self.deep3 = ConvBlock(72, 72)
        self.join_middle = ConvBlock(72 + 48, 48, 1)
        self.up_middle = ConvBlock(48, 48)
        self.join_fine = ConvBlock(48 + 24, 32, 1)
        self.up_fine = ConvBlock(32, 16)
        self.answer = nn.Conv2d(16, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        fine = self.fine(self.stem(x))
        middle = self.middle(self.down(fine))
        deep = self.deep3(self.deep2(self.deep(middle) + self.place))
        up = self.up_middle(self.join_middle(torch.cat([_doubled(deep), middle], 1)))
        last = self.up_fine(self.join_fine(torch.cat([_doubled(up), fine], 1)))
        return self.answer(last)


def _doubled(x: Tensor) -> Tensor:
    return functional.interpolate(x, scale_factor=2, mode="nearest")

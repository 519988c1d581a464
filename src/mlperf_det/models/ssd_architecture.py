"""The facts of an SSD network: the published SSD300-ResNet34 and a reduced one of the same build."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ExtraLayer:
    """One extra feature level: a 1x1 convolution to ``hidden`` channels, then a 3x3 one to ``channels``.

    ``stride`` 2 pads by one and halves the map; ``stride`` 1 does not pad and takes two off each side length.
    """

    hidden: int
    channels: int
    stride: int

    def output_size(self, size: int) -> int:
        """Return the side length after this layer for an input of side length ``size``."""
        return (size + 1) // 2 if self.stride == 2 else size - 2


@dataclass(frozen=True, kw_only=True)
class SsdArchitecture:
    """Everything that defines one SSD network. Levels are listed from the finest to the coarsest.

    Attributes:
        image_size: side length of the square input, pixels.
        stem_width: output channels of the 7x7 stem convolution.
        blocks: basic residual blocks of each backbone stage; the last stage keeps the stride of the one before.
        widths: output channels of each backbone stage.
        extras: the extra levels after the backbone's.
        feature_sizes: side length of each level's feature map.
        steps: distance of neighbouring cells of each level, input pixels.
        scales: side length of each level's square default box, input pixels, and one more for the last level's
            second square (the geometric mean with the next scale).
        aspect_ratios: extra ratios of each level; each gives a wide and a tall box beside the two squares.
        num_classes: foreground classes; the background is index 0 of the network's output.
    """

    image_size: int
    stem_width: int
    blocks: tuple[int, ...]
    widths: tuple[int, ...]
    extras: tuple[ExtraLayer, ...]
    feature_sizes: tuple[int, ...]
    steps: tuple[int, ...]
    scales: tuple[float, ...]
    aspect_ratios: tuple[tuple[int, ...], ...]
    num_classes: int

    def __post_init__(self) -> None:
        levels = len(self.extras) + 1
        lengths = (len(self.feature_sizes), len(self.steps), len(self.scales) - 1, len(self.aspect_ratios))
        if any(length != levels for length in lengths):
            raise ValueError(
                f'{levels} levels need as many feature sizes, steps, scales less one and ratios, not {lengths}')
        if len(self.blocks) != len(self.widths):
            raise ValueError(f'{len(self.blocks)} stages but {len(self.widths)} widths')
        size = self.image_size
        for _ in range(len(self.blocks)):  # stem, max-pool and all stages but the first and the last halve the map
            size = (size + 1) // 2
        sizes = [size]
        for extra in self.extras:
            sizes.append(extra.output_size(sizes[-1]))
        if tuple(sizes) != self.feature_sizes:
            raise ValueError(f'the layers make feature maps of sizes {tuple(sizes)}, not {self.feature_sizes}')

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of each level's feature map."""
        return (self.widths[-1], *(extra.channels for extra in self.extras))

    @property
    def boxes_per_cell(self) -> tuple[int, ...]:
        """Default boxes at each cell of each level."""
        return tuple(2 + 2 * len(ratios) for ratios in self.aspect_ratios)

    @property
    def num_default_boxes(self) -> int:
        """Default boxes over all levels."""
        return sum(size * size * count for size, count in zip(self.feature_sizes, self.boxes_per_cell, strict=True))


#: SSD300 with ResNet-34 as MLPerf Training v0.5 to v1.1 defines it: 8,732 default boxes, 19,972,534 parameters.
SSD300_RESNET34 = SsdArchitecture(
    image_size=300,
    stem_width=64,
    blocks=(3, 4, 6),
    widths=(64, 128, 256),
    extras=(
        ExtraLayer(hidden=256, channels=512, stride=2),
        ExtraLayer(hidden=256, channels=512, stride=2),
        ExtraLayer(hidden=128, channels=256, stride=2),
        ExtraLayer(hidden=128, channels=256, stride=1),
        ExtraLayer(hidden=128, channels=256, stride=1),
    ),
    feature_sizes=(38, 19, 10, 5, 3, 1),
    steps=(8, 16, 32, 64, 100, 300),
    scales=(21, 45, 99, 153, 207, 261, 315),
    aspect_ratios=((2,), (2, 3), (2, 3), (2, 3), (2,), (2,)),
    num_classes=80,
)

#: The same build, small enough for minutes on two CPU cores; its numbers are ours, not MLPerf's.
SSD_SMOKE = SsdArchitecture(
    image_size=96,
    stem_width=24,
    blocks=(1, 1, 2),
    widths=(24, 48, 96),
    extras=(
        ExtraLayer(hidden=48, channels=128, stride=2),
        ExtraLayer(hidden=64, channels=128, stride=2),
        ExtraLayer(hidden=64, channels=128, stride=1),
    ),
    feature_sizes=(12, 6, 3, 1),
    steps=(8, 16, 32, 96),
    scales=(18, 32, 48, 66, 84),
    aspect_ratios=((2,), (2, 3), (2, 3), (2,)),
    num_classes=5,
)

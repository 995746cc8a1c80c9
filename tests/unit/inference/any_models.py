"""Models that are no classifiers of images, small: other inputs, other answers, code that no tracing can follow."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from testbed.inference.torchvision_zoo import torchvision_models


class Lstm(nn.Module):
    """Two tensors of its recurrent layer are read: both sides of a cut would compute it anew."""

    example_inputs = (torch.randn(1, 12, 6),)

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.out = nn.LSTM(6, 16, 2, batch_first=True), nn.Linear(16, 4)

    def forward(self, sound: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        steps, (hidden, cell) = self.lstm(sound)
        return self.out(steps), {"hidden": hidden, "cell": cell}


class UNet(nn.Module):
    input_shape = (3, 32, 32)

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 16, 3, stride=2, padding=1)
        self.up, self.out = nn.ConvTranspose2d(16, 8, 2, stride=2), nn.Conv2d(16, 2, 1)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        fine = self.first(image).relu()
        coarse = self.up(self.second(fine).relu())
        return {"mask": self.out(torch.cat([fine, coarse], 1))}


class Sound(nn.Module):
    """int16 samples, and how many of them count."""

    example_inputs = {  # noqa: RUF012
        "samples": torch.arange(-400, 400, dtype=torch.int16)[None],
        "gain": torch.tensor([[0.5]], dtype=torch.float64),
    }

    def __init__(self) -> None:
        super().__init__()
        self.bands = nn.Conv1d(1, 4, 25, stride=10)

    def forward(self, samples: Tensor, gain: Tensor) -> Tensor:
        return self.bands(samples[:, None].float() / 32768 * gain.float()).abs().mean(-1)


class Gate(nn.Module):
    """Which way it goes depends on what it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        if x[0, 0, 0, 0] > 0:
            return self.conv(x)
        return x * 2


class Gated(nn.Module):
    input_shape = (3, 16, 16)

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.gate, self.head = nn.Conv2d(3, 8, 3), Gate(), nn.Linear(8, 5)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.gate(self.stem(image)).mean((2, 3)))


class Boxes(nn.Module):
    """Box decoding and non-maximum suppression: how many are left depends on what is seen."""

    def forward(self, found: Tensor) -> list[dict[str, Tensor]]:
        from torchvision.ops import nms

        scores = found[:, 0].sigmoid()
        corner = found[:, 1:3] * 32
        boxes = torch.cat([corner, corner + found[:, 3:5].exp() * 8], 1)
        boxes, scores = boxes[scores > 0.5], scores[scores > 0.5]
        kept = nms(boxes, scores, 0.3)
        if len(kept) > 5:
            kept = kept[:5]
        return [{"boxes": boxes[kept], "scores": scores[kept]}]


class SmallDetector(nn.Module):
    input_shape = (3, 32, 32)

    def __init__(self) -> None:
        super().__init__()
        torchvision_models()
        self.backbone = nn.Sequential(nn.Conv2d(3, 8, 3, stride=4), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2), nn.ReLU())
        self.head = nn.Conv2d(8, 5, 1)
        self.boxes = Boxes()

    def forward(self, image: Tensor) -> list[dict[str, Tensor]]:
        return self.boxes(self.head(self.backbone(image)).flatten(2)[0].T)  # type: ignore[no-any-return]


def named_opaque() -> nn.Module:
    """The same with a part that could be followed, named by its owner."""
    model = SmallDetector()
    model.opaque = ("back*", "boxes")  # type: ignore[assignment]
    return model


def misnamed_opaque() -> nn.Module:
    model = SmallDetector()
    model.opaque = ("backbones",)  # type: ignore[assignment]
    return model


class Kept(nn.Module):
    """One tensor, of a size that differs from task to task, and no module to take whole."""

    input_shape = (3, 16, 16)

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, image: Tensor) -> Tensor:
        seen = self.conv(image).flatten()
        return seen[seen > 0.1]


class Scribbles(nn.Module):
    """Cannot be followed, and writes into what it is given."""

    def forward(self, x: Tensor) -> Tensor:
        if float(x.mean()) > -1e9:
            x.mul_(3.0)
        return x.sum((2, 3))


class Scribbled(nn.Module):
    input_shape = (3, 16, 16)

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.scribbles = nn.Conv2d(3, 4, 3), Scribbles()

    def forward(self, image: Tensor) -> Tensor:
        return self.scribbles(self.conv(image))  # type: ignore[no-any-return]


class Assigns(nn.Module):
    """Assignments to parts of a new tensor, and of one that was computed; an exit that is always computed."""

    input_shape = (3, 16, 16)

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.early, self.late = nn.Conv2d(3, 4, 3), nn.Linear(4, 3), nn.Linear(8, 3)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        seen = self.conv(image)
        means = seen.mean((2, 3))
        both = torch.zeros(1, 8)
        both[:, :4] = means
        both[:, 4:] = seen.amax((2, 3))
        seen[:, 0] = 0.0
        both += seen.sum()
        return {"early": self.early(means), "late": self.late(both)}


class LooksAtItself(nn.Module):
    """A method that cannot be followed, in the middle of code that can."""

    input_shape = (3, 16, 16)

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head, self.other = nn.Conv2d(3, 4, 3), nn.Linear(4, 3), nn.Linear(4, 4)

    def brightest(self, x: Tensor) -> Tensor:
        return x[:, :, int(x.mean(1).argmax()) // x.shape[3]].max(-1).values

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.other(self.brightest(self.conv(image))))  # type: ignore[no-any-return]


class _OnImages(nn.Module):
    input_shape = (3, 64, 64)

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> Any:
        return self.model(image)


_SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}


def dinov2() -> nn.Module:
    from transformers import Dinov2Config, Dinov2Model

    return _OnImages(
        Dinov2Model(
            Dinov2Config(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=64, patch_size=16)
        )
    )


def yolos() -> nn.Module:
    from transformers import YolosConfig, YolosForObjectDetection

    config = YolosConfig(image_size=[64, 64], patch_size=16, num_detection_tokens=10, **_SMALL)
    return _OnImages(YolosForObjectDetection(config))


def segformer() -> nn.Module:
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    sizes = {"hidden_sizes": [8, 16, 24, 32], "depths": [1] * 4, "num_attention_heads": [1, 2, 4, 8]}
    return _OnImages(SegformerForSemanticSegmentation(SegformerConfig(decoder_hidden_size=16, **sizes)))


def bert() -> nn.Module:
    """Two integer tensors by name."""
    from transformers import BertConfig, BertModel

    model = BertModel(BertConfig(vocab_size=1000, **_SMALL))
    tokens, mask = torch.arange(16).view(1, 16) * 60, torch.tensor([[1] * 12 + [0] * 4])
    model.example_inputs = {"input_ids": tokens, "attention_mask": mask}
    return model


def whisper_encoder() -> nn.Module:
    from transformers import WhisperConfig
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    config = WhisperConfig(
        d_model=32, encoder_layers=2, encoder_attention_heads=2, encoder_ffn_dim=64, num_mel_bins=8,
        max_source_positions=50,
    )  # fmt: skip
    model: nn.Module = WhisperEncoder(config)
    model.example_inputs = (torch.randn(1, 8, 100),)  # type: ignore[assignment]
    return model

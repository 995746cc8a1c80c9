"""Models of the zoos by family, with random weights: what the survey traces. A name of this module is a factory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from controller.user_code import prepare_torchvision

#: 70 classifiers of timm, one or two of a family, small ones.
_TIMM = """
beit_base_patch16_224 caformer_s18 cait_xxs24_224 coat_lite_tiny coatnet_nano_rw_224 convit_tiny convmixer_768_32
convnext_atto convnextv2_atto crossvit_9_240 cs3darknet_s cspresnet50 darknet21 davit_tiny deit_tiny_patch16_224
deit_tiny_distilled_patch16_224 densenet121 dla34 dpn68 eca_halonext26ts edgenext_xx_small efficientformer_l1
efficientformerv2_s0 efficientnet_b0 efficientvit_b0 efficientvit_m0 ese_vovnet19b_dw eva02_tiny_patch14_224
fastvit_t8 fbnetc_100 focalnet_tiny_srf gcvit_xxtiny gernet_s ghostnetv2_100 gmlp_ti16_224 halonet26t hgnetv2_b0
hiera_tiny_224 hrnet_w18_small inception_next_atto inception_v4 lambda_resnet26t levit_128s mambaout_femto
maxvit_pico_rw_256 mixer_s32_224 mixnet_s mobilenetv4_conv_small mobilevit_xxs mobilevitv2_050 mvitv2_tiny nest_tiny
nextvit_small nfnet_l0 pit_ti_224 poolformer_s12 pvt_v2_b0 regnety_002 repvgg_a0 res2net50_14w_8s resmlp_12_224
resnest14d rexnet_100 sequencer2d_s swin_tiny_patch4_window7_224 swinv2_tiny_window8_256 tiny_vit_5m_224
tnt_s_patch16_224 twins_svt_small volo_d1_224
"""
TIMM = tuple(_TIMM.split())


class Wrapped(nn.Module):
    """A model for images under a module that says which."""

    def __init__(self, model: nn.Module, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.model = model
        self.input_shape = shape

    def forward(self, image: torch.Tensor) -> Any:
        return self.model(image)


def __getattr__(name: str) -> Callable[[], nn.Module]:
    """``timm_NAME``: a factory."""
    if not name.startswith("timm_"):
        raise AttributeError(name)

    def make() -> nn.Module:
        prepare_torchvision()
        import timm

        model: nn.Module = timm.create_model(name.removeprefix("timm_"), pretrained=False)
        model.input_shape = tuple(model.pretrained_cfg["input_size"])  # type: ignore[index, assignment]
        return model

    return make


def _small(**more: Any) -> dict[str, Any]:
    own = {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 3, "intermediate_size": 96}
    return {**own, **more}


def _on_images(name: str, config: str, side: int = 64, **options: Any) -> nn.Module:
    import transformers

    return Wrapped(getattr(transformers, name)(getattr(transformers, config)(**options)), (3, side, side))


def vit() -> nn.Module:
    return _on_images("ViTForImageClassification", "ViTConfig", **_small(image_size=64, patch_size=16))


def dinov2() -> nn.Module:
    options = _small(image_size=64, patch_size=16)
    del options["intermediate_size"]
    return _on_images("Dinov2Model", "Dinov2Config", **options)


def beit() -> nn.Module:
    options = _small(image_size=64, patch_size=16, use_relative_position_bias=True)
    return _on_images("BeitForImageClassification", "BeitConfig", **options)


def swin() -> nn.Module:
    options = {"image_size": 64, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4}
    return _on_images("SwinForImageClassification", "SwinConfig", **options)


def segformer() -> nn.Module:
    options = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 2, 4, 8]}
    return _on_images("SegformerForSemanticSegmentation", "SegformerConfig", decoder_hidden_size=16, **options)


def yolos() -> nn.Module:
    options = _small(image_size=[64, 64], patch_size=16, num_detection_tokens=10)
    return _on_images("YolosForObjectDetection", "YolosConfig", **options)


def detr() -> nn.Module:
    import transformers

    backbone = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1], out_features=["stage4"]
    )
    attention = {f"{side}_{what}": 2 for side in ("encoder", "decoder") for what in ("layers", "attention_heads")}
    config = transformers.DetrConfig(
        use_timm_backbone=False, use_pretrained_backbone=False, backbone=None, backbone_config=backbone,
        d_model=32, encoder_ffn_dim=64, decoder_ffn_dim=64, num_queries=10, **attention,
    )  # fmt: skip
    return Wrapped(transformers.DetrForObjectDetection(config), (3, 64, 64))


def clip_vision() -> nn.Module:
    return _on_images("CLIPVisionModel", "CLIPVisionConfig", **_small(image_size=64, patch_size=16))


def convnext() -> nn.Module:
    return _on_images("ConvNextForImageClassification", "ConvNextConfig", hidden_sizes=[8, 16, 24, 32], depths=[1] * 4)


def mobilevit() -> nn.Module:
    return _on_images("MobileViTForImageClassification", "MobileViTConfig", image_size=64)


def bert() -> nn.Module:
    import transformers

    model = transformers.BertModel(transformers.BertConfig(vocab_size=1000, **_small()))
    mask = torch.tensor([[1] * 12 + [0] * 4])
    model.example_inputs = {"input_ids": torch.arange(16).view(1, 16) * 60, "attention_mask": mask}
    return model


def whisper_encoder() -> nn.Module:
    """Whisper-tiny's, whole: 30 s of sound as 80 mel bands."""
    import transformers
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    config = transformers.WhisperConfig(d_model=384, encoder_layers=4, encoder_attention_heads=6, encoder_ffn_dim=1536)
    model: nn.Module = WhisperEncoder(config)
    model.example_inputs = (torch.randn(1, 80, 3000),)  # type: ignore[assignment]
    return model


#: Of Hugging Face, small configurations but Whisper's.
_TRANSFORMERS = """
vit dinov2 beit swin segformer yolos detr clip_vision convnext mobilevit bert whisper_encoder
"""
TRANSFORMERS = tuple(_TRANSFORMERS.split())

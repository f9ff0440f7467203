"""Catalog: every architecture by name, with what a user reads before choosing it. A new one is a file and an entry."""

from functools import partial

from segcore.models.architecture import Architecture, Told
from segcore.models.attention_unet import AttentionUNet, AttentionUNetArguments
from segcore.models.classic.entries import CLASSIC
from segcore.models.conv1 import Conv1, Conv1Arguments
from segcore.models.convlstm_unet import ConvLSTMUNet, ConvLSTMUNetArguments
from segcore.models.deeplab import DeepLab, DeepLabArguments
from segcore.models.fcn import FCN, FCNArguments
from segcore.models.mask_rcnn import MaskRCNNArguments, mask_rcnn
from segcore.models.monai_networks import (
    UNETR,
    DynUNet,
    DynUNetArguments,
    SegResNetArguments,
    SwinUNETRArguments,
    UNETRArguments,
    segresnet,
    swin_unetr,
)
from segcore.models.pspnet import PSPNet, PSPNetArguments
from segcore.models.segformer import SegFormer, SegFormerArguments
from segcore.models.segnet import SegNet, SegNetArguments
from segcore.models.tile_classifier import TileClassifier, TileClassifierArguments
from segcore.models.unet import UNet, UNetArguments

_FCN_PAPER = "Long et al., Fully Convolutional Networks for Semantic Segmentation, 2015"
_VOLUME = ("z", "y", "x")

ARCHITECTURES: dict[str, Architecture] = {
    "unet": Architecture(
        UNetArguments,
        UNet,
        "U-Net",
        "encoder-decoder",
        "Ronneberger et al., U-Net: Convolutional Networks for Biomedical Image Segmentation, 2015",
        "the default: little data, thin or small structures, exact borders",
        96,
    ),
    "attention_unet": Architecture(
        AttentionUNetArguments,
        AttentionUNet,
        "Attention U-Net",
        "encoder-decoder",
        "Oktay et al., Attention U-Net: Learning Where to Look for the Pancreas, 2018",
        "small objects in much that looks alike: skips let through only what the coarse stages ask for",
        96,
    ),
    "segnet": Architecture(
        SegNetArguments,
        SegNet,
        "SegNet",
        "encoder-decoder",
        "Badrinarayanan et al., SegNet: A Deep Convolutional Encoder-Decoder Architecture for Image Segmentation, 2017",
        "little memory: of the fine stages only the places of the maxima are kept",
        128,
    ),
    "fcn32s": Architecture(
        FCNArguments,
        partial(FCN, finest=32),
        "FCN-32s",
        "fully convolutional",
        _FCN_PAPER,
        "large regions, from published encoder weights; borders are coarse",
        256,
    ),
    "fcn16s": Architecture(
        FCNArguments,
        partial(FCN, finest=16),
        "FCN-16s",
        "fully convolutional",
        _FCN_PAPER,
        "as FCN-32s, with borders twice as fine",
        256,
    ),
    "fcn8s": Architecture(
        FCNArguments,
        partial(FCN, finest=8),
        "FCN-8s",
        "fully convolutional",
        _FCN_PAPER,
        "the finest of the three, and the one to compare with",
        256,
    ),
    "pspnet": Architecture(
        PSPNetArguments,
        PSPNet,
        "PSPNet",
        "pyramid pooling",
        "Zhao et al., Pyramid Scene Parsing Network, 2017",
        "scenes whose whole says what a part is: streets, land cover",
        None,
    ),
    "deeplabv3plus": Architecture(
        DeepLabArguments,
        DeepLab,
        "DeepLabv3+",
        "atrous convolution",
        "Chen et al., Encoder-Decoder with Atrous Separable Convolution for Semantic Image Segmentation, 2018",
        "objects of very different sizes, from published encoder weights",
        None,
    ),
    "segformer": Architecture(
        SegFormerArguments,
        SegFormer,
        "SegFormer",
        "transformer",
        "Xie et al., SegFormer: Simple and Efficient Design for Semantic Segmentation with Transformers, 2021",
        "much data, and context from far away",
        None,
    ),
    "convlstm_unet": Architecture(
        ConvLSTMUNetArguments,
        ConvLSTMUNet,
        "ConvLSTM U-Net",
        "recurrent",
        "Shi et al., Convolutional LSTM Network: A Machine Learning Approach for Precipitation Nowcasting, 2015",
        "sequences (video, satellite time series) where a frame is clearer in the light of those before it",
        None,
    ),
    "dynunet": Architecture(
        DynUNetArguments,
        DynUNet,
        "DynUNet",
        "encoder-decoder",
        "Isensee et al., nnU-Net: a Self-Configuring Method for Deep Learning-Based Biomedical Image Segmentation, "
        "2021",
        "the first choice for volumes: a wider U-Net with strided convolutions, as nnU-Net builds it",
        80,
        Told(16_545_378, 16, _VOLUME),
    ),
    "segresnet": Architecture(
        SegResNetArguments,
        segresnet,
        "SegResNet",
        "encoder-decoder",
        "Myronenko, 3D MRI brain tumor segmentation using autoencoder regularization, 2018",
        "volumes with little memory: a deep residual encoder and a thin decoder",
        128,
        Told(4_701_778, 8, _VOLUME),
    ),
    "swinunetr": Architecture(
        SwinUNETRArguments,
        swin_unetr,
        "Swin UNETR",
        "transformer",
        "Hatamizadeh et al., Swin UNETR: Swin Transformers for Semantic Segmentation of Brain Tumors in MRI Images, "
        "2022",
        "many volumes, or published weights: attention in windows, borders by convolutions",
        None,
        Told(15_709_388, 32, _VOLUME),
    ),
    "unetr": Architecture(
        UNETRArguments,
        UNETR,
        "UNETR",
        "transformer",
        "Hatamizadeh et al., UNETR: Transformers for 3D Medical Image Segmentation, 2022",
        "many volumes whose organs are told by their place; much memory",
        None,
        Told(99_078_242, 16, _VOLUME),
    ),
    "mask_rcnn": Architecture(
        MaskRCNNArguments,
        mask_rcnn,
        "Mask R-CNN",
        "detector",
        "He et al., Mask R-CNN, 2017",
        "objects that overlap or have unclear borders, each found as a whole; takes task instances",
        None,
        Told(43_975_515, 64, ("y", "x")),
        detects=True,
        library="torchvision",
    ),
    "tile_classifier": Architecture(
        TileClassifierArguments,
        TileClassifier,
        "tile classifier",
        "tile classifier",
        "Sermanet et al., OverFeat: Integrated Recognition, Localization and Detection using Convolutional Networks, "
        "2014",
        "a coarse map, fast, from targets that are rough themselves",
        32,
    ),
    "conv1": Architecture(
        Conv1Arguments,
        Conv1,
        "single convolution",
        "reference",
        "",
        "to see what the engine around a model costs, and how far a linear filter gets",
        0,
    ),
    **CLASSIC,
}

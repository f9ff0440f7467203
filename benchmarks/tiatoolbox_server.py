"""One turn of TIAToolbox's SemanticSegmentor per line of stdin; run by tiatoolbox_peer.py in TIAToolbox's environment.

The engine is as its documentation shows it for a model of one's own: batches of 8, one process, float32, probabilities
merged and saved as Zarr. Patches of 512 px give 448 px, so that a halo of 32 px is dropped as in our default. No tissue
mask is looked for: the contest is about all pixels.
"""

import shutil
import sys
from pathlib import Path
from typing import Any

import torch

if torch.version.cuda is None:
    # torchvision's own operators need CUDA's libraries; without these two names its import fails. None is ever called.
    _operators = torch.library.Library("torchvision", "DEF")
    _operators.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _operators.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

import numpy as np
from tiatoolbox.models.engine.io_config import IOSegmentorConfig
from tiatoolbox.models.engine.semantic_segmentor import SemanticSegmentor
from tiatoolbox.models.models_abc import ModelABC
from turns import serve

from segcore.models.package import ModelPackage, read_package

PATCH_PX, CORE_PX = 512, 448


class OurModel(ModelABC):  # type: ignore[misc]
    """The package's model behind TIAToolbox's signature."""

    def __init__(self, package: ModelPackage) -> None:
        super().__init__()
        self.net = package.load_weights()
        bands = (1, -1, 1, 1)
        self.register_buffer("mean", torch.tensor(package.contract.mean).reshape(bands))
        self.register_buffer("std", torch.tensor(package.contract.std).reshape(bands))

    def forward(self, tiles: torch.Tensor) -> torch.Tensor:
        """Probabilities of the patches' centres."""
        margin = (PATCH_PX - CORE_PX) // 2
        logits: torch.Tensor = self.net((tiles - self.mean) / self.std)
        return logits.softmax(dim=1)[:, :, margin:-margin, margin:-margin]

    @staticmethod
    def infer_batch(model: Any, batch_data: torch.Tensor, *, device: str) -> np.ndarray[Any, Any]:
        """Patches (N, Y, X, C) -> probabilities (N, Y, X, K)."""
        with torch.inference_mode():
            tiles = batch_data.to(device=device, dtype=torch.float32).permute(0, 3, 1, 2)
            answer: np.ndarray[Any, Any] = model(tiles).permute(0, 2, 3, 1).cpu().numpy()
        return answer

    @staticmethod
    def postproc(image: Any) -> Any:
        """The class of each pixel."""
        return image.argmax(axis=-1)


def main() -> None:
    slide, package, device = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    segmentor = SemanticSegmentor(OurModel(read_package(None, package)).eval(), device=device, verbose=False)
    resolution = {"units": "baseline", "resolution": 1.0}
    config = IOSegmentorConfig(
        input_resolutions=[resolution],
        output_resolutions=[resolution],
        patch_input_shape=(PATCH_PX, PATCH_PX),
        patch_output_shape=(CORE_PX, CORE_PX),
        stride_shape=(CORE_PX, CORE_PX),
        save_resolution=resolution,
    )
    target = slide.with_name("tiatoolbox")

    def act(_: str) -> None:
        shutil.rmtree(target, ignore_errors=True)
        segmentor.run(
            [slide], patch_mode=False, ioconfig=config, save_dir=target, output_type="zarr", auto_get_mask=False
        )

    act("")  # warms up
    serve(act)


if __name__ == "__main__":
    main()

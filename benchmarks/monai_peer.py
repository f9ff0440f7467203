"""One turn of MONAI's sliding window per line of stdin, as its users write it; run by predict.py.

    default           as its documentation shows it: float32, windows of 512 px that overlap by a quarter, gaussian,
                      four at once
    half              the same, overlapping by half
    same_precision    by a quarter, in the precision given, batch norm folded, channels last, one window at once,
                      buffered

Each turn goes from a whole image in a store to a mask in a store, which is written through ours.
"""

import itertools
import sys

import torch
from contest import MEAN, STD
from monai.inferers import sliding_window_inference
from turns import serve

from segcore.geometry import Window
from segcore.inference.prepared import DTYPES, prepared
from segcore.models.package import read_package
from segcore.store import PyramidSpec, Staging, Workspace

WINDOW_PX, WARM_PX = 512, 1024


class Monai:
    """The package's model behind MONAI's function.

    Args:
        ws: holds the image `scene`, and gets the masks.
        model_id: whose weights it has.
        device: where it runs.
        precision: of `same_precision`.
    """

    def __init__(self, ws: Workspace, model_id: str, device: torch.device, precision: str) -> None:
        self._ws, self._device, self._dtype = ws, device, DTYPES[precision]
        self._image = ws.image("scene")
        self._package = read_package(ws, model_id)
        self._plain = self._package.load_weights(device).eval()
        self._prepared = prepared(self._package, device, precision)
        self._names = (f"peer{number}" for number in itertools.count())
        for asked in ("default", "same_precision"):
            with torch.inference_mode():
                self._logits(asked, Window((0, 0, 0), (3, WARM_PX, WARM_PX)))

    def __call__(self, asked: str) -> None:
        with torch.inference_mode():
            logits = self._logits(asked, Window.whole(self._image.shape()))
            self._put(logits.argmax(dim=1)[0].to(torch.uint8))

    def _logits(self, asked: str, window: Window) -> torch.Tensor:
        pixels = torch.from_numpy(self._image.read(window)[None])
        normal = pixels.to(self._stitched_on(), torch.float32).sub_(MEAN[0]).div_(STD[0])
        if asked == "same_precision":
            normal = normal.to(self._dtype).to(memory_format=torch.channels_last)
            return self._slid(normal, self._prepared, overlap=0.25, sw_batch_size=1, buffer_steps=1)
        return self._slid(normal, self._plain, overlap=0.5 if asked == "half" else 0.25, sw_batch_size=4)

    def _slid(self, pixels: torch.Tensor, model: torch.nn.Module, **options: float) -> torch.Tensor:
        logits = sliding_window_inference(
            pixels, (WINDOW_PX, WINDOW_PX), predictor=model, mode="gaussian", sw_device=self._device,
            **options,  # type: ignore[arg-type]
        )  # fmt: skip
        assert isinstance(logits, torch.Tensor)
        return logits

    def _stitched_on(self) -> torch.device:
        """Where MONAI keeps image and sums: the GPU where they fit twice, else the host."""
        if self._device.type != "cuda":
            return self._device
        free_bytes, _ = torch.cuda.mem_get_info()
        return self._device if 2 * 40 * self._image.shape()[1] ** 2 < free_bytes else torch.device("cpu")

    def _put(self, mask: torch.Tensor) -> None:
        ids = mask.cpu().numpy()
        spec = PyramidSpec(axes=("y", "x"), shape=ids.shape, dtype="uint8", kind="mask")
        with Staging.begin(self._ws, "scene", next(self._names), {"peer": "monai"}, spec) as staging:
            staging.put_all(ids)
            staging.finish({}, classes=self._package.classes)


if __name__ == "__main__":
    uri, model, where, number_format = sys.argv[1:]
    serve(Monai(Workspace.open(uri), model, torch.device(where), number_format))

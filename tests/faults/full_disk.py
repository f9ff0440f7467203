"""A disk that fills up while predict writes, in a process of its own, and a second call after room is made.

python -m tests.faults.full_disk FOLDER    prints what both calls came to, as JSON
"""

import errno
import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import obstore

from segcore.config import PredictConfig
from segcore.inference import predict
from segcore.store import Objects, Workspace, objects
from tests.inference.scenes import every_level, scene, unet_package
from tests.synthetic import put_image

LEFT_BYTES = 150 << 10
"""Room for the first shards of the mask."""


def fill(folder: Path) -> Path:
    """Write until the disk has no more room than that."""
    filler = folder / "filler"
    usage = os.statvfs(folder)
    filler.write_bytes(os.urandom(usage.f_bavail * usage.f_frsize - LEFT_BYTES))
    return filler


def fail_from_now_on() -> Any:
    """Where no disk of its own can be had: what the disk says when it is full, after some more bytes."""
    put, left = obstore.put, [LEFT_BYTES]

    def full(store: Any, key: str, data: Any, **more: Any) -> Any:
        if "/labels/" in f"/{key}":
            left[0] -= len(data)
            if left[0] < 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return put(store, key, data, **more)

    objects.obstore.put = full
    return put


def main(folder: Path, has_own_disk: bool) -> None:
    ws = Workspace.open(str(folder), create=True)
    put_image(ws, "a", scene(1500, 1300))
    model = unet_package(ws).model_id
    config = PredictConfig(workspace=ws.uri, model=model, name="m", shard_px=256, device="cpu", tile_workers=1)
    filler = fill(folder) if has_own_disk else fail_from_now_on()
    first = predict(config).items[0]
    if has_own_disk:
        filler.unlink()
    else:
        objects.obstore.put = filler
    second = predict(config).items[0]
    digest = hashlib.sha256(b"".join(level.tobytes() for level in every_level(ws, "a", "m"))).hexdigest()
    leftovers = [key for key, _ in Objects(ws.uri).list("") if "#" in key or key.endswith(".partial")]
    told = {"error": first.error, "states": [first.state, second.state], "digest": digest, "leftovers": leftovers}
    print(json.dumps({**told, "resumed": second.details.get("shards_resumed")}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), has_own_disk=sys.argv[2] == "own")

"""Identity: what a label or layer was made of, as one digest; two of the same hold the same pixels."""

import hashlib

from segcore.store import Workspace


def state_digest(workspace: Workspace, image_id: str, name: str) -> str:
    """Digest of the frozen plan and metadata of an image, label or layer: same plans = same pixels."""
    prefix = f"state/{image_id}/{name}"
    numbers = sorted(int(folder) for folder in workspace.objects.folders(prefix) if folder.isdigit())
    digest = hashlib.sha256(str(numbers).encode())
    for part in ("plan.json", "finished.json"):
        digest.update(workspace.objects.get(f"{prefix}/{numbers[-1]}/{part}") or b"" if numbers else b"")
    return digest.hexdigest()

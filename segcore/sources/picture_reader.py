"""What is read as a picture: `pictures` opens it, and Pillow is loaded with the first of them."""

from segcore.sources.base import Format, Reader, opened_by
from segcore.sources.files import SourceFile

PNG = b"\x89PNG\r\n\x1a\n"
MAGIC = (PNG, b"\xff\xd8\xff", b"GIF87a", b"GIF89a", b"BM")


def _matches(file: SourceFile) -> bool:
    is_webp = file.head[:4] == b"RIFF" and file.head[8:12] == b"WEBP"
    return is_webp or any(file.head.startswith(magic) for magic in MAGIC)


READER = Reader(
    name="PNG, JPEG, GIF, WebP, BMP",
    rank=40,
    matches=_matches,
    open=opened_by("pictures"),
    formats=(
        Format(
            "PNG, JPEG, GIF, WebP, BMP",
            (".png", ".jpg", ".jpeg", ".gif", ".webp", ".bmp"),
            "decoded whole; one that moves is a sequence",
        ),
    ),
)

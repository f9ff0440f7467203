"""View: what is shown in the browser, and where."""

from pydantic import Field

from segcore.config.base import StageConfig


class ViewConfig(StageConfig):
    """A workspace -> pages in a browser."""

    image: str | None = None
    """Image id to begin with, instead of the list."""
    port: int = Field(default=0, ge=0, le=65535)
    """Port to listen on; 0 = any that is free."""
    host: str = "127.0.0.1"
    """Address to listen on. Others than this machine's own (0.0.0.0) let other machines in, without encryption."""
    browser: bool = True
    """Open the page in a browser, where there is a screen."""

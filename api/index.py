"""The entry that Vercel's Python runtime loads: docs/operate/deploy.md."""

from dub5.service.asgi import app

__all__ = ["app"]

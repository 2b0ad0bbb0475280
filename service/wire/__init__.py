"""Transport: one interface for HTTP requests to providers (`base.Wire`), with aiohttp or httpx behind it."""

"""The smallest settings file: one provider, one route."""


def one_route(base_url: str) -> str:
    """Return the settings of one route to a provider. `base_url` may hold a place of `str.format`."""
    return f"""
[[provider]]
name = "one"
dialect = "openai"
base_url = "{base_url}"
[[route]]
name = "chat"
targets = ["one/m"]
"""


ONE_ROUTE = one_route("http://127.0.0.1:9/v1")

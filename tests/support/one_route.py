"""The smallest settings file: one provider, one route."""

ONE_ROUTE = """
[[provider]]
name = "one"
dialect = "openai"
base_url = "http://127.0.0.1:9/v1"
[[route]]
name = "chat"
targets = ["one/m"]
"""

"""The service: an OpenAI-compatible gateway over many unreliable providers. `app.Service` is the entry."""

VERSION = "0.1.0"

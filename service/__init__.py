"""The product: an OpenAI-compatible chat service over many unreliable providers."""

VERSION = "0.1.0"

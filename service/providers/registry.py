"""Which dialect each configured provider speaks."""

from service.providers.anthropic import Anthropic
from service.providers.base import Dialect
from service.providers.mistral import Mistral
from service.providers.openai import OpenAI
from service.settings import ProviderSettings


def dialect_of(provider: ProviderSettings, event_bytes_max: int) -> Dialect:
    """The dialect a provider's settings name."""
    match provider.dialect:
        case "openai":
            return OpenAI(event_bytes_max, provider.differs)
        case "mistral":
            return Mistral(event_bytes_max, provider.differs)
        case "anthropic":
            return Anthropic(event_bytes_max, provider.api_version, provider.max_tokens, provider.differs)

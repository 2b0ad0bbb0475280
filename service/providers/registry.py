"""Which dialect each configured provider speaks."""

from dub5.service.config.settings import ProviderSettings
from dub5.service.providers.anthropic import Anthropic
from dub5.service.providers.base import Dialect
from dub5.service.providers.mistral import Mistral
from dub5.service.providers.openai import OpenAI


def dialect_of(provider: ProviderSettings, event_bytes_max: int) -> Dialect:
    """The dialect a provider's settings name."""
    match provider.dialect:
        case "openai":
            return OpenAI(event_bytes_max, provider.differs)
        case "mistral":
            return Mistral(event_bytes_max, provider.differs)
        case "anthropic":
            return Anthropic(event_bytes_max, provider.api_version, provider.max_tokens, provider.differs)

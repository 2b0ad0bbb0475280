"""Creates the dialect of each configured provider."""

from dub5.service.config.settings import ProviderSettings
from dub5.service.providers.anthropic import AnthropicDialect
from dub5.service.providers.base import Dialect
from dub5.service.providers.mistral import MistralDialect
from dub5.service.providers.openai import OpenAIDialect


def dialect_of(provider: ProviderSettings, event_bytes_max: int) -> Dialect:
    """Create the dialect that a provider's settings name."""
    match provider.dialect:
        case "openai":
            return OpenAIDialect(event_bytes_max, provider.overrides)
        case "mistral":
            return MistralDialect(event_bytes_max, provider.overrides)
        case "anthropic":
            return AnthropicDialect(
                event_bytes_max,
                provider.api_version,
                provider.max_tokens,
                provider.overrides,
                provider.output_tokens,
                provider.context_tokens,
            )

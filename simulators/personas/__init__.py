"""Personas: the wire formats of the simulated providers, by name."""

from collections.abc import Mapping

from dub5.simulators.personas.anthropic import AnthropicPersona
from dub5.simulators.personas.base import Persona
from dub5.simulators.personas.free import FreePersona
from dub5.simulators.personas.groq import GroqPersona
from dub5.simulators.personas.mistral import MistralPersona
from dub5.simulators.personas.openai import OpenAIPersona
from dub5.simulators.personas.openrouter import OpenRouterPersona

PERSONAS: Mapping[str, Persona] = {
    persona.name: persona
    for persona in (
        OpenAIPersona(),
        MistralPersona(),
        AnthropicPersona(),
        OpenRouterPersona(),
        GroqPersona(),
        FreePersona(),
    )
}

"""The simulated providers' ways of speaking, by name."""

from collections.abc import Mapping

from dub5.simulators.personas.anthropic import Anthropic
from dub5.simulators.personas.base import Persona
from dub5.simulators.personas.free import Free
from dub5.simulators.personas.groq import Groq
from dub5.simulators.personas.mistral import Mistral
from dub5.simulators.personas.openai import OpenAI
from dub5.simulators.personas.openrouter import OpenRouter

PERSONAS: Mapping[str, Persona] = {
    persona.name: persona for persona in (OpenAI(), Mistral(), Anthropic(), OpenRouter(), Groq(), Free())
}

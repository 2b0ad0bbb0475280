"""The simulated providers' ways of speaking, by name."""

from collections.abc import Mapping

from simulators.personas.anthropic import Anthropic
from simulators.personas.base import Persona
from simulators.personas.free import Free
from simulators.personas.groq import Groq
from simulators.personas.mistral import Mistral
from simulators.personas.openai import OpenAI
from simulators.personas.openrouter import OpenRouter

PERSONAS: Mapping[str, Persona] = {
    persona.name: persona for persona in (OpenAI(), Mistral(), Anthropic(), OpenRouter(), Groq(), Free())
}

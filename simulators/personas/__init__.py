"""The simulated providers' ways of speaking, by name."""

from collections.abc import Mapping

from simulators.personas.anthropic import Anthropic
from simulators.personas.base import Persona
from simulators.personas.mistral import Mistral
from simulators.personas.openai import OpenAI

PERSONAS: Mapping[str, Persona] = {persona.name: persona for persona in (OpenAI(), Mistral(), Anthropic())}

"""The way into grounding, for who loads it by name."""

from dub5.service.grounding.grounding import Grounding
from dub5.service.providers.slices import Steps


class GroundingOpener:
    """What makes a document ready to be asked about."""

    @staticmethod
    def of(text: str) -> Steps[Grounding]:
        """Return the document with this text, in steps."""
        return Grounding.of(text)

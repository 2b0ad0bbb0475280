"""Text of others for a terminal, which a control character could command."""


def printable(text: str, keep: str = "") -> str:
    """Return the text with a space for each character that is not printable, but those of `keep`."""
    return "".join(char if char.isprintable() or char in keep else " " for char in text)

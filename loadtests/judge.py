"""Whether a text is the answer to a prompt: the simulated providers' answers prove it themselves."""

from simulators.answers import Proof
from simulators.answers import judge as proof_of


def judge(text: str, prompt: str) -> str:
    """What is wrong with it, or nothing."""
    proof = proof_of(text, prompt)
    return "" if proof is Proof.WHOLE else f"the text is {proof.value}"

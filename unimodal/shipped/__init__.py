"""Models that come with the package: `um.load("demo")`. Each is a model folder with a card.

They are written by `python -m unimodal.training.release`.
"""

from pathlib import Path

CARD = "README.md"
"""What a shipped model is: size, data, licences, tokens, hours, machine, limits."""


def shipped_names() -> list[str]:
    """Names of the models that this installation holds."""
    return sorted(card.parent.name for card in Path(__file__).parent.glob(f"*/{CARD}"))


def shipped_folder(name: str) -> Path | None:
    """The model folder of a shipped name, or None."""
    return Path(__file__).parent / name if name in shipped_names() else None

"""Captions of drawings that name the design too, so that a model can be asked for one."""

from collections.abc import Sequence

from unimodal.errors import ConfigError

DESIGNS = {
    "noto": "noto design",
    "twemoji": "twemoji design",
    "fluent": "fluent design",
    "fluent-flat": "flat design",
    "fxemoji": "fxemoji design",
    "emojione": "emojione design",
    "openmoji": "outlined design",
}
"""Style to how a caption says it."""

CAPTIONS = ("name", "styled")
"""What a caption holds: the name alone; or a list of equally right phrasings, the one with article
and design first."""


def check_captions(captions: str) -> str:
    """`captions`, if it is one of `CAPTIONS`.

    Raises:
        ConfigError: otherwise.
    """
    if captions not in CAPTIONS:
        raise ConfigError(f"`captions` must be one of {CAPTIONS}, but is {captions!r}.")
    return captions


def styled(name: str, style: str, language: str = "en") -> Sequence[str]:
    """`red apple` to `a red apple, flat design`, and the same with less.

    Only English names get an article, and only where they do not look plural.
    """
    design = DESIGNS.get(style, f"{style} design")
    plural = name.endswith("s") and not name.endswith("ss")
    if language != "en" or plural:
        return [f"{name}, {design}", name]
    article = "an" if name[:1].lower() in tuple("aeiou") else "a"
    return [f"{article} {name}, {design}", f"{article} {name}", f"{name}, {design}", name]

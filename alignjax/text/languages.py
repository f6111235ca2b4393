"""The language of a text, by the package langdetect, seeded: equal texts have equal languages."""

import importlib.util
from typing import Any


def check_installed(what: str, extra: str) -> None:
    """Raises ValueError, naming what needs it and the extra to install, without langdetect."""
    if importlib.util.find_spec("langdetect") is None:
        raise ValueError(
            f"{what} needs the package langdetect; it is not installed. Run pip install "
            f"'alignjax[{extra}]'."
        )


def language(text: str) -> str:
    """The code of a text's most probable language (en, zh-cn), "" where it has no letters.

    langdetect draws at random: each text's detector is seeded, and no other thread's is.
    """
    from langdetect import detector_factory, lang_detect_exception

    detector_factory.init_factory()
    factory: Any = detector_factory._factory
    own = factory.create()
    own.seed = 0
    own.append(text)
    try:
        return str(own.detect())
    except lang_detect_exception.LangDetectException:
        return ""

"""Text in, ids and masks out: templates, chat, tokenizers. Imports nothing of ours but core."""

from typing import TYPE_CHECKING

from alignjax.core import modules

if not TYPE_CHECKING:
    __getattr__ = modules.at_first_use(__name__)

"""AlignJAX: language models from pretraining to alignment in functional JAX.

`import alignjax` loads none of it. What is named is imported when it is first used, at any depth:
`alignjax.losses.dpo`, `alignjax.models.transformer.transformer`, `alignjax.experiments.lifecycle`;
`alignjax.adapters` is `alignjax.models.adapters`.
"""

from types import ModuleType
from typing import TYPE_CHECKING

from alignjax.core import modules

__version__ = "0.1.0"

if not TYPE_CHECKING:

    def __getattr__(name: str) -> ModuleType:
        package, own = ("alignjax.models", name) if name == "adapters" else ("alignjax", name)
        return modules.at_first_use(package)(own)

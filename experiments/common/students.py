"""Students of one teacher, compared by how far their sequences are from its law."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from alignjax.core import shapes
from alignjax.lifecycles import lifecycle, listed

DISTANCE = "KL to the teacher, nats"


@dataclasses.dataclass(kw_only=True)
class StudentsLifecycle(listed.ListedLifecycle):
    """Stages of which two are students: one must come closer to the teacher than the other."""

    closer: str = ""  # the stage whose sequence KL to the teacher is to be smaller
    than: str = ""
    share: float = 0.0  # at most this times the other's; 0 asks for nothing

    def validate(self) -> None:
        super().validate()
        shapes.check_number("share", self.share, minimum=0)
        for name in (self.closer, self.than):
            shapes.check_choice("closer and than", name, [stage.name for stage in self.stages])

    def course(self, space: lifecycle.Workspace) -> lifecycle.Course:
        return _Students(self, super().course(space))


class _Students:
    """The report of the stages, with the ratio of two students' distances."""

    def __init__(self, config: StudentsLifecycle, inner: lifecycle.Course):
        self.config, self.inner = config, inner

    @property
    def stages(self) -> Sequence[lifecycle.Stage]:
        return self.inner.stages

    def report(self) -> tuple[dict[str, Any], list[lifecycle.Gate]]:
        results, gates = self.inner.report()
        config = self.config
        found = {row["stage"]: row["metrics"] for row in results["rows"]}
        near, far = (found[name][DISTANCE]["value"] for name in (config.closer, config.than))
        results["notes"].append(
            f"{DISTANCE}: {config.closer} {near:.3f}, {config.than} {far:.3f}, ratio "
            f"{near / far:.3f}."
        )
        if config.share:
            label = f"{DISTANCE}, {config.closer} over {config.than}"
            gates.append(lifecycle.Gate(label, near / far, "<=", config.share))
            results["gates"] = [gate.as_dict() for gate in gates]
        return results, gates

"""The tasks of `prepare` as an Apache Beam pipeline, where one machine is too small for a corpus.

The tasks, and the files that they write, are those of the local workers. Source and cache must be
where every worker of the runner can reach them: a bucket, or a shared file system.
"""

import shlex
from collections.abc import Callable, Iterator
from typing import Any

from alignjax.core import errors
from alignjax.data import records


def runner(options: str) -> Callable[..., Any]:
    """A runner of tasks, in place of `workers.run`; options: of the pipeline, as on a command line.

    Raises:
      ValueError: Apache Beam is not installed.
    """
    try:
        from apache_beam.options import pipeline_options
    except ImportError:
        raise ValueError(
            "--beam must find Apache Beam; got no such package (prepare). pip install "
            "'alignjax[beam]', or leave --beam out."
        ) from None
    own = pipeline_options.PipelineOptions(shlex.split(options))

    def run(
        function: Callable[..., Any], shared: tuple[Any, ...], tasks: list[Any], count: int
    ) -> Iterator[Any]:
        """Runs the tasks; what they find is in the files that they write, so nothing is yielded."""
        if tasks:
            _run(own, function, shared, tasks)
        return iter(())

    return run


def _run(options: Any, function: Callable[..., Any], shared: tuple[Any, ...], tasks: Any) -> None:
    import apache_beam as beam

    try:
        with beam.Pipeline(options=options) as pipeline:
            _ = (
                pipeline
                | "tasks" >> beam.Create(list(tasks))
                | "spread" >> beam.Reshuffle()
                | "run" >> beam.Map(lambda task: function(*shared, task))
            )
    except records.DataError:
        raise
    except ValueError as error:
        raise ValueError(errors.condense(error)) from None
    except Exception as error:  # a runner wraps what its workers raise
        raise errors.Failure(f"the Beam pipeline must end; got {errors.condense(error)}.") from None

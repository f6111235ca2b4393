"""A process of its own that renders one Jinja template; see `jinja_template`, which starts it.

It is run by path with `python -I`, imports jinja2 and nothing of this package, and speaks JSON
lines: first {"source", "date", "limit", "marks", "seconds"}, then {"variables"} for every
rendering. It answers {"text"} or {"error"}. Memory is bounded here; time by the other side, which
ends the process, and by an alarm that the process sets itself, so that nothing of it is left where
the other side was killed.
"""

import datetime
import json
import resource
import signal
import sys

MEMORY = 1 << 30  # bytes of address space, of which the interpreter takes about a fifth


def environment(date, marks):
    """Returns an immutable sandbox with the names that model folders' templates rely on."""
    import jinja2
    import jinja2.ext
    import jinja2.nodes
    import jinja2.sandbox

    class Generation(jinja2.ext.Extension):
        """{% generation %} ... {% endgeneration %}: the body between the two marks."""

        tags = {"generation"}  # noqa: RUF012 - Jinja's own way of declaring tags

        def parse(self, parser):
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            start, stop = (
                jinja2.nodes.Output([jinja2.nodes.TemplateData(mark)], lineno=line)
                for mark in marks
            )
            return [start, *body, stop]

    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(str(message))

    def strftime_now(layout):
        return datetime.date.fromisoformat(date).strftime(layout)

    def tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(
            value,
            ensure_ascii=ensure_ascii,
            indent=indent,
            separators=separators,
            sort_keys=sort_keys,
        )

    sandbox = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols, Generation]
    )
    sandbox.filters["tojson"] = tojson
    sandbox.globals["raise_exception"] = raise_exception
    # Without a date a template takes the day that it falls back on, if it has one.
    if date is not None:
        sandbox.globals["strftime_now"] = strftime_now
    return sandbox


def within(seconds):
    """Ends the process after so many seconds and a little, whatever it does; 0 lets it wait.

    The alarm's own action, not a handler: one would have to wait for a single long operation.
    """
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, seconds + 1 if seconds else 0)


def bounded(chunks, limit):
    """Returns the joined chunks; ValueError as soon as they are longer than the limit."""
    parts, size = [], 0
    for chunk in chunks:
        size += len(chunk)
        if size > limit:
            raise ValueError(f"it writes more than {limit} characters")
        parts.append(chunk)
    return "".join(parts)


def main():
    """Renders templates asked for on stdin until it ends."""
    start = json.loads(sys.stdin.readline())
    within(start["seconds"])
    template = failed = None
    try:
        sandbox = environment(start["date"], start["marks"])
        for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA):
            resource.setrlimit(kind, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
        template = sandbox.from_string(start["source"])
    except Exception as error:
        failed = error
    within(0)
    for line in sys.stdin:
        answer = {}
        within(start["seconds"])
        try:
            if template is None:
                raise failed
            chunks = template.generate(**json.loads(line)["variables"])
            answer["text"] = bounded(chunks, start["limit"])
        except MemoryError:
            answer["error"] = "it takes too much memory"
        except Exception as error:
            answer["error"] = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            if type(error).__name__ == "UndefinedError" and "strftime_now" in str(error):
                answer["error"] = "it asks for today's date, which must be given as date"
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
        within(0)


if __name__ == "__main__":
    main()

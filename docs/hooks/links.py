"""Links of pages to files outside docs/ are right on GitHub and on the site.

A page links to `../CHANGELOG.md` or `../experiments/lifecycle.py`, as the repository has them. The
site gets these files under `source/`, and the links lead there. A link to nothing ends the build.
"""

import pathlib
import posixpath
import re

ROOT = pathlib.Path(__file__).resolve().parents[2]
DOCS, SOURCE = "docs", "source"
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)\s#]+)((?:#[^)\s]*)?)(?=\))")
FENCE = re.compile(r"^(```|~~~).*?^\1", re.DOTALL | re.MULTILINE)


def place_of(page: str) -> str:
    """The place of a page of the site in the repository."""
    own = page.removeprefix(f"{SOURCE}/")
    return own if own != page else f"{DOCS}/{page}"


def target(page: str, link: str) -> str:
    """The page or file of the site that a link of a page leads to.

    Raises:
      ValueError: the repository has no such file.
    """
    place = posixpath.normpath(posixpath.join(posixpath.dirname(place_of(page)), link))
    if place.startswith("..") or not (ROOT / place).is_file():
        raise ValueError(f"links must lead to files of the repository; got {link} ({page}).")
    inside = place.removeprefix(f"{DOCS}/")
    return inside if inside != place else f"{SOURCE}/{place}"


def links(text: str) -> list[str]:
    """The links of a page's Markdown to files, outside of code."""
    return [match[1] for match in LINK.finditer(FENCE.sub("", text))]


def rewritten(page: str, text: str) -> str:
    """The Markdown of a page with its links as the site has them."""

    def replace(match: re.Match[str]) -> str:
        away = posixpath.relpath(target(page, match[1]), posixpath.dirname(page) or ".")
        return away + match[2]

    parts, end = [], 0
    for fence in FENCE.finditer(text):
        parts += [LINK.sub(replace, text[end : fence.start()]), fence[0]]
        end = fence.end()
    return "".join([*parts, LINK.sub(replace, text[end:])])


def outside(page: str, text: str) -> set[str]:
    """The files outside docs/ that a page links to, as the site has them."""
    found = {target(page, link) for link in links(text)}
    return {own for own in found if own.startswith(f"{SOURCE}/")}


def on_files(files, config):
    """Adds the files outside docs/ that pages link to, and those that these link to."""
    from mkdocs.structure.files import File

    waiting = [file.src_uri for file in files.documentation_pages()]
    while waiting:
        page = waiting.pop()
        text = (ROOT / place_of(page)).read_text(encoding="utf-8")
        for own in sorted(outside(page, text)):
            if files.get_file_from_path(own) is None:
                added = File.generated(config, own, abs_src_path=str(ROOT / place_of(own)))
                files.append(added)
                waiting += [own] if own.endswith(".md") else []
    return files


def on_page_markdown(markdown, page, config, files):
    """Links as the site has them."""
    return rewritten(page.file.src_uri, markdown)

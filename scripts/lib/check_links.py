"""Check that every link between the Markdown files of the checkout leads to a file, and to a heading if it names one. Offline."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

ROOT = Path(__file__).resolve().parents[2]
FENCE = re.compile(r"^ {0,3}(```+|~~~+)")
INLINE = re.compile(r"!?\[(?:[^\[\]]|\[[^\]]*\])*\]\(\s*<?([^)\s>]+)>?(?:\s+[\"'(][^)]*)?\)")
DEFINITION = re.compile(r"^ {0,3}\[([^\]]+)\]:\s*<?(\S+?)>?(?:\s+[\"'(].*)?$")
REFERENCE = re.compile(r"\[[^\[\]]+\]\[([^\[\]]+)\]")
HEADING = re.compile(r"^ {0,3}(#{1,6})\s+(.*?)(?:\s+#+)?\s*$")
ANCHOR = re.compile(r"<a\s+(?:id|name)=[\"']([^\"']+)[\"']")
EXTERNAL = re.compile(r"^[a-z][a-z0-9+.-]*:", re.IGNORECASE)


def main(root: Path = ROOT) -> int:
    pages = markdown_files(root)
    broken = [f"{page.relative_to(root)}:{line}: {why}" for page in pages for line, why in problems(page, root)]
    print("\n".join(broken) or f"links: {len(pages)} pages, no dead links inside the checkout")
    return 1 if broken else 0


def markdown_files(root: Path) -> list[Path]:
    command = ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard", "*.md"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return sorted(root / name for name in set(listed.split("\0")) if name and (root / name).is_file())


def problems(page: Path, root: Path) -> Iterator[tuple[int, str]]:
    lines = list(prose(page.read_text(encoding="utf-8")))
    defined = {match[1].casefold() for _, text in lines if (match := DEFINITION.match(text))}
    for number, text in lines:
        definition = DEFINITION.match(text)
        targets = [definition[2]] if definition else INLINE.findall(text)
        for target in targets:
            if not EXTERNAL.match(target) and (why := why_dead(target, page, root)):
                yield number, why
        for name in [] if definition else REFERENCE.findall(text):
            if name.casefold() not in defined:
                yield number, f"[{name}] is not defined on this page"


def why_dead(target: str, page: Path, root: Path) -> str | None:
    """Return why a link is dead, or None if it is not."""
    name, _, fragment = target.partition("#")
    path = (page.parent / unquote(name)).resolve() if name else page
    if not path.is_relative_to(root):
        return f"{target} leaves the checkout"
    if not path.exists():
        return f"{target}: no such file"
    if fragment and path.suffix == ".md" and unquote(fragment) not in anchors(path.read_text(encoding="utf-8")):
        return f"{target}: {path.relative_to(root)} has no such heading"
    return None


def anchors(markdown: str) -> set[str]:
    """Return the anchors of a page: those that GitHub makes of the headings, and explicit ones."""
    found: dict[str, int] = {}
    explicit: set[str] = set()
    for _, text in prose(markdown, code_spans=True):
        explicit.update(ANCHOR.findall(text))
        if heading := HEADING.match(text):
            words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading[2])
            slug = re.sub(r"[^\w\- ]", "", words.lower()).replace(" ", "-")
            found[slug] = found.get(slug, -1) + 1
            if found[slug]:
                explicit.add(f"{slug}-{found[slug]}")
    return explicit | found.keys()


def prose(markdown: str, *, code_spans: bool = False) -> Iterator[tuple[int, str]]:
    """Yield the numbered lines outside fenced code, by default without their code spans."""
    fence = ""
    for number, line in enumerate(markdown.splitlines(), start=1):
        mark = FENCE.match(line)
        if fence:
            if mark and mark[1].startswith(fence):
                fence = ""
        elif mark:
            fence = mark[1]
        else:
            yield number, line if code_spans else re.sub(r"(`+)(?!`).*?(?<!`)\1(?!`)", "", line)


if __name__ == "__main__":
    sys.exit(main())

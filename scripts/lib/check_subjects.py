#!/usr/bin/env python3
"""Check that commit subjects are imperative and at most 72 characters: `check_subjects.py [MESSAGE FILE]`.

Without an argument it checks the commits since the merge base with origin/main (or main), or HEAD alone if there are none. With the file
of a commit message it checks that message, so git can run it as the hook `commit-msg`.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

LAST_BEFORE = "27383536185f"  # the last commit that is older than this check; the history before it stays
MAX_LENGTH = 72  # git log indents a subject by 4 columns, and a terminal has 80
AREA = re.compile(r"^[A-Z][^:]{0,30}: ")  # "Proxy: ...", optional
GENERATED = re.compile(r"^(Merge|Revert|fixup!|squash!|amend!) ")
NOT_A_VERB = re.compile(
    r"^(a|an|the|no|not|what|whether|who|how|why|when|where|which|if|it|this|that|these|all|each|every|some|more)$"
)
# Other forms of a verb, and imperatives that only look like them.
OTHER_FORM = re.compile(r"(ed|ing|[^s]s)$")
IMPERATIVES = re.compile(r"^(bias|bring|bypass|embed|exceed|feed|focus|need|ping|proceed|seed|shed|speed|succeed)$")


def find_problem(subject: str) -> str | None:
    """Return what is wrong with a subject, or None."""
    if GENERATED.match(subject):
        return None
    if len(subject) > MAX_LENGTH:
        return f"is {len(subject)} characters long, not at most {MAX_LENGTH}"
    if subject.endswith("."):
        return "ends with a full stop"
    text = AREA.sub("", subject)
    if text == subject and not subject[:1].isupper():
        return "does not begin with a capital letter"
    first = re.split(r"\W", text.lower(), maxsplit=1)[0]
    if NOT_A_VERB.match(first) or (OTHER_FORM.search(first) and not IMPERATIVES.match(first)):
        return f"does not begin with a verb in the imperative, such as 'Add': {first!r}"
    return None


def git(*arguments: str) -> str | None:
    """Return the output of a git command, or None if it fails."""
    completed = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)
    return completed.stdout.strip() if completed.returncode == 0 else None


def commit_subjects() -> list[str]:
    """Return the subjects of the commits since the merge base with the main branch, or of HEAD."""
    base = git("merge-base", "HEAD", "origin/main") or git("merge-base", "HEAD", "main")
    old = [f"^{LAST_BEFORE}"] if git("rev-parse", "--verify", "--quiet", f"{LAST_BEFORE}^{{commit}}") else []
    new = git("log", "--no-merges", "--format=%s", f"{base}..HEAD", *old) if base else None
    return (new or git("log", "-1", "--no-merges", "--format=%s") or "").splitlines()


def main(arguments: list[str]) -> int:
    """Return 0 if all subjects are right, else 1."""
    subjects = Path(arguments[0]).read_text().splitlines()[:1] if arguments else commit_subjects()
    found = [(subject, problem) for subject in subjects if (problem := find_problem(subject))]
    for subject, problem in found:
        print(f"{subject!r} {problem}")
    print(f"subjects: {len(found)} of {len(subjects)} are wrong" if found else f"subjects: {len(subjects)} checked")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

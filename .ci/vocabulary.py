"""Fail on words that the vocabulary of CONTRIBUTING.md has replaced, and on identifiers that say nothing."""

import ast
import re
import subprocess
import sys
from pathlib import Path

# a word with a private meaning, and the standard terms that replace it
REPLACED = {
    r"tell(s|ing)?|told|tellers?": "predict, report, say",
    r"go(es|ing|ne)? on|went on|t(ake|akes|aken|ook) up|anew": "resume, continue, fine-tune, again",
    r"judge(s|d|ment|ments)?|judging": "evaluate, score",
    r"watch(es|ed|ing)?(?!\?v=)": "monitor",
    r"nothing[ _](new|to do)": "skip",
    r"answer(s|ed|ing)?": "result, cached result, response",
    r"crown(s|ed)?|reigns?|t(ake|akes|aken|ook|aking) over": "promote, demote",
    r"can(no|')t (tell|be told)|inside the noise": "not significant",
    r"look_at\w*|see to it|nights?|family": "validate, make sure, run",
}
WORDS = [(re.compile(rf"\b({words})\b", re.IGNORECASE), remedy) for words, remedy in REPLACED.items()]
FILLERS = {
    "asked", "before", "found", "further", "given", "good", "here", "kept", "left", "level", "made", "one", "own",
    "place", "room", "told", "whole",
}  # fmt: skip
SHAPE = re.compile(r"_[A-Z0-9]+$")  # told_BSK
SUFFIXES = (".cpp", ".md", ".py", ".sh", ".toml", ".yaml")


def replaced_words(text: str) -> list[tuple[int, str]]:
    """Return the line and the remark for each replaced word."""
    lines = enumerate(text.splitlines(), 1)
    return [
        (number, f"{match[0]!r}: write {remedy}")
        for number, line in lines
        for pattern, remedy in WORDS
        for match in pattern.finditer(line)
    ]


def filler_names(text: str) -> list[tuple[int, str]]:
    """Return the line and the remark for each variable, argument, function or class whose name is a filler word."""
    names = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.arg):
            names.append((node.lineno, node.arg))
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.append((node.lineno, node.id))
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.append((node.lineno, node.name))
    return [(line, f"the name {name!r} says nothing") for line, name in names if SHAPE.sub("", name) in FILLERS]


def main(paths: list[str]) -> int:
    """Print each fault in the project's files, or in those below the given paths, and return the exit status."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", *paths]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    faults = []
    for path in map(Path, listed.split()):
        if path.exists() and path.suffix in SUFFIXES and path != Path(".ci/vocabulary.py"):
            text = path.read_text()
            remarks = replaced_words(text)
            if path.suffix == ".py" and path.parts[0] in ("flows", "tasks", "lstm_models"):
                remarks += filler_names(text)
            faults += [f"{path}:{line}: {remark}" for line, remark in sorted(remarks)]
    print(*faults, sep="\n", end="\n" if faults else "")
    return bool(faults)


sys.exit(main(sys.argv[1:]))

"""Fail where a word stands that the vocabulary of CONTRIBUTING.md has replaced, or a name that names nothing."""

import ast
import re
import subprocess
import sys
from pathlib import Path

# words that had a private meaning, and the field's word for it
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
WORDS = re.compile("|".join(rf"(?P<w{n}>\b({words})\b)" for n, words in enumerate(REPLACED)), re.IGNORECASE)
FILLERS = set("found before place told one own given asked kept further made left here whole level room good".split())


def fillers(path: Path) -> list[tuple[int, str]]:
    """Return the lines and names of variables, arguments, functions and classes that are filler words."""
    nodes = ast.walk(ast.parse(path.read_text()))
    names = [
        (node.lineno, node.arg if isinstance(node, ast.arg) else node.id if isinstance(node, ast.Name) else node.name)
        for node in nodes
        if isinstance(node, ast.arg | ast.FunctionDef | ast.ClassDef)
        or (isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store))
    ]
    return [(line, name) for line, name in names if name.rstrip("BDHKLNRSTWPGMQC1").rstrip("_") in FILLERS]


def main(places: list[str]) -> int:
    """Print each fault in the tracked files below these places, all without any; return the exit status."""
    listed = subprocess.run(["git", "ls-files", "--cached", "--others", "--exclude-standard", *places], capture_output=True, text=True, check=True).stdout
    faults = []
    for path in map(Path, listed.split()):
        if not path.exists() or path == Path(".ci/vocabulary.py") or path.suffix not in (".py", ".md", ".yaml", ".cpp", ".sh", ".toml"):
            continue
        for number, line in enumerate(path.read_text().splitlines(), 1):
            for match in WORDS.finditer(line):
                remedy = list(REPLACED.values())[int(str(match.lastgroup)[1:])]
                faults.append(f"{path}:{number}: {match[0]!r}; write {remedy}")
        if path.suffix == ".py" and path.parts[0] in ("flows", "tasks", "lstm_models"):
            faults += [f"{path}:{line}: the name {name!r} says nothing" for line, name in fillers(path)]
    print(*sorted(faults), sep="\n", end="\n" if faults else "")
    return bool(faults)


sys.exit(main(sys.argv[1:]))

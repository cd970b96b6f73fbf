"""Parts of markdown files that a command writes, between <!-- begin: COMMAND --> and <!-- end -->."""

from pathlib import Path

END = "<!-- end -->\n"


def parts(path: Path, command: str) -> tuple[str, str, str]:
    """The file up to the block, the block, and the rest."""
    begin = f"<!-- begin: {command} -->\n"
    head, found, rest = path.read_text().partition(begin)
    block, ended, tail = rest.partition(END)
    if not (found and ended):
        raise ValueError(f"{path.name} has no block {begin.strip()} ... {END.strip()}")
    return head + begin, block, END + tail


def write(path: Path, command: str, text: str) -> None:
    head, _, tail = parts(path, command)
    path.write_text(head + text + tail)

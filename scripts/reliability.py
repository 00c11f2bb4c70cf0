#!/usr/bin/env python3
"""Writes docs/internals/reliability.md from result lines of the proof kit.

usage: reliability.py LINES [NEW]   lines of NEW replace those of the same scenario and form in LINES
"""

import datetime
import json
import pathlib
import subprocess
import sys

PAGE = pathlib.Path("docs/internals/reliability.md")
BEGIN = "<!-- written by scripts/reliability.sh: do not edit below -->\n"


def read(path):
    file = pathlib.Path(path)
    if not file.exists():
        return []
    return [json.loads(line) for line in file.read_text().splitlines() if line.strip()]


def git(*command):
    return subprocess.run(["git", *command], capture_output=True, text=True, check=False).stdout.strip()


def main():
    lines = pathlib.Path(sys.argv[1])
    known = {(line["scenario"], line["form"]): line for line in read(lines)}
    if len(sys.argv) > 2:
        commit = git("rev-parse", "--short", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
        today = datetime.date.today().isoformat()
        for line in read(sys.argv[2]):
            line.update(commit=commit, date=today)
            known[(line["scenario"], line["form"])] = line
    lines.write_text("".join(json.dumps(known[key], ensure_ascii=False) + "\n" for key in sorted(known)))
    rows = ["| fault | promise | how tested | figure |", "| --- | --- | --- | --- |"]
    for _, line in sorted(known.items()):
        how = f"`{line['scenario']}`, {line['form']}, {line['seconds']:.0f} s, {line.get('date', '?')} on `{line.get('commit', '?')}`"
        figure = ("" if line["pass"] else "**FAILED** ") + line["figure"].replace("|", "\\|")
        rows.append(f"| {line['fault']} | {line['promise']} | {how} | {figure} |")
    head = PAGE.read_text().split(BEGIN)[0]
    PAGE.write_text(head + BEGIN + "\n" + "\n".join(rows) + "\n")
    failed = [line["scenario"] for line in known.values() if not line["pass"]]
    print(f"{PAGE}: {len(known)} lines, {len(failed)} failed {' '.join(failed)}")


if __name__ == "__main__":
    main()

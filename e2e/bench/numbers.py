#!/usr/bin/python3
"""Shows numbers, a line of JSON each, and keeps them in bench.json.

  numbers.py show            each line of JSON from standard input as a row
  numbers.py keep FILE       all of them into a report, beside what is there of other names

Python's standard library only.
"""

import json
import sys
from pathlib import Path


def shown(value):
    return f"{value:.3f}" if 0 < value < 1 else f"{value:.2f}"


def show(row):
    verdict = "" if row["target"] is None else f"target {row['target']}: {'ok' if row['ok'] else 'MISS'}"
    print(f"  {row['name']:62} {shown(row['value']):>12} {row['unit']:10} {verdict}".rstrip(), flush=True)


def keep(rows, path):
    report = json.loads(path.read_text()) if path.exists() else {}
    names = {row["name"] for row in rows}
    others = [row for row in report.get("numbers", []) if row["name"] not in names]
    report["numbers"] = others + rows
    path.write_text(json.dumps(report, indent=2) + "\n")
    missed = [row["name"] for row in rows if row["ok"] is False]
    print(f"\n{len(rows)} numbers, {len(missed)} missed{': ' if missed else ''}{', '.join(missed)}; written to {path.resolve()}")


def main():
    rows = map(json.loads, filter(str.strip, sys.stdin))
    match sys.argv[1:]:
        case ["show"]:
            for row in rows:
                show(row)
        case ["keep", path]:
            keep(list(rows), Path(path))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()

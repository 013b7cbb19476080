#!/usr/bin/python3
"""What a node agent with many idle slots takes, once each has its sandbox created ahead: memory, and processor while nothing happens.

Called by run.sh, which says what the arguments are; a line of JSON for each number. Python's standard library only.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import sleeps  # noqa: E402
from demo_load import Lane, World, ours, resident  # noqa: E402

READY = 180  # seconds until all slots are there
CALM = 5  # seconds without a process more or less
REST = 30  # seconds that are measured


def count(options):
    """How many processes of each name there are."""
    names = list(ours(options).values())
    return {name: names.count(name) for name in names}


def settle(options):
    """Returns when all slots are free and their processes stay the same."""
    lane, deadline = Lane(World([]), options), time.monotonic() + READY
    before, since = None, time.monotonic()
    while True:
        workers = sleeps.call(lane, "GET", sleeps.WORKERS)["items"]
        now = (sum(w["status"]["phase"] == "Free" for w in workers), count(options))
        if now != before:
            before, since = now, time.monotonic()
        if now[0] == options.slots and time.monotonic() - since > CALM:
            return
        if time.monotonic() > deadline:
            sys.exit(f"bench: {now[0]} of {options.slots} slots are free and still within {READY} s")
        time.sleep(0.5)


def seconds(pid):
    """Processor time of a process."""
    stat = Path(f"/proc/{pid}/stat").read_text()
    user, system = stat[stat.rindex(")") + 2 :].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("state", "run"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--api", required=True)
    parser.add_argument("--slots", type=int, required=True)
    options = parser.parse_args()
    settle(options)
    agents = [pid for pid, name in ours(options).items() if name == "ate atelet"]
    executors = [pid for pid, name in ours(options).items() if name == "ate ateom"]
    began, used = time.monotonic(), sum(map(seconds, agents + executors))
    agent = sum(map(seconds, agents))
    time.sleep(REST)
    took = time.monotonic() - began
    slots = f"{options.slots} idle slots"
    for name, value, unit in [
        (f"node agent with {slots}: resident", sum(map(resident, agents)), "MiB"),
        (f"node agent with {slots}: processor at rest", (sum(map(seconds, agents)) - agent) / took * 100, "% of a core"),
        (f"executors of {slots}: resident, each", sum(map(resident, executors)) / max(1, len(executors)), "MiB"),
        (f"node agent and executors of {slots}: processor", (sum(map(seconds, agents + executors)) - used) / took * 100, "% of a core"),
    ]:
        print(json.dumps({"name": name, "value": value, "unit": unit, "target": None, "ok": None}))


if __name__ == "__main__":
    main()

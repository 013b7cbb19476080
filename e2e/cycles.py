"""Wakes and suspends actors many times, and compares what everything takes at a tenth of the way with what it takes at the end.

Called by cycles.sh, which says what the arguments are. Python's standard library only.
"""

import argparse
import os
import sys
import time
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parent))
from demo_load import Failed, World, drive, ours, resident, wait_for  # noqa: E402

LIMIT = 10  # seconds that one wake and suspend may take on an average
CALM = 10  # seconds of rest in which nothing changes any more, before it is counted
CALM_LIMIT = 120
TELL = 30  # seconds between two lines of progress
GROWTH = 1.1  # times the memory at a tenth of the way
CONNECTIONS = 8  # open files more that are no growth: connections that are kept for the next call
SLACK = 4  # MiB that a process may have more all the same: what allocators keep


def rounds(world, options, times):
    """Visits actors until that was done `times` times, and a few; how often a second."""
    before = len(world.sleeps)
    began = told = time.monotonic()
    threads = drive(world, options, lambda: len(world.sleeps) >= before + times)

    def ended():
        nonlocal told
        if time.monotonic() - told > TELL:
            told = time.monotonic()
            print(f"  {len(world.sleeps) - before} of {times} after {told - began:.0f} s", flush=True)
        return not any(thread.is_alive() for thread in threads)

    wait_for(ended, world, LIMIT * times)
    if world.stop.is_set():
        raise Failed("; ".join(world.errors))
    return times / (time.monotonic() - began)


def files(*roots):
    """Regular files below directories, but logs, which are bounded by size, and published snapshots, which are counted apart."""
    apart = ("logs", "snapshots")
    count = 0
    for root in roots:
        for where, inside, names in os.walk(root):
            if Path(where) == root:
                inside[:] = [name for name in inside if name not in apart]
            count += len(names)
    return count


def count(options):
    """What everything takes now: {name: number}."""
    processes = ours(options)
    memory, fds, namespaces, mounts = {}, 0, set(), 0
    seen = set()
    for pid, name in processes.items():
        fds += len(os.listdir(f"/proc/{pid}/fd"))
        namespaces.add(os.readlink(f"/proc/{pid}/ns/net"))
        mine = os.readlink(f"/proc/{pid}/ns/mnt")
        if mine not in seen:
            seen.add(mine)
            mounts += len(Path(f"/proc/{pid}/mountinfo").read_text().splitlines())
        if name.startswith(("ate ", "valkey")):
            memory[name] = max(memory.get(name, 0), resident(pid))
    groups = sum(len(inside) for _, inside, _ in os.walk("/sys/fs/cgroup"))
    return {
        "processes": len(processes),
        "open files": fds,
        "files of the node": files(options.state, options.run),
        "network namespaces": len(namespaces),
        "control groups": groups,
        "mounts": mounts,
    }, memory


def settled(options):
    """What everything takes when it has come to rest."""
    deadline, before, since = time.monotonic() + CALM_LIMIT, None, time.monotonic()
    while True:
        try:
            now, memory = count(options)
        except (FileNotFoundError, ProcessLookupError):
            continue  # something was ending
        if now != before:
            before, since = now, time.monotonic()
        if time.monotonic() - since > CALM:
            return now, memory
        if time.monotonic() > deadline:
            raise Failed(f"it does not come to rest within {CALM_LIMIT} s: {now}")
        time.sleep(0.5)


def objects(options):
    return sum(len(names) for _, _, names in os.walk(options.state / "snapshots"))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("state", "run"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    for name in ("router", "api"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--actors", nargs="+", required=True)
    for name in ("slots", "cycles"):
        parser.add_argument(f"--{name}", type=int, required=True)
    options = parser.parse_args()
    world, early = World(options.actors), options.cycles // 10
    world.up.set()
    try:
        rounds(world, options, early)
        (before, small), stored = settled(options), objects(options)
        rate = rounds(world, options, options.cycles - early)
        (after, large), kept = settled(options), objects(options)
    except Failed as failure:
        sys.exit(f"cycles: {failure}")
    faults = [f"{actor.name}: {fault}" for actor in world.all for fault in actor.faults]
    grown = []
    print(f"\n  {f'{options.cycles} wakes and suspends, {rate:.1f} a second':44} {f'at {early}':>12} {f'at {options.cycles}':>12}")
    for name, number in before.items():
        print(f"  {name:44} {number:12} {after[name]:12}")
        if after[name] > number + (CONNECTIONS if name == "open files" else 0):
            grown.append(name)
    for name, mib in small.items():
        print(f"  {f'{name}: resident MiB':44} {mib:12.1f} {large[name]:12.1f}")
        # The store's own is bounded by what it keeps of changes.
        if name.startswith("ate ") and large[name] > mib * GROWTH + SLACK:
            grown.append(f"memory of {name}")
    print(f"  {'objects of published snapshots':44} {stored:12} {kept:12}")
    print(f"  answers that were wrong: {len(faults)} {'; '.join(faults[:3])}")
    if grown or faults:
        sys.exit(f"cycles: grown: {', '.join(grown) or 'nothing'}; {len(faults)} wrong answers")
    print("  nothing has grown")


if __name__ == "__main__":
    main()

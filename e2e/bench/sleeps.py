"""How soon a suspend frees its worker, and how many wakes and suspends several loops come to in a second.

Used by report.py. Python's standard library only.
"""

import argparse
import json
import threading
import time

WORKERS = "/apis/runtime.ate.dev/v1alpha1/namespaces/default/workers"
FREE_LIMIT = 60  # seconds


class Failed(Exception):
    """What must not happen, in one line."""


def call(lane, method, path):
    status, told = lane.call(method, path)
    if status not in (200, 202):
        raise Failed(f"{method} {path}: {status} {told.get('message')}")
    return told


def until_free(lane, actor):
    """Orders a suspend of `actor` (its path): seconds until its worker is free again, long before the suspend ends."""
    worker = f"{WORKERS}/{call(lane, 'GET', actor)['status']['worker']['name']}"
    began = time.monotonic()
    call(lane, "POST", f"{actor}/suspend")
    while call(lane, "GET", worker)["status"]["phase"] != "Free":
        if time.monotonic() - began > FREE_LIMIT:
            raise Failed(f"{worker} does not become free")
    return time.monotonic() - began


def loops(options, cycle):
    """Wakes and suspends a second of `options.loops` actors, each in a loop of its own. `cycle(options)` does both once."""
    start, failed = threading.Barrier(options.loops + 1), []

    def walk(actor):
        own = argparse.Namespace(**{**vars(options), "actor": actor})
        try:
            step = cycle(own)
            start.wait()
            for _ in range(options.wakes):
                step()
        except (Exception, SystemExit) as error:  # told by the main thread
            failed.append(error)
            start.abort()

    threads = [threading.Thread(target=walk, args=(f"loop-{n}",), daemon=True) for n in range(options.loops)]
    for thread in threads:
        thread.start()
    try:
        start.wait()
    except threading.BrokenBarrierError:
        pass  # a thread says why
    began = time.monotonic()
    for thread in threads:
        thread.join()
    if failed:
        raise Failed(f"a loop broke off: {failed[0]}")
    return options.loops * options.wakes / (time.monotonic() - began)


def bare_loops(paths):
    """The same of bare runsc, of as many baselines as ran at the same time."""

    def rate(path):
        baseline = json.loads(path.read_text())
        phases = (baseline["phases"][name]["samples"] for name in ("wake", "sleep", "create"))
        return baseline["iterations"] / (sum(map(sum, phases)) / 1000)

    return sum(map(rate, paths))

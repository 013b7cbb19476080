"""How soon a suspend frees its worker, how many wakes and suspends several loops come to in a second, and what wakes at once take.

Used by report.py, and by pods.py to suspend. Python's standard library only.
"""

import http.client
import json
import threading
import time

from demo_load import ACTORS, Failed

WORKERS = "/apis/runtime.ate.dev/v1alpha1/namespaces/default/workers"
FREE_LIMIT = 60  # seconds


def call(lane, method, path):
    status, told = lane.call(method, path)
    if status not in (200, 202):
        raise Failed(f"{method} {path}: {status} {told.get('message')}")
    return told


def suspend(lane, actor):
    told = call(lane, "POST", f"{ACTORS}/{actor}/suspend?wait=50")
    if told["status"]["phase"] != "Suspended":
        raise Failed(f"{actor} is not suspended: {told['status']}")


def observe(lane, actor):
    """Suspends `actor`: seconds until its worker is free again, and until the suspend is acknowledged."""
    name = call(lane, "GET", f"{ACTORS}/{actor}")["status"]["worker"]["name"]
    version = call(lane, "GET", f"{WORKERS}/{name}")["metadata"]["resourceVersion"]
    # Told, not asked again and again: what asking takes of the processors would be missing where it is measured.
    watch = http.client.HTTPSConnection(*lane.options.api.rsplit(":", 1), timeout=FREE_LIMIT, context=lane.tls)
    watch.request("GET", f"{WORKERS}?watch=1&fieldSelector=metadata.name={name}&resourceVersion={version}")
    changes = watch.getresponse()
    began = time.monotonic()
    call(lane, "POST", f"{ACTORS}/{actor}/suspend")
    try:
        freed = any(change["object"]["status"].get("phase") == "Free" for change in map(json.loads, changes) if change["type"] == "MODIFIED")
    except TimeoutError:
        freed = False
    if not freed:
        raise Failed(f"worker {name} does not become free")
    free = time.monotonic() - began
    watch.close()
    suspend(lane, actor)  # joins it
    return free, time.monotonic() - began


def begin(actors, walk, gate):
    """Runs `walk(actor)` in a thread for each, and returns what waits for all of them. One that fails opens the gate at which others wait."""
    failed = []

    def guarded(actor):
        try:
            walk(actor)
        except threading.BrokenBarrierError:
            pass  # another thread says why
        except (Exception, SystemExit) as error:  # told by the main thread
            failed.append(error)
            gate.abort()

    threads = [threading.Thread(target=guarded, args=(actor,), daemon=True) for actor in actors]
    for thread in threads:
        thread.start()

    def join():
        for thread in threads:
            thread.join()
        if failed:
            raise Failed(f"one of several at once broke off: {failed[0]}")

    return join


def loops(actors, times, prepare):
    """How often a second the loops, one of each actor, do what `prepare(actor)` returns; each does it so many times."""
    start = threading.Barrier(len(actors) + 1)

    def walk(actor):
        step = prepare(actor)
        start.wait()
        for _ in range(times):
            step()

    join = begin(actors, walk, start)
    try:
        start.wait()
    except threading.BrokenBarrierError:
        pass  # a thread says why
    began = time.monotonic()
    join()
    return len(actors) * times / (time.monotonic() - began)


def at_once(actors, times, prepare, wake):
    """Seconds of the wakes of all `actors` at the same moment, so many times: `wake(actor)` says how long one took; `prepare(actor)`
    returns what puts it to sleep before each and at the end."""
    meet, samples = threading.Barrier(len(actors)), []

    def walk(actor):
        rest = prepare(actor)
        for _ in range(times):
            rest()
            meet.wait()
            samples.append(wake(actor))
        rest()

    begin(actors, walk, meet)()
    return samples


def bare_rate(baselines):
    """The same of bare runsc, of as many baselines as ran at the same time."""
    first, last = min(b["began"] for b in baselines), max(b["ended"] for b in baselines)
    return sum(b["iterations"] for b in baselines) / (last - first)

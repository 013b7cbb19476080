"""Wakes and suspends actors many times through the router, and reports all numbers with their targets.

Called by run.sh, which says what the arguments are. Python's standard library only.
"""

import argparse
import json
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import sleeps  # noqa: E402
from demo_load import ZONE, Actor, Failed, Lane, World, quantile, timings  # noqa: E402

WARM_UP = 12  # until every slot has had the actor, and has a sandbox ahead for it
TIMEOUT = 60
TRACED = 20_000  # store commands that are kept while one wake is traced
OVER_BARE = 20  # ms that a wake may cost beside bare runsc's restore, median
SLOWEST = {64: 100}  # MiB: ms that 95 of 100 wakes may take
FREE = {64: 1.3}  # MiB: times bare runsc's suspend that a worker may take to be free again, median
LOOPS = 0.7  # of bare runsc's wakes and suspends a second
AT_ONCE = 1.15  # times bare runsc's wakes at once that ours may take, median


def request(options, actor, path):
    """One request over a connection of its own: (seconds to the first byte, server-timing, body)."""
    host, port = options.router.rsplit(":", 1)
    began = time.monotonic()
    with socket.create_connection((host, int(port)), timeout=TIMEOUT) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {actor}.{ZONE}\r\nConnection: close\r\n\r\n".encode())
        answer = connection.recv(65536)
        first = time.monotonic() - began
        while more := connection.recv(65536):
            answer += more
    head, _, body = answer.decode(errors="replace").partition("\r\n\r\n")
    if not head.startswith("HTTP/1.1 200 "):
        sys.exit(f"bench: {path} is answered with {head.splitlines()[:1]} {body.strip()}")
    headers = dict(line.lower().split(": ", 1) for line in head.splitlines()[1:])
    return first, timings(headers), body


def measure(options, actor, mib):
    """Wakes and suspends of an actor that holds so much, each with its phases; seconds."""
    lane = Lane(World([actor]), options)
    request(options, actor, f"/mem?mb={mib}")
    _, _, first = request(options, actor, "/mem")
    wakes, suspends = [], []
    for n in range(WARM_UP + options.wakes):
        free, asleep = sleeps.observe(lane, actor)
        steps = dict(lane.steps(Actor(actor)))
        time.sleep(options.idle)
        took, timing, _ = request(options, actor, "/")
        if n >= WARM_UP:
            suspends.append((free, asleep, {**steps, "unattributed": max(0.0, asleep - sum(steps.values()))}))
            wakes.append((took, attribute(took, timing, lane.steps(Actor(actor)))))
    if request(options, actor, "/mem")[2] != first:
        sys.exit("bench: the memory that woke is not the memory that fell asleep")
    sleeps.suspend(lane, actor)
    return {"wakes": wakes, "suspends": suspends}


def cycle(options, actor):
    """Makes an actor that sleeps and holds as much as the first of `options.mib`; what wakes it and suspends it again."""
    lane = Lane(World([actor]), options)
    request(options, actor, f"/mem?mb={options.mib[0]}")
    sleeps.suspend(lane, actor)

    def once():
        request(options, actor, "/")
        sleeps.suspend(lane, actor)

    return once


def asleep(options, actor):
    """What puts an actor to sleep that is awake, and lets what is done ahead be done."""
    lane = Lane(World([actor]), options)
    request(options, actor, "/")

    def once():
        sleeps.suspend(lane, actor)
        time.sleep(options.idle)

    return once


def mixed(options):
    """Wakes of actors of as many templates, in turn: seconds, and which found no sandbox created ahead."""
    lane = Lane(World(options.mixed), options)
    wakes, missed = [], []
    for _ in range(2):
        for actor in options.mixed:
            took, timing, _ = request(options, actor, "/")
            wakes.append(took)
            missed.append("create" in attribute(took, timing, lane.steps(Actor(actor))))
            sleeps.suspend(lane, actor)
            time.sleep(options.idle)
    return wakes, missed


def attribute(took, timing, steps):
    """The phases of one wake, in order; what no phase claims is `unattributed`."""
    parts = {}
    # What the router's timing says beyond its own three is what happened within resolve.
    steps = [(name, d) for name, d in timing.items() if name not in ("resolve", "connect", "upstream")] or steps
    inside = sum(d for _, d in steps)
    resolve = timing.get("resolve", 0.0)
    for name, duration in steps:
        parts[name] = parts.get(name, 0.0) + duration
    parts["resolve" if not steps else "resolve: asking and answering"] = max(0.0, resolve - inside)
    parts["connect"] = timing.get("connect", 0.0)
    parts["upstream"] = timing.get("upstream", 0.0)
    parts["unattributed"] = max(0.0, took - sum(parts.values()))
    return parts


def round_trips(options, actor):
    """How many round trips to the store name the actor during one wake: calls of scripts, without what these call."""
    lane = Lane(World([actor]), options)

    def cli(*words):
        command = ["valkey-cli", "-s", str(options.run / "valkey.sock"), "--json", *map(str, words)]
        done = subprocess.run(command, check=True, capture_output=True, timeout=TIMEOUT)
        return json.loads(done.stdout.decode(errors="replace"))

    request(options, actor, "/")
    sleeps.suspend(lane, actor)
    cli("config", "set", "slowlog-max-len", TRACED)
    cli("slowlog", "reset")
    cli("config", "set", "slowlog-log-slower-than", 0)
    request(options, actor, "/")
    cli("config", "set", "slowlog-log-slower-than", -1)
    sleeps.suspend(lane, actor)
    entries = cli("slowlog", "get", -1)
    calls = [words for _, _, _, words, *_ in entries if words[0].upper() in ("EVALSHA", "EVAL", "FCALL")]
    return sum(any(actor in word for word in words) for words in calls)


def bare(options, name):
    return json.loads((options.baselines / f"{name}.json").read_text())


def held(options, mib, wakes, suspends):
    """Rows of an actor that holds so much, beside bare runsc."""
    theirs = bare(options, f"baseline-{mib}")["phases"]
    yield from woke(mib, [took for took, _ in wakes], mean([phases for _, phases in wakes]), theirs["wake"]["median"])
    yield from slept(mib, [free for free, _, _ in suspends], [end for _, end, _ in suspends], theirs["sleep"]["median"])


def woke(mib, samples, phases, theirs):
    wake, slowest = (quantile(samples, q) * 1000 for q in (0.5, 0.95))
    bound, over, lost = SLOWEST.get(mib), wake - theirs, phases["unattributed"] / sum(phases.values())
    yield f"wake, {mib} MiB, p50", wake, "ms", None, None
    yield f"wake, {mib} MiB, p95 of {len(samples)}", slowest, "ms", bound and f"<= {bound}", bound and slowest <= bound
    yield f"wake of bare runsc, {mib} MiB, p50", theirs, "ms", None, None
    yield f"wake, {mib} MiB: ours - bare runsc, p50", over, "ms", f"<= {OVER_BARE}", over <= OVER_BARE
    yield f"wake, {mib} MiB: unattributed", lost * 100, "%", "<= 5", lost <= 0.05


def slept(mib, frees, ends, theirs):
    free, end = (quantile(samples, 0.5) * 1000 for samples in (frees, ends))
    bound, ratio = FREE.get(mib), free / theirs
    yield f"suspend until the worker is free, {mib} MiB, p50", free, "ms", None, None
    yield f"suspend of bare runsc, {mib} MiB, p50", theirs, "ms", None, None
    yield f"suspend until the worker is free, {mib} MiB: ours / bare runsc", ratio, "", bound and f"<= {bound}", bound and ratio <= bound
    yield f"suspend until it is published, {mib} MiB, p50", end, "ms", None, None


def looped(options, ours):
    """Rows of several loops at once, beside as many of bare runsc."""
    theirs = sleeps.bare_rate([bare(options, actor) for actor in options.loops])
    what = f"wakes and suspends, {options.mib[0]} MiB, {len(options.loops)} loops"
    yield what, ours, "1/s", None, None
    yield f"{what}, bare runsc", theirs, "1/s", None, None
    yield f"{what}: ours / bare runsc", ours / theirs, "", f">= {LOOPS}", ours / theirs >= LOOPS


def together(options, ours):
    """Rows of wakes at once, beside as many of bare runsc."""
    theirs = [sample for n in options.loops for sample in bare(options, f"together-{n}")["phases"]["wake"]["samples"]]
    ours, theirs = quantile(ours, 0.5) * 1000, quantile(theirs, 0.5)
    what = f"wake, {options.mib[0]} MiB, {len(options.loops)} at once, p50"
    yield what, ours, "ms", None, None
    yield f"{what}, bare runsc", theirs, "ms", None, None
    yield f"{what}: ours / bare runsc", ours / theirs, "", f"<= {AT_ONCE}", ours / theirs <= AT_ONCE


def rows(options, measured, pair, mix, rate, at_once, trips):
    """[(name, value, unit, target, met)]; no target: shown for itself."""
    for mib, samples in measured.items():
        yield from held(options, mib, **samples)
    for q in (0.5, 0.95):
        wakes = [took for took, _ in pair["wakes"]]
        yield f"wake, two containers, {options.mib[0]} MiB, p{q * 100:.0f}", quantile(wakes, q) * 1000, "ms", None, None
    wakes, missed = mix
    name = f"wake, {len(options.mixed)} templates in turn over {options.slots} slots"
    yield f"{name}, p50", quantile(wakes, 0.5) * 1000, "ms", None, None
    yield f"{name}, p95", quantile(wakes, 0.95) * 1000, "ms", None, None
    yield f"{name}: nothing fitting ahead", sum(missed) / len(missed) * 100, "%", None, None
    yield from looped(options, rate)
    yield from together(options, at_once)
    size = re.search(r"(\d+) bytes of store memory per sleeping actor", options.store.read_text())
    yield "resume bookkeeping", trips, "store round trips", "<= 3", trips <= 3
    yield "store memory per sleeping actor", int(size[1]) if size else float("nan"), "bytes", "<= 300", bool(size) and int(size[1]) <= 300
    if options.demo.exists():
        demo = json.loads(options.demo.read_text())
        yield "make demo, warm, without building", demo["seconds"], "s", "<= 60", demo["seconds"] <= 60
        yield "actors lost in make demo", demo["lost"], "", "0", demo["lost"] == 0


def mean(phases):
    """Milliseconds of each phase, in order."""
    names = dict.fromkeys(name for p in phases for name in p)
    return {name: sum(p.get(name, 0.0) for p in phases) / len(phases) * 1000 for name in names}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--idle", type=float, required=True)
    for name in ("state", "run", "baselines", "store", "demo", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    for name in ("router", "api"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--actors", nargs="+", required=True)
    parser.add_argument("--pair", required=True)
    parser.add_argument("--mib", type=int, nargs="+", required=True)
    for name in ("mixed", "loops"):
        parser.add_argument(f"--{name}", nargs="+", required=True)
    for name in ("wakes", "slots"):
        parser.add_argument(f"--{name}", type=int, required=True)
    options = parser.parse_args()

    try:
        measured = {mib: measure(options, actor, mib) for actor, mib in zip(options.actors, options.mib, strict=True)}
        pair = measure(options, options.pair, options.mib[0])
        mix = mixed(options)
        rate = sleeps.loops(options.loops, options.wakes, lambda actor: cycle(options, actor))
        woken = lambda actor: request(options, actor, "/")[0]
        at_once = sleeps.at_once(options.loops, options.wakes, lambda actor: asleep(options, actor), woken)
        trips = round_trips(options, options.actors[0])
    except Failed as failure:
        sys.exit(f"bench: {failure}")
    numbers = list(rows(options, measured, pair, mix, rate, at_once, trips))
    means = {
        what: {mib: mean([phases for *_, phases in samples[f"{what}s"]]) for mib, samples in measured.items()}
        for what in ("wake", "suspend")
    }

    for what, sizes in means.items():
        for mib, parts in sizes.items():
            print(f"\nwhere the time of a {what} goes, {mib} MiB, mean")
            for name, value in parts.items():
                print(f"  {value:8.2f} ms  {value / sum(parts.values()) * 100:5.1f} %  {name}")
    print()
    for name, value, unit, target, met in numbers:
        verdict = "" if target is None else f"target {target}: {'ok' if met else 'MISS'}"
        print(f"  {name:62} {value:10.2f} {unit:18} {verdict}".rstrip())
    report = {
        "numbers": [
            {"name": n, "value": v if v == v else None, "unit": u, "target": t, "ok": met} for n, v, u, t, met in numbers
        ],
        "wakePhasesMs": means["wake"],
        "suspendPhasesMs": means["suspend"],
        "wakesMs": {mib: [w * 1000 for w, _ in m["wakes"]] for mib, m in measured.items()},
        "untilFreeMs": {mib: [s * 1000 for s, _, _ in m["suspends"]] for mib, m in measured.items()},
        "suspendsMs": {mib: [s * 1000 for _, s, _ in m["suspends"]] for mib, m in measured.items()},
        "baseline": {mib: bare(options, f"baseline-{mib}") for mib in measured},
        "baselineLoops": {actor: bare(options, actor) for actor in options.loops},
    }
    options.out.write_text(json.dumps(report, indent=2) + "\n")
    print(f"\nwritten to {options.out.resolve()}")


if __name__ == "__main__":
    main()

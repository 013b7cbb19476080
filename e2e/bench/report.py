"""Wakes and suspends one actor many times through the router, and reports all numbers with their targets.

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
from demo_load import ACTORS, ZONE, Actor, Lane, World, quantile, timings  # noqa: E402

WARM_UP = 3
TIMEOUT = 60
TRACED = 20_000  # store commands that are kept while one wake is traced


def request(options, path):
    """One request over a connection of its own: (seconds to the first byte, server-timing, body)."""
    host, port = options.router.rsplit(":", 1)
    began = time.monotonic()
    with socket.create_connection((host, int(port)), timeout=TIMEOUT) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {options.actor}.{ZONE}\r\nConnection: close\r\n\r\n".encode())
        answer = connection.recv(65536)
        first = time.monotonic() - began
        while more := connection.recv(65536):
            answer += more
    head, _, body = answer.decode(errors="replace").partition("\r\n\r\n")
    if not head.startswith("HTTP/1.1 200 "):
        sys.exit(f"bench: {path} is answered with {head.splitlines()[:1]} {body.strip()}")
    headers = dict(line.lower().split(": ", 1) for line in head.splitlines()[1:])
    return first, timings(headers), body


def suspend(lane, options):
    began = time.monotonic()
    status, told = lane.call("POST", f"{ACTORS}/{options.actor}/suspend?wait=50")
    took = time.monotonic() - began
    if status != 200 or told["status"]["phase"] != "Suspended":
        sys.exit(f"bench: {options.actor} is not suspended: {told.get('message', told.get('status'))}")
    return took


def measure(options):
    """Wakes and suspends: samples in seconds, and phases of each wake."""
    lane, actor = Lane(World([options.actor]), options), Actor(options.actor)
    request(options, f"/mem?mb={options.mib}")
    _, _, first = request(options, "/mem")
    wakes, sleeps, phases = [], [], []
    for n in range(WARM_UP + options.wakes):
        slept = suspend(lane, options)
        took, timing, _ = request(options, "/")
        steps = lane.steps(actor)
        if n >= WARM_UP:
            wakes.append(took)
            sleeps.append(slept)
            phases.append(attribute(took, timing, steps))
    if request(options, "/mem")[2] != first:
        sys.exit("bench: the memory that woke is not the memory that fell asleep")
    return wakes, sleeps, phases


def attribute(took, timing, steps):
    """The phases of one wake, in order; what no phase claims is `unattributed`."""
    parts = {}
    # What the router's timing says beyond its own three is what happened within resolve.
    steps = steps or [(name, d) for name, d in timing.items() if name not in ("resolve", "connect", "upstream")]
    inside = sum(d for _, d in steps)
    resolve = timing.get("resolve", 0.0)
    for name, duration in steps:
        parts[name] = parts.get(name, 0.0) + duration
    parts["resolve" if not steps else "resolve: asking and answering"] = max(0.0, resolve - inside)
    parts["connect"] = timing.get("connect", 0.0)
    parts["upstream"] = timing.get("upstream", 0.0)
    parts["unattributed"] = max(0.0, took - sum(parts.values()))
    return parts


def round_trips(options):
    """How many round trips to the store name the actor during one wake: calls of scripts, without what these call."""
    lane = Lane(World([options.actor]), options)

    def cli(*words):
        command = ["valkey-cli", "-s", str(options.run / "valkey.sock"), "--json", *map(str, words)]
        done = subprocess.run(command, check=True, capture_output=True, timeout=TIMEOUT)
        return json.loads(done.stdout.decode(errors="replace"))

    suspend(lane, options)
    cli("config", "set", "slowlog-max-len", TRACED)
    cli("slowlog", "reset")
    cli("config", "set", "slowlog-log-slower-than", 0)
    request(options, "/")
    cli("config", "set", "slowlog-log-slower-than", -1)
    entries = cli("slowlog", "get", -1)
    calls = [words for _, _, _, words, *_ in entries if words[0].upper() in ("EVALSHA", "EVAL", "FCALL")]
    return sum(any(options.actor in word for word in words) for words in calls)


def rows(options, wakes, sleeps, phases, trips):
    """[(name, value, unit, target, met)]; no target: shown for itself."""
    baseline = json.loads(options.baseline.read_text())["phases"]
    wake, sleep = quantile(wakes, 0.5) * 1000, quantile(sleeps, 0.5) * 1000
    lost = sum(p["unattributed"] for p in phases) / sum(sum(p.values()) for p in phases)
    said = options.store.read_text()
    size = re.search(r"(\d+) bytes of store memory per sleeping actor", said)
    yield f"wake, {options.mib} MiB, p50", wake, "ms", None, None
    yield f"wake, {options.mib} MiB, p95", quantile(wakes, 0.95) * 1000, "ms", None, None
    yield "wake of bare runsc, p50", baseline["wake"]["median"], "ms", None, None
    yield "wake: ours / bare runsc", wake / baseline["wake"]["median"], "", None, None
    yield "wake: unattributed", lost * 100, "%", "<= 5", lost <= 0.05
    yield f"suspend, {options.mib} MiB, p50", sleep, "ms", None, None
    yield "suspend of bare runsc, p50", baseline["sleep"]["median"], "ms", None, None
    yield "suspend: ours / bare runsc", sleep / baseline["sleep"]["median"], "", None, None
    yield "resume bookkeeping", trips, "store round trips", "<= 3", trips <= 3
    yield "store memory per sleeping actor", int(size[1]) if size else float("nan"), "bytes", "<= 300", bool(size) and int(size[1]) <= 300
    if options.demo.exists():
        demo = json.loads(options.demo.read_text())
        yield "make demo, warm, without building", demo["seconds"], "s", "<= 60", demo["seconds"] <= 60
        yield "actors lost in make demo", demo["lost"], "", "0", demo["lost"] == 0


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("state", "run", "baseline", "store", "demo", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    for name in ("router", "api", "actor"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--mib", type=int, required=True)
    parser.add_argument("--wakes", type=int, required=True)
    options = parser.parse_args()

    wakes, sleeps, phases = measure(options)
    trips = round_trips(options)
    numbers = list(rows(options, wakes, sleeps, phases, trips))
    names = list(dict.fromkeys(name for p in phases for name in p))
    means = {name: sum(p.get(name, 0.0) for p in phases) / len(phases) * 1000 for name in names}

    print("\nwhere a wake's time goes, mean")
    for name, value in means.items():
        print(f"  {value:8.2f} ms  {value / sum(means.values()) * 100:5.1f} %  {name}")
    print()
    for name, value, unit, target, met in numbers:
        verdict = "" if target is None else f"target {target}: {'ok' if met else 'MISS'}"
        print(f"  {name:46} {value:10.2f} {unit:18} {verdict}".rstrip())
    report = {
        "numbers": [
            {"name": n, "value": v if v == v else None, "unit": u, "target": t, "ok": met} for n, v, u, t, met in numbers
        ],
        "wakePhasesMs": means,
        "wakesMs": [w * 1000 for w in wakes],
        "suspendsMs": [s * 1000 for s in sleeps],
        "baseline": json.loads(options.baseline.read_text()),
    }
    options.out.write_text(json.dumps(report, indent=2) + "\n")
    print(f"\nwritten to {options.out.resolve()}")


if __name__ == "__main__":
    main()

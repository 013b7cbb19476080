#!/usr/bin/env python3
"""Moves many actors over few slots, kills everything in the middle, and says whether anything was lost.

  demo_load.py load --state DIR --run DIR --router HOST:PORT --api HOST:PORT --pid FILE --log FILE --result FILE
                    [--already SECONDS] [--actors N] [--slots N] [--wakes N] -- ATE-DEV-COMMAND...
  demo_load.py kill --state DIR --run DIR

One thread per slot holds at most one actor awake: it takes an actor that nobody holds, sends it a few requests, and
suspends it. Each answer carries the actor's counters, one in memory and one in a file, so that each answer proves where the
actor went on. What is held against it:

- both counters are equal;
- within one life of the system, the next count is exactly the last one and one;
- after the kill, it is beyond what the last acknowledged suspend held; for an actor that slept at the kill, exactly.

Exit code 1 when an actor breaks one of these. Python's standard library only.
"""

import argparse
import collections
import http.client
import json
import math
import os
import random
import re
import signal
import ssl
import subprocess
import sys
import threading
import time
from pathlib import Path

ZONE = "default.actors.resources.substrate.ate.dev"
ACTORS = "/apis/runtime.ate.dev/v1alpha1/namespaces/default/actors"
ANSWER_LIMIT = 60  # seconds from the first try of a request until it is given up
REQUEST_TIMEOUT = 40
SUSPEND_WAIT = 50
READY_LIMIT = 60
KILL_LIMIT = 10
WHOLE_LIMIT = 300
AGAIN_AFTER = 0.05
NOT_DELIVERED = (404, 429, 503)  # the router says these itself, of a request that reached nobody
REQUESTS_PER_WAKE = (1, 3)


class Failed(Exception):
    """Something that must not happen, in one line."""


# --- what one sees of an actor ---------------------------------------------------------------------------------------


class Actor:
    """What is known of one actor, and so what its next answer must be."""

    def __init__(self, name):
        self.name = name
        self.sent = 0  # requests that may have counted
        self.acked = 0  # count at the last acknowledged suspend
        self.last = 0  # last count seen
        self.exact = True  # nothing happened that may have taken it back or on since
        self.faults = []

    def answered(self, told, same_life):
        memory, file = told["memory"], told["file"]
        if memory != file:
            self.faults.append(f"{memory} in memory but {file} in the file")
        if memory <= self.acked:
            self.faults.append(f"counted {memory} after a suspend that held {self.acked}")
        elif self.exact and memory != self.last + 1:
            self.faults.append(f"counted {memory} after {self.last}")
        elif memory > self.sent:
            self.faults.append(f"counted {memory} of {self.sent} requests")
        self.last, self.exact = memory, same_life

    def suspended(self):
        if self.exact:
            self.acked = self.last


class World:
    """The actors, who holds them, and whether everything runs."""

    def __init__(self, names):
        self.lock = threading.Lock()
        self.idle = [Actor(name) for name in names]
        self.all = list(self.idle)
        self.held = set()
        self.life = 0
        self.up = threading.Event()
        self.stop = threading.Event()
        self.wakes, self.sleeps, self.phases = [], [], []
        self.again = collections.Counter()
        self.errors = []
        self.first_after = None

    def take(self, unseen):
        """An actor that nobody holds; with `unseen`, the next that was not checked yet."""
        with self.lock:
            pool = [a for a in self.idle if unseen is None or a in unseen]
            if not pool:
                return None
            actor = random.choice(pool)
            self.idle.remove(actor)
            self.held.add(actor)
            if unseen is not None:
                unseen.discard(actor)
            return actor

    def give_back(self, actor):
        with self.lock:
            self.held.discard(actor)
            self.idle.append(actor)

    def killed(self):
        with self.lock:
            self.up.clear()
            self.life += 1
            for actor in self.held:
                actor.exact = False
            return len(self.held)


# --- requests --------------------------------------------------------------------------------------------------------


class Lane:
    """One slot's worth of clients."""

    def __init__(self, world, options):
        self.world, self.options = world, options
        tls = ssl.create_default_context(cafile=options.state / "pki/ca.crt")
        tls.load_cert_chain(options.state / "pki/admin.crt", options.state / "pki/admin.key")
        self.tls = tls
        self.api = None

    def visit(self, actor, requests):
        """Wakes the actor, sends it requests, suspends it."""
        began, life = time.monotonic(), self.world.life
        timing, once = self.ask(actor)
        took = time.monotonic() - began
        if once and life == self.world.life:
            steps = self.steps(actor)
            with self.world.lock:
                self.world.wakes.append(took)
                self.world.phases.append((took, timing, steps))
        for _ in range(requests - 1):
            self.ask(actor)
        self.suspend(actor)

    def ask(self, actor):
        """Asks until it answers: its server-timing, and whether the first try did."""
        deadline, tries = time.monotonic() + ANSWER_LIMIT, 0
        while True:
            self.world.up.wait(READY_LIMIT)
            life, tries = self.world.life, tries + 1
            with self.world.lock:
                actor.sent += 1
            try:
                status, headers, body = self.get(actor)
            except (OSError, http.client.HTTPException) as error:
                status, headers, body = 0, {}, f"{type(error).__name__}: {error}"
            with self.world.lock:
                if status == 200:
                    if self.world.first_after is None and life and life == self.world.life:
                        self.world.first_after = time.monotonic()
                    actor.answered(json.loads(body), life == self.world.life)
                    return timings(headers), tries == 1
                if status in NOT_DELIVERED:
                    actor.sent -= 1
                else:
                    actor.exact = False  # it may have counted
                self.world.again[f"{status or ''} {body.strip()}".strip()] += 1
            if time.monotonic() > deadline or self.world.stop.is_set():
                raise Failed(f"{actor.name} does not answer: {status or ''} {body.strip()}")
            time.sleep(AGAIN_AFTER)

    def get(self, actor):
        connection = http.client.HTTPConnection(self.options.router, timeout=REQUEST_TIMEOUT)
        try:
            connection.request("GET", "/", headers={"Host": f"{actor.name}.{ZONE}", "Connection": "close"})
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read().decode(errors="replace")
        finally:
            connection.close()

    def suspend(self, actor):
        """Suspends it and waits until that is acknowledged: from then on nothing it did may be lost."""
        deadline = time.monotonic() + ANSWER_LIMIT
        while True:
            self.world.up.wait(READY_LIMIT)
            began, life = time.monotonic(), self.world.life
            try:
                status, told = self.call("POST", f"{ACTORS}/{actor.name}/suspend?wait={SUSPEND_WAIT}")
            except (OSError, http.client.HTTPException) as error:
                status, told = 0, {"message": f"{type(error).__name__}: {error}"}
            if status == 200 and told["status"]["phase"] == "Suspended":
                with self.world.lock:
                    actor.suspended()
                    if life == self.world.life:
                        self.world.sleeps.append(time.monotonic() - began)
                return
            if time.monotonic() > deadline or self.world.stop.is_set():
                raise Failed(f"{actor.name} cannot be suspended: {told.get('message', told.get('status'))}")
            with self.world.lock:
                self.world.again[str(told.get("message", told.get("status")))] += 1
            time.sleep(AGAIN_AFTER)

    def steps(self, actor):
        """What the API says of the actor's last transition: [(name, seconds)]."""
        try:
            _, told = self.call("GET", f"{ACTORS}/{actor.name}")
            transition = told["status"]["lastTransition"]
        except (OSError, http.client.HTTPException, KeyError):
            return []
        return [(s["name"], seconds(s["duration"])) for s in transition.get("steps", [])]

    def call(self, method, path):
        """One call of the API, over a connection that is kept."""
        if self.api is None:
            host, port = self.options.api.rsplit(":", 1)
            self.api = http.client.HTTPSConnection(host, int(port), timeout=SUSPEND_WAIT + 5, context=self.tls)
        try:
            self.api.request(method, path)
            answer = self.api.getresponse()
            return answer.status, json.loads(answer.read() or b"{}")
        except (OSError, http.client.HTTPException, ValueError):
            self.api.close()
            self.api = None
            raise


def timings(headers):
    """server-timing of a response, in seconds by name (W3C Server Timing)."""
    found = re.findall(r"([\w-]+);dur=([\d.]+)", headers.get("server-timing") or "")
    return {name: float(milliseconds) / 1000 for name, milliseconds in found}


def seconds(duration):
    """A Kubernetes duration (1m2.5s, 12ms) in seconds."""
    units = {"h": 3600, "m": 60, "s": 1, "ms": 1e-3, "us": 1e-6, "µs": 1e-6}
    return sum(float(n) * units[u] for n, u in re.findall(r"([\d.]+)(h|ms|us|µs|m|s)", duration))


# --- processes -------------------------------------------------------------------------------------------------------


def ours(options):
    """Every process of this `ate dev`: those that name its directories, and what they started; {pid: name}."""
    parents, commands = {}, {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            stat = (entry / "stat").read_text()
            command = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        fields = stat[stat.rindex(")") + 2 :].split()
        if fields[0] in "ZX":
            continue
        parents[int(entry.name)], commands[int(entry.name)] = int(fields[1]), command
    spared, pid = set(), os.getpid()
    while pid in parents:
        spared.add(pid)
        pid = parents[pid]
    marks = [str(options.state), str(options.run)]
    found = {p for p, c in commands.items() if p not in spared and any(m in a for m in marks for a in c)}
    grown = True
    while grown:
        more = {p for p, parent in parents.items() if parent in found} - found - spared
        found |= more
        grown = bool(more)
    return {p: name_of(commands[p]) for p in found}


def name_of(command):
    name = os.path.basename(command[0]) if command else ""
    if name == "ate" and len(command) > 1:
        return f"ate {command[1]}"
    return "valkey-server" if command[0].startswith("valkey-server") or "valkey" in name else "processes of sandboxes"


def resident(pid):
    """MiB of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


def kill_all(options):
    """kill -9 of everything, until nothing is left; what was killed."""
    deadline, killed = time.monotonic() + KILL_LIMIT, {}
    while left := ours(options):
        if time.monotonic() > deadline:
            raise Failed(f"cannot kill {left}")
        for pid, name in left.items():
            killed.setdefault(pid, name)
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        time.sleep(0.01)
    return collections.Counter(killed.values())


def restart(options):
    """Starts `ate dev` again and waits until it says that it is ready."""
    with open(options.log, "ab") as log:
        offset = log.tell()
        process = subprocess.Popen(options.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    options.pid.write_text(f"{process.pid}\n")
    deadline = time.monotonic() + READY_LIMIT
    while True:
        said = options.log.read_bytes()[offset:].decode(errors="replace")
        if re.search(r"^ready ", said, re.MULTILINE):
            return
        if process.poll() is not None or time.monotonic() > deadline:
            raise Failed(f"ate dev does not start again: {said.strip().splitlines()[-1:]}; see {options.log}")
        time.sleep(0.02)


# --- the run ---------------------------------------------------------------------------------------------------------


def drive(world, options, enough, unseen=None):
    """All lanes until `enough()`, or until every actor of `unseen` had its turn."""

    def lane():
        mine = Lane(world, options)
        try:
            while not world.stop.is_set() and not (unseen is None and enough()):
                actor = world.take(unseen)
                if actor is None:
                    return
                try:
                    mine.visit(actor, 1 if unseen is not None else random.randint(*REQUESTS_PER_WAKE))
                finally:
                    world.give_back(actor)
        except Exception as error:  # noqa: BLE001: whatever it is, the run has failed and says so
            world.errors.append(str(error) if isinstance(error, Failed) else f"{type(error).__name__}: {error}")
            world.stop.set()

    threads = [threading.Thread(target=lane, daemon=True) for _ in range(options.slots)]
    for thread in threads:
        thread.start()
    return threads


def wait_for(condition, world, limit):
    deadline = time.monotonic() + limit
    while not condition():
        if world.stop.is_set():
            raise Failed("; ".join(world.errors))
        if time.monotonic() > deadline:
            world.stop.set()
            raise Failed(f"not finished after {limit} s: {len(world.wakes)} wakes")
        time.sleep(0.005)


def load(options):
    world = World([f"actor-{n:02}" for n in range(1, options.actors + 1)])
    world.up.set()
    began = time.monotonic()
    threads = drive(world, options, lambda: len(world.wakes) >= options.wakes)
    wait_for(lambda: len(world.wakes) >= options.wakes // 2, world, WHOLE_LIMIT)
    say(f"  {len(world.wakes)} wakes so far; now kill -9 of everything, sandboxes included")
    awake = world.killed()
    died = time.monotonic()
    killed = kill_all(options)
    say("  killed " + ", ".join(f"{n} {name}" if n > 1 else name for name, n in sorted(killed.items())))
    say(f"  {awake} actors were awake or moving; starting ate dev again")
    restart(options)
    world.up.set()
    wait_for(lambda: world.first_after is not None, world, WHOLE_LIMIT)
    say(f"  first answer {world.first_after - died:.1f} s after the kill; going on")
    wait_for(lambda: not any(t.is_alive() for t in threads), world, WHOLE_LIMIT)
    say("  now each actor once more, to see where it stands")
    threads = drive(world, options, None, unseen=set(world.all))
    wait_for(lambda: not any(t.is_alive() for t in threads), world, WHOLE_LIMIT)
    if world.stop.is_set():
        raise Failed("; ".join(world.errors))
    return report(world, options, time.monotonic() - began)


def say(line):
    print(line, flush=True)


def quantile(samples, q):
    ordered = sorted(samples)
    return ordered[max(0, math.ceil(len(ordered) * q) - 1)] if ordered else float("nan")


def report(world, options, took):
    lost = [a for a in world.all if a.faults]
    of = lambda samples, q: f"{quantile(samples, q) * 1000:.0f} ms"  # noqa: E731
    rows = [
        ("actors", len(world.all)),
        ("slots", options.slots),
        ("wakes", len(world.wakes)),
        ("lost", len(lost)),
        ("wake p50", of(world.wakes, 0.5)),
        ("wake p95", of(world.wakes, 0.95)),
        ("suspend p50", of(world.sleeps, 0.5)),
        ("suspend p95", of(world.sleeps, 0.95)),
        ("asked again", world.again.total()),
        ("took", f"{took:.0f} s"),
    ]
    widths = [max(len(name), len(str(value))) for name, value in rows]
    say("")
    say("  " + "  ".join(name.rjust(width) for (name, _), width in zip(rows, widths)))
    say("  " + "  ".join(str(value).rjust(width) for (_, value), width in zip(rows, widths)))
    say("")
    say("  where the time of a wake goes")
    for name, share in shares(world.phases):
        say(f"  {share * 100:5.1f} %  {name}")
    result = {
        "actors": len(world.all),
        "wakes": len(world.wakes),
        "lost": len(lost),
        "wakeMs": {"p50": quantile(world.wakes, 0.5) * 1000, "p95": quantile(world.wakes, 0.95) * 1000},
        "seconds": time.monotonic() - options.began,
    }
    options.result.write_text(json.dumps(result, indent=2) + "\n")
    for why, times in world.again.most_common(3):
        say(f"  asked again {times} times: {why[:140]}")
    for actor in lost:
        say(f"  LOST {actor.name}: {'; '.join(actor.faults)}")
    return not lost


def shares(phases):
    """[(phase, share of all wakes' time)], in the order in which they happen; they sum to 1."""
    total = sum(took for took, _, _ in phases)
    sums = {}
    for took, timing, steps in phases:
        resolve = timing.get("resolve", 0.0)
        steps = [(name, d) for name, d in timing.items() if name not in ("resolve", "connect", "upstream")] or steps
        inside = sum(d for _, d in steps)
        # Steps may belong to another transition than this one when the actor moved on meanwhile.
        if steps and inside <= resolve * 1.02:
            parts = [(name, d) for name, d in steps] + [("rest of resolve", max(0.0, resolve - inside))]
        else:
            parts = [("resolve: ask for the actor, wake it", resolve)]
        parts += [("connect: reach its worker", timing.get("connect", 0.0))]
        parts += [("upstream: the actor answers", timing.get("upstream", 0.0))]
        for name, duration in parts:
            sums[name] = sums.get(name, 0.0) + duration
    sums["router, client and connection"] = max(0.0, total - sum(sums.values()))
    return [(name, value / total) for name, value in sums.items()] if total else []


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=["load", "kill"])
    parser.add_argument("--state", type=Path, required=True, help="--dir of ate dev")
    parser.add_argument("--run", type=Path, required=True, help="--run-dir of ate dev")
    parser.add_argument("--router", help="address of the router")
    parser.add_argument("--api", help="address of the API")
    parser.add_argument("--pid", type=Path, help="file that holds the pid of ate dev")
    parser.add_argument("--log", type=Path, help="where ate dev writes")
    parser.add_argument("--result", type=Path, help="where the result is written, as JSON")
    parser.add_argument("--already", type=float, default=0, help="seconds that count as spent before")
    parser.add_argument("--actors", type=int, default=50)
    parser.add_argument("--slots", type=int, default=4)
    parser.add_argument("--wakes", type=int, default=60, help="before each actor is looked at once more")
    arguments = sys.argv[1:]
    end = arguments.index("--") if "--" in arguments else len(arguments)
    options = parser.parse_args(arguments[:end])
    options.command = arguments[end + 1 :]
    options.began = time.monotonic() - options.already
    try:
        if options.verb == "kill":
            kill_all(options)
            return 0
        return 0 if load(options) else 1
    except Failed as failure:
        print(f"demo: {failure}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())

"""What an installation in pods takes at rest, how its wakes compare with those of `ate dev`, and many actors on few workers.

Called by pods.sh, which says what the arguments are. Prints numbers, a line of JSON each, and to standard error what they
consist of. Python's standard library only.
"""

import argparse
import collections
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from demo_load import Actor, Failed, Lane, World, drive, quantile, wait_for  # noqa: E402
from report import WARM_UP, attribute, mean, request  # noqa: E402
from sleeps import suspend  # noqa: E402

COMPONENTS = ("ate controller", "ate apiserver", "ate router", "ate atelet")
WORKER = "ate ateom"
MEMORY, SHARE = 150, 1  # MiB and percent of one core, of all processes of COMPONENTS together
RATIO = 1.3
SIZES = (0, 64)  # MiB that the actor holds, beside what it is
BLOCK = 5  # wakes in a row on one side, so that both sides see the same noise
LAST_LIMIT = 300  # seconds until all have had their turn after the load
TICKS = os.sysconf("SC_CLK_TCK")
# Kinds that are asked, not kept.
REVIEWS = ("tokenreviews", "subjectaccessreviews")


def number(name, value, unit, bound=None):
    target = None if bound is None else f"<= {bound}" if bound else "0"
    ok = None if bound is None else value <= bound
    print(json.dumps({"name": name, "value": value, "unit": unit, "target": target, "ok": ok}), flush=True)


def say(line):
    print(line, file=sys.stderr, flush=True)


# --- at rest -----------------------------------------------------------------------------------------------------------


def processes(options):
    """Those in the cluster's pods: {pid: (name, pod)}."""
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            groups = (entry / "cgroup").read_text()
            command = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        pod = re.search(rf"/e2e{options.id}/.*/pod([^/]+)/", groups)
        if pod and command[0]:
            name = os.path.basename(command[0])
            found[int(entry.name)] = (f"{name} {command[1]}" if name == "ate" else name.split()[0], pod[1])
    return found


def memory(pid):
    """MiB: its own, and its part of what it shares."""
    return int(re.search(r"^Pss:\s+(\d+)", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)[1]) / 1024


def processor(pid):
    """Seconds so far, in user and kernel mode."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


class Store:
    """What is written to the bundled store, as long as this is entered."""

    def __init__(self, options, pid):
        self.enter = ["nsenter", "--net", "--target", str(pid), "valkey-cli"]
        listed = subprocess.run([*self.enter, "command", "list", "filterby", "aclcat", "write"], check=True, capture_output=True)
        self.names = {name.upper() for name in listed.stdout.decode().split()}
        self.seen = options.state / "monitor"

    def __enter__(self):
        with self.seen.open("wb") as out:
            self.monitor = subprocess.Popen([*self.enter, "monitor"], stdout=out)
        return self

    def __exit__(self, *_):
        self.monitor.kill()
        self.monitor.wait()

    def writes(self):
        """{"COMMAND key": how often}"""
        found = collections.Counter()
        with self.seen.open(errors="replace") as lines:
            for line in lines:
                said = re.match(r'[\d.]+ \[.*?\] "(\w+)" "([^"]*)"', line)
                if said and said[1].upper() in self.names and not said[1].upper().startswith("EVAL"):
                    found[f"{said[1].upper()} {said[2]}"] += 1
        return found


def audited(options, offset):
    """What our processes asked kube-apiserver to write since the audit log had so many bytes: {"user verb kind name": how often}."""
    found = collections.Counter()
    with audit_log(options).open() as log:
        log.seek(offset)
        for event in map(json.loads, log):
            what = event["objectRef"]
            if what["resource"] not in REVIEWS:
                user = event["user"]["username"].rpartition(":")[2]
                found[f"{user} {event['verb']} {what['resource']} {what.get('name', '')}"] += 1
    return found


def audit_log(options):
    return options.state / "log" / "audit.log"


def split(found, exempt):
    """How many of what was counted are exempt, and how many are not; those are said."""
    rest = {what: times for what, times in found.items() if not exempt(what)}
    for what, times in sorted(rest.items()):
        say(f"  {times} times {what}")
    return found.total() - sum(rest.values()), sum(rest.values())


def rest(options):
    time.sleep(options.settle)
    found = processes(options)
    ours = {pid: name for pid, (name, _) in found.items() if name in COMPONENTS}
    store = next(pid for pid, (name, _) in found.items() if name == "valkey-server")
    offset = audit_log(options).stat().st_size
    with Store(options, store) as store:
        before = {pid: processor(pid) for pid in ours}
        began = time.monotonic()
        time.sleep(options.seconds)
        # What is gone was not at rest.
        took = {pid: (processor(pid) - before[pid]) / (time.monotonic() - began) * 100 for pid in ours}
    held = {pid: memory(pid) for pid in found}
    for component in COMPONENTS:
        mine = [pid for pid, name in ours.items() if name == component]
        number(f"at rest: {component}, {len(mine)} of it, memory (PSS)", sum(held[pid] for pid in mine), "MiB")
        number(f"at rest: {component}, {len(mine)} of it, processor", sum(took[pid] for pid in mine), "% of one")
    number("at rest: these four, memory (PSS)", sum(held[pid] for pid in ours), "MiB", MEMORY)
    number("at rest: these four, processor", sum(took.values()), "% of one", SHARE)
    workers = {pod for name, pod in found.values() if name == WORKER}
    inside = sum(held[pid] for pid, (_, pod) in found.items() if pod in workers)
    number("at rest: a free worker's pod, memory (PSS)", inside / len(workers), "MiB")
    leases, others = split(audited(options, offset), lambda what: " leases " in what)
    number(f"at rest: writes in Kubernetes in {options.seconds} s, its Lease apart", others, "", 0)
    number(f"at rest: the Lease renewed in {options.seconds} s", leases, "times")
    leases, others = split(store.writes(), lambda what: what.startswith("HSET ") and what.endswith(":nodes"))
    number(f"at rest: writes in the store in {options.seconds} s, its node's lease apart", others, "", 0)
    number(f"at rest: the node's lease renewed in {options.seconds} s", leases, "times")


# --- wakes in pods and of `ate dev` ------------------------------------------------------------------------------------


class Side:
    """An actor of one installation, woken again and again."""

    def __init__(self, name, state, router, api):
        self.name = name
        self.options = argparse.Namespace(state=state, router=router, api=api, actor="alice")
        self.lane = Lane(World([self.options.actor]), self.options)
        self.begin(0)

    def begin(self, mib):
        self.wakes, self.phases = [], []
        request(self.options, self.options.actor, f"/mem?mb={mib}")
        self.held = request(self.options, self.options.actor, "/mem")[2]
        for _ in range(WARM_UP):
            self.wake()
        self.wakes, self.phases = [], []

    def wake(self):
        suspend(self.lane, self.options.actor)
        took, timing, _ = request(self.options, self.options.actor, "/")
        self.wakes.append(took)
        self.phases.append(attribute(took, timing, self.lane.steps(Actor(self.options.actor))))

    def end(self):
        if request(self.options, self.options.actor, "/mem")[2] != self.held:
            sys.exit(f"bench: {self.name}: the memory that woke is not the memory that fell asleep")


def ratio(options):
    pods = Side("in pods", options.state, options.router, options.api)
    dev = Side("ate dev", options.dev_state, options.dev_router, options.dev_api)
    for mib in SIZES:
        what = f"holds {mib} MiB" if mib else "counts"
        for side in (pods, dev):
            side.begin(mib)
        while len(pods.wakes) < options.wakes:
            for side in (pods, dev):
                for _ in range(BLOCK):
                    side.wake()
        for side in (pods, dev):
            side.end()
            number(f"{side.name}: wake of an actor that {what}, p50", quantile(side.wakes, 0.5) * 1000, "ms")
            number(f"{side.name}: wake of an actor that {what}, p95", quantile(side.wakes, 0.95) * 1000, "ms")
        number(f"wake of an actor that {what}: in pods / ate dev", quantile(pods.wakes, 0.5) / quantile(dev.wakes, 0.5), "", RATIO)
        here, there = mean(pods.phases), mean(dev.phases)
        say("  where that time goes, mean: in pods, ate dev")
        for name in dict.fromkeys([*here, *there]):
            say(f"  {here.get(name, 0):8.2f} ms {there.get(name, 0):8.2f} ms  {name}")


# --- many actors on few workers ----------------------------------------------------------------------------------------


def load(options):
    world = World([f"crowd-{n}" for n in range(1, options.actors + 1)])
    world.up.set()
    began = time.monotonic()
    threads = drive(world, options, lambda: time.monotonic() - began >= options.seconds)
    wait_for(lambda: not any(t.is_alive() for t in threads), world, options.seconds + LAST_LIMIT)
    took, wakes = time.monotonic() - began, len(world.sleeps)
    samples = list(world.wakes)
    # Each once more, to see where it stands.
    threads = drive(world, options, None, unseen=set(world.all))
    wait_for(lambda: not any(t.is_alive() for t in threads), world, LAST_LIMIT)
    if world.stop.is_set():
        raise Failed("; ".join(world.errors))
    refused = sum(times for why, times in world.again.items() if re.match(r"5\d\d\b", why))
    for why, times in world.again.most_common():
        say(f"  asked again {times} times: {why[:140]}")
    lost = [actor for actor in world.all if actor.faults]
    for actor in lost:
        say(f"  LOST {actor.name}: {'; '.join(actor.faults)}")
    what = f"{options.actors} actors on {options.slots} workers"
    number(f"{what}: lost", len(lost), "actors", 0)
    number(f"{what}: wakes", wakes / took, "1/s")
    number(f"{what}: wake, p50", quantile(samples, 0.5) * 1000, "ms")
    number(f"{what}: wake, p95", quantile(samples, 0.95) * 1000, "ms")
    number(f"{what}: suspend, p50", quantile(world.sleeps, 0.5) * 1000, "ms")
    number(f"{what}: answers 5xx", refused, "")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=["rest", "ratio", "load"])
    parser.add_argument("--state", type=Path, required=True, help="the cluster's folder")
    parser.add_argument("--router", required=True, help="address of the router's Service")
    parser.add_argument("--api", required=True, help="address of kube-apiserver")
    parser.add_argument("--id", help="E2E_ID of the cluster")
    parser.add_argument("--settle", type=float, help="seconds before it is measured")
    parser.add_argument("--seconds", type=int, help="how long it is measured")
    parser.add_argument("--dev-state", type=Path, help="--dir of ate dev")
    parser.add_argument("--dev-router", help="address of its router")
    parser.add_argument("--dev-api", help="address of its API")
    parser.add_argument("--wakes", type=int, help="on either side")
    parser.add_argument("--actors", type=int)
    parser.add_argument("--slots", type=int, help="their workers")
    options = parser.parse_args()
    try:
        {"rest": rest, "ratio": ratio, "load": load}[options.verb](options)
    except Failed as failure:
        sys.exit(f"bench: {failure}")


if __name__ == "__main__":
    main()

#!/usr/bin/python3
"""Wakes an actor from an S3 server by a node that has nothing of it, beside bare runsc and reading the same objects.

Called by run.sh, which says what the arguments are; a line of JSON for each number. Python's standard library and curl.
"""

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import sleeps  # noqa: E402
from demo_load import Failed, Lane, World, ours, quantile  # noqa: E402
from idle import settle  # noqa: E402
from report import request  # noqa: E402

OVER = 30  # ms that a wake may take beside bare runsc's restore and the reads of its objects, median
PARALLEL = 8  # objects that are read at the same time
TIMEOUT = 60


def forget(options):
    """Has the node agent come back without any copy of a snapshot."""
    (agent,) = (pid for pid, name in ours(options).items() if name == "ate atelet")
    os.kill(agent, signal.SIGSTOP)
    for name in ("snapshots", "held"):
        # What was under way still is for a moment.
        while left := list((options.state / "node" / name).iterdir()):
            for one in left:
                shutil.rmtree(one, ignore_errors=True) if one.is_dir() else one.unlink(missing_ok=True)
    os.kill(agent, signal.SIGKILL)
    settle(options)


def read(options):
    """Seconds until all objects of the bucket are read that are no manifests' marks: those of the actor and its golden snapshot."""
    root = options.bucket.parent
    objects = [path.relative_to(root) for path in options.bucket.rglob("*") if path.is_file() and path.stat().st_size > 1]
    keys = f"{os.environ['AWS_ACCESS_KEY_ID']}:{os.environ['AWS_SECRET_ACCESS_KEY']}"
    config = [f'user = "{keys}"', 'aws-sigv4 = "aws:amz:us-east-1:s3"', 'header = "x-amz-content-sha256: UNSIGNED-PAYLOAD"']
    config += ['write-out = "\\n%{http_code} %{time_total}\\n"']
    config += [line for o in objects for line in (f'url = "{options.s3}/{o}"', 'output = "/dev/null"')]
    command = ["curl", "--silent", "--parallel", "--parallel-max", str(PARALLEL), "--config", "-"]
    done = subprocess.run(command, input="\n".join(config), capture_output=True, text=True, timeout=TIMEOUT, check=True)
    # curl shows its progress among them.
    answers = re.findall(r"^(\d{3}) (\d+\.\d+)", done.stdout, re.MULTILINE)
    if len(answers) != len(objects) or any(code != "200" for code, _ in answers):
        sys.exit(f"bench: not all of {len(objects)} objects could be read: {answers[:3]}")
    return max(float(took) for _, took in answers), sum((root / o).stat().st_size for o in objects)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("state", "run", "bucket", "baseline"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    for name in ("router", "api", "s3", "actor"):
        parser.add_argument(f"--{name}", required=True)
    for name in ("mib", "slots", "wakes"):
        parser.add_argument(f"--{name}", type=int, required=True)
    options = parser.parse_args()
    lane = Lane(World([options.actor]), options)
    try:
        request(options, options.actor, f"/mem?mb={options.mib}")
        sleeps.suspend(lane, options.actor)
        wakes, reads = [], []
        for _ in range(options.wakes):
            forget(options)
            seconds, stored = read(options)
            reads.append(seconds)
            wakes.append(request(options, options.actor, "/")[0])
            sleeps.suspend(lane, options.actor)
    except Failed as failure:
        sys.exit(f"bench: {failure}")
    bare = json.loads(options.baseline.read_text())["phases"]["wake"]["median"]
    wake, reading = (quantile(samples, 0.5) * 1000 for samples in (wakes, reads))
    over, name = wake - bare - reading, f"wake from S3, nothing cached, {options.mib} MiB"
    for row in [
        (f"{name}, p50 of {len(wakes)}", wake, "ms", None, None),
        (f"reading its objects ({stored / 2**20:.1f} MiB), p50", reading, "ms", None, None),
        (f"{name}: ours - bare runsc - reads", over, "ms", f"<= {OVER}", over <= OVER),
    ]:
        print(json.dumps(dict(zip(("name", "value", "unit", "target", "ok"), row, strict=True))))


if __name__ == "__main__":
    main()

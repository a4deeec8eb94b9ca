#!/usr/bin/env python3
"""What a lease costs by the number of trials in the queue: a table and a plot (lease_cost.svg beside this file).

    python3 examples/dispatch/lease_cost.py [--kapell target/release/kapell] [--sizes 1000,10000,100000,1000000]

For each size `kapell bench dispatch` makes a study of so many trials and runs a thousand of them, one at a time on one
worker, so that the times are those of a lease and not of a queue before it. Every size is measured in every round.
"""

import argparse
import json
import math
import pathlib
import statistics
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "reproduction"))
from chart import BLUE, Panel, Picture  # noqa: E402


def measure(o, size):
    command = [o.kapell, "bench", "dispatch", "--workers", "1", "--slots", "1", "--reports", "1", "--json"]
    command += ["--trials", str(size), "--limit", str(min(size, 1000)), "--dir", o.dir]
    return json.loads(subprocess.run(command, check=True, capture_output=True).stdout)


def draw(medians):
    picture = Picture(640, 420, "What a lease costs", "median and 99th percentile of 1000 leases; one worker, real store",
                      "Time of a lease by the number of trials in the study.")
    sizes = sorted(medians)
    high = max(p99 for _, p99 in medians.values())
    low = min(p50 for p50, _ in medians.values())
    logs = {size: math.log10(size) for size in sizes}
    panel = Panel(picture, (66, 90, 540, 360), (min(logs.values()), max(logs.values())), (low / 2, high * 2), log=True)
    panel.axes(list(logs.values()), "trials, as a power of ten", "ms a lease (logarithmic)")
    for name, place, width in (("median", 0, 2.4), ("p99", 1, 1.4)):
        panel.line(name, [(logs[size], medians[size][place]) for size in sizes], BLUE, width)
        panel.end_label(name, medians[sizes[-1]][place], BLUE)
    panel.place_labels()
    return picture.svg()


def main():
    a = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    a.add_argument("--kapell", default="target/release/kapell")
    a.add_argument("--sizes", default="1000,10000,100000,1000000")
    a.add_argument("--rounds", type=int, default=3)
    a.add_argument("--dir", default=".", help="where the stores are made")
    o = a.parse_args()
    got = {int(size): [] for size in o.sizes.split(",")}
    for _ in range(o.rounds):
        for size, reports in got.items():
            reports.append(measure(o, size))
    medians = {}
    print("| trials | median, ms | p99, ms | expanding, s |\n|---|---|---|---|")
    for size, reports in got.items():
        p50, p99 = (statistics.median(r["lease_ms"][q] for r in reports) for q in ("p50", "p99"))
        medians[size] = (p50, p99)
        print(f"| {size} | {p50:.2f} | {p99:.2f} | {statistics.median(r['create_s'] for r in reports):.1f} |")
    (HERE / "lease_cost.svg").write_text(draw(medians))


if __name__ == "__main__":
    main()

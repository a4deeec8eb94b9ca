#!/usr/bin/env python3
"""Trials a second beside Optuna's journal, its fastest storage, in one run on one machine: A B B A, rounds times.

    python3 examples/dispatch/compare.py --kapell target/release/kapell --python PYTHON_WITH_OPTUNA [--rounds 3]

Two workers on either side, trials that do nothing but report 30 times. Kapellmeister's go through its real service
and its real store (`kapell bench dispatch`), on disk before they are acknowledged; Optuna's through its Python API.
Prints the medians and their ratio. Exit code: 0 at ten times or more, 3 below.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent


def kapell(o, folder):
    command = [o.kapell, "bench", "dispatch", "--workers", "2", "--json", "--dir", folder]
    command += ["--trials", str(o.trials), "--reports", str(o.reports)]
    report = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    if report["lost"] or report["duplicated"]:
        sys.exit(f"trials were lost or came twice: {report}")
    return report["trials_per_s"]


def optuna(o, folder):
    trials = max(o.trials // 40, 50)
    command = [o.python, str(HERE / "optuna_worker.py"), f"{folder}/journal", str(trials // 2), str(o.reports)]
    workers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    times = [[float(t) for t in worker.communicate()[0].split()] for worker in workers]
    if any(worker.returncode for worker in workers):
        sys.exit("an Optuna worker failed: is Optuna installed there?")
    return 2 * (trials // 2) / (max(end for _, end in times) - min(begun for begun, _ in times))


def main():
    a = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    a.add_argument("--kapell", default="target/release/kapell")
    a.add_argument("--python", default=sys.executable)
    a.add_argument("--rounds", type=int, default=3)
    a.add_argument("--trials", type=int, default=8640)
    a.add_argument("--reports", type=int, default=30)
    o = a.parse_args()
    got = {kapell: [], optuna: []}
    for _ in range(o.rounds):
        for side in (kapell, optuna, optuna, kapell):
            with tempfile.TemporaryDirectory(dir=".") as folder:
                got[side].append(side(o, folder))
    ours, theirs = (statistics.median(got[side]) for side in (kapell, optuna))
    print(f"kapell {ours:.0f} trials/s ({min(got[kapell]):.0f} to {max(got[kapell]):.0f}), "
          f"Optuna's journal {theirs:.0f} ({min(got[optuna]):.0f} to {max(got[optuna]):.0f}): {ours / theirs:.1f} times")
    return 0 if ours >= 10 * theirs else 3


if __name__ == "__main__":
    sys.exit(main())

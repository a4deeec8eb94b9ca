#!/usr/bin/env python3
"""Trials a second beside Optuna's journal, its fastest storage, and HyperQueue, in one run on one machine.

    python3 examples/dispatch/compare.py --kapell target/release/kapell --python PYTHON_WITH_THEM [--rounds 3]

PYTHON_WITH_THEM is a Python with `pip install optuna hyperqueue`. Two workers on every side, A B C C B A, rounds times.
Kapellmeister's and Optuna's trials do nothing but report 30 times: the former go through its real service and its real
store (`kapell bench dispatch`), on disk before they are acknowledged, the latter through Optuna's Python API.
HyperQueue's figure is of another kind: its tasks are processes (`true`), and it records no results of them.
Prints the medians and the ratio to Optuna. Exit code: 0 at ten times or more, 3 below.
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


def hyperqueue(o, folder):
    tasks = max(o.trials // 4, 50)
    command = [o.python, str(HERE / "hyperqueue_tasks.py"), str(pathlib.Path(folder, "server").resolve()), str(tasks)]
    done = subprocess.run(command, capture_output=True, text=True)
    times = [line.split()[1:] for line in done.stdout.splitlines() if line.startswith("TIMES")]
    if done.returncode or not times:
        sys.exit(f"HyperQueue failed: is it installed there?\n{done.stderr[-2000:]}")
    begun, end = map(float, times[0])
    return tasks / (end - begun)


def main():
    a = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    a.add_argument("--kapell", default="target/release/kapell")
    a.add_argument("--python", default=sys.executable)
    a.add_argument("--rounds", type=int, default=3)
    a.add_argument("--trials", type=int, default=8640)
    a.add_argument("--reports", type=int, default=30)
    a.add_argument("--without-hyperqueue", action="store_true", help="where it is not installed")
    o = a.parse_args()
    sides = [kapell, optuna] + ([] if o.without_hyperqueue else [hyperqueue])
    got = {side: [] for side in sides}
    for _ in range(o.rounds):
        for side in sides + sides[::-1]:
            with tempfile.TemporaryDirectory(dir=".") as folder:
                got[side].append(side(o, folder))
    names = {kapell: "kapell", optuna: "Optuna's journal", hyperqueue: "HyperQueue (processes, no results)"}
    median = {side: statistics.median(rates) for side, rates in got.items()}
    for side, rates in got.items():
        print(f"{names[side]}: {median[side]:.0f} a second ({min(rates):.0f} to {max(rates):.0f})")
    print(f"kapell is {median[kapell] / median[optuna]:.1f} times Optuna's journal")
    return 0 if median[kapell] >= 10 * median[optuna] else 3


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""Tables, plots and a verdict from the two studies of this folder: how near they come to what was published.

    python3 report.py                           studies that `kapell run` kept in the default data folder
    python3 report.py --data-dir DIR            the same with another folder (starts a coordinator on it for a moment)
    python3 report.py --coordinator URL         while the search is still running
    python3 report.py --redraw                  again from what is saved, without kapell

Fetches every trial by `kapell trial show --json` and writes into --out (by default `results` beside this file):
seeds.jsonl and dropout.jsonl (the study, then a line a trial), seeds.csv, dropout.csv, seeds.svg, dropout.svg and
README.md, which has the tables. A study that is not there is left as it was saved. Needs only Python's own library.

Exit codes: 0 the mean of the seeds is within 0.015 of PyTorch from the fourth epoch on; 2 usage, not found;
3 it is not, or it is another model; 6 not ready: trials are missing or still running; 75 kapell cannot be reached.
"""

import argparse
import csv
import io
import json
import os
import pathlib
import shutil
import subprocess
import sys
import threading

import plots

HERE = pathlib.Path(__file__).resolve().parent
STUDIES = {"seeds": "bachbot-seeds", "dropout": "bachbot-dropout"}
TOLERANCE = 0.015
COMPARED_FROM_EPOCH = 4
# Validation loss after so many epochs of the same model trained in PyTorch by the same protocol (one seed).
PYTORCH = {1: 0.867, 2: 0.556, 4: 0.438, 8: 0.397, 11: 0.378, 16: 0.374, 30: 0.372}
PYTORCH_TRAIN = {30: 0.284}
# The article's best configuration: 3 layers, 256, 32, 128, 0.3 (nats per token; one seed, one run).
PUBLISHED = {"train": 0.324, "validation": 0.477}
PROTOCOL = {
    "layers": 3,
    "hidden": 256,
    "embedding": 32,
    "seq_len": 128,
    "dropout": 0.3,
    "batch_size": 50,
    "learning_rate": 0.002,
    "lr_decay": {"every": 5, "factor": 0.5, "reset_moments": True},
    "grad_clip": {"kind": "value", "max": 5.0},
    "batch_norm": True,
    "dtype": "f32",
}
DONE, USAGE, REFUSED, NOT_READY, TEMPORARY = 0, 2, 3, 6, 75


class ReportError(Exception):
    """What keeps the report from being made, and the exit code that says so."""

    def __init__(self, code, message):
        super().__init__(message)
        self.code = code


# ---- Fetching


def find_kapell(given):
    built = HERE.parent.parent / "target" / "release" / "kapell"
    found = given or (str(built) if built.exists() else shutil.which("kapell"))
    if not found:
        raise ReportError(USAGE, "there is no kapell: build it (cargo build --release), or say where it is (--kapell PATH)")
    return found


def ask(kapell, coordinator, *words):
    """The objects that a command prints; None where there is nothing of that name."""
    command = [kapell, *words, "--json", "--coordinator", coordinator]
    try:
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise ReportError(USAGE, f"cannot run {kapell}: {error}") from error
    if ran.returncode != 0:
        try:
            failure = json.loads(ran.stderr.strip().splitlines()[-1])["error"]
        except (IndexError, KeyError, TypeError, ValueError):
            failure = {"code": "", "message": ran.stderr.strip()}
        if failure["code"] == "not-found":
            return None
        code = TEMPORARY if ran.returncode == TEMPORARY else USAGE
        raise ReportError(code, f"{' '.join(command)}: {failure['message']}")
    return [json.loads(line) for line in ran.stdout.splitlines()]


def fetch(kapell, coordinator, study):
    """The study and its trials with all measurements; None where there is no such study."""
    shown = ask(kapell, coordinator, "study", "show", study)
    if not shown:
        return None
    trials = ask(kapell, coordinator, "trial", "list", study) or []
    return shown + [line for trial in trials for line in ask(kapell, coordinator, "trial", "show", trial["id"]) or []]


class OwnCoordinator:
    """A coordinator on a data folder, on a port that nobody else knows, for as long as the block takes."""

    def __init__(self, kapell, data_dir):
        self.command = [kapell, "coordinator", "--listen", "127.0.0.1:0", "--json"]
        if data_dir:
            if not (data_dir / "kapell.db").exists():
                raise ReportError(USAGE, f"{data_dir} holds no kapell.db; run the studies first, as README.md says")
            self.command += ["--data-dir", str(data_dir)]

    def __enter__(self):
        try:
            self.process = subprocess.Popen(self.command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
        except OSError as error:
            raise ReportError(USAGE, f"cannot run {self.command[0]}: {error}") from error
        for line in self.process.stderr:
            record = json.loads(line) if line.startswith("{") else {}
            if "error" in record:
                self.__exit__()
                hint = ""
                if record["error"]["code"] == "locked":
                    hint = "; ask the one that holds it: --coordinator URL, the address that `kapell run` printed"
                raise ReportError(USAGE, record["error"]["message"] + hint)
            if "addr" in record.get("fields", {}):
                # Somebody must read on, or the coordinator would wait for a full pipe.
                self.drain = threading.Thread(target=self.process.stderr.read, daemon=True)
                self.drain.start()
                return f"http://{record['fields']['addr']}"
        self.__exit__()
        raise ReportError(TEMPORARY, "the coordinator did not start")

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()


def save_studies(options, out):
    """Writes each study that is there to out/NAME.jsonl; says which are not."""
    kapell = find_kapell(options.kapell)

    def save(coordinator):
        for name in STUDIES:
            study = getattr(options, name)
            lines = fetch(kapell, coordinator, study)
            if lines is None:
                print(f"there is no study {study} there; {name} stays as it was", file=sys.stderr)
            else:
                write(out / f"{name}.jsonl", "".join(json.dumps(line) + "\n" for line in lines))

    if options.coordinator:
        save(options.coordinator)
    else:
        with OwnCoordinator(kapell, options.data_dir) as coordinator:
            save(coordinator)


# ---- Curves


class Curve:
    """What one trial measured."""

    def __init__(self, trial):
        self.trial = trial
        self.config = trial["config"]
        self.state = trial["state"]
        self.program = trial["program_version"]
        self.numerics = [attempt["numerics"] for attempt in trial["attempts_log"]]
        rows = trial["measurements"]
        self.train = {m["epoch"]: m["train_loss"] for m in rows if m["train_loss"] is not None}
        self.validation = {m["epoch"]: m["val_loss"] for m in rows if m["val_loss"] is not None}
        self.seconds = sum(m["seconds"] or 0.0 for m in rows)

    def part(self, name):
        return self.train if name == "train" else self.validation


class Study:
    """A study as it was saved, and the curves of its trials that have begun."""

    def __init__(self, path):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        self.study = lines[0]
        self.all = [Curve(trial) for trial in lines[1:]]
        self.curves = [curve for curve in self.all if curve.validation]

    def epochs(self):
        return sorted({epoch for curve in self.curves for epoch in curve.validation})


def load(path):
    if not path.exists():
        return None
    try:
        return Study(path)
    except (IndexError, KeyError, TypeError, ValueError) as error:
        raise ReportError(USAGE, f"{path} is not what this program saves: {error!r}") from error


def mean(curves, part):
    """epoch -> the mean over the curves, where all of them have got that far."""
    if not curves:
        return {}
    common = set.intersection(*(set(curve.part(part)) for curve in curves))
    return {epoch: sum(c.part(part)[epoch] for c in curves) / len(curves) for epoch in sorted(common)}


def strangers(study):
    """What makes the study another one than PyTorch trained."""
    found = []
    if study.study["corpus"] != "bachbot":
        found.append(f"corpus is {study.study['corpus']}, not bachbot")
    for key, wanted in PROTOCOL.items():
        values = {json.dumps(curve.config[key]): curve.config[key] for curve in study.all}
        found += [f"{key} is {text}, not {json.dumps(wanted)}" for text, value in values.items() if value != wanted]
    return found


def verdict(study):
    """(exit code, one sentence)"""
    if study is None:
        return NOT_READY, "the study of the seeds has not been run"
    if other := strangers(study):
        return REFUSED, f"this is not the model that PyTorch trained: {'; '.join(other)}"
    means = mean(study.curves, "validation")
    compared = [epoch for epoch in PYTORCH if epoch >= COMPARED_FROM_EPOCH]
    apart = {epoch: abs(means[epoch] - PYTORCH[epoch]) for epoch in compared if epoch in means}
    open_trials = sum(curve.state != "COMPLETE" for curve in study.all)
    if open_trials or len(apart) < len(compared):
        return NOT_READY, (
            f"not ready: {open_trials} of {len(study.all)} trials are not complete, "
            f"{len(apart)} of {len(compared)} epochs can be compared"
        )
    worst = max(apart, key=apart.get)
    found = f"{apart[worst]:.4f} nats from PyTorch at most (after {worst} epochs)"
    if apart[worst] > TOLERANCE:
        return REFUSED, f"the mean of {len(study.curves)} seeds does not match: {found}; {TOLERANCE} are let through"
    return DONE, f"the mean of {len(study.curves)} seeds matches: {found}; {TOLERANCE} are let through"


# ---- Tables


def markdown(head, rows):
    """A table; the first column is text, the others are numbers."""
    lines = ["| " + " | ".join(head) + " |", "|" + "|".join(["---"] + ["---:"] * (len(head) - 1)) + "|"]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def figure(value, digits=4):
    return "" if value is None else f"{value:.{digits}f}"


def comparison(study):
    """Validation loss beside PyTorch's, where it has been measured."""
    means = mean(study.curves, "validation")
    rows = []
    for epoch, wanted in PYTORCH.items():
        seeds = [curve.validation[epoch] for curve in study.curves if epoch in curve.validation]
        if epoch not in means:
            rows.append([str(epoch), "", "", figure(wanted, 3), "", ""])
            continue
        difference = means[epoch] - wanted
        within = "yes" if abs(difference) <= TOLERANCE else "no"
        rows.append([
            str(epoch),
            figure(means[epoch]),
            f"{min(seeds):.4f} to {max(seeds):.4f}",
            figure(wanted, 3),
            f"{round(difference, 4) + 0.0:+.4f}",
            within if epoch >= COMPARED_FROM_EPOCH else "not asked",
        ])
    head = ["after epoch", "mean of the seeds", "the seeds", "PyTorch", "difference", f"within {TOLERANCE}"]
    return markdown(head, rows)


def trials(study, label):
    """A row a trial: where it ended, its best epoch, what it cost."""
    rows = []
    for curve in study.curves:
        last, best = max(curve.validation), min(curve.validation, key=curve.validation.get)
        digest = curve.trial["measurements"][-1]["weights_digest"] or ""
        rows.append([
            f"{label} {curve.config[label]}",
            curve.state,
            str(last),
            figure(curve.train.get(last)),
            figure(curve.validation[last]),
            figure(curve.validation[best]),
            str(best),
            f"{curve.seconds / 60:.0f} min",
            f"`{digest.removeprefix('sha256:')[:12]}`",
        ])
    head = ["trial", "state", "epochs", "train", "validation", "best validation", "at", "time", "weights"]
    return markdown(head, rows)


def wide(study, label):
    """(column names, rows of numbers or None): an epoch a row; each trial's losses, then the seeds' mean and PyTorch's."""
    names, series = [], []
    for part in ("train", "validation"):
        for curve in study.curves:
            names.append(f"{part} {label} {curve.config[label]}")
            series.append(curve.part(part))
    if label == "seed":
        means = mean(study.curves, "validation")
        difference = {epoch: means[epoch] - PYTORCH[epoch] for epoch in PYTORCH if epoch in means}
        names += ["train mean", "validation mean", "validation PyTorch", "difference"]
        series += [mean(study.curves, "train"), means, PYTORCH, difference]
    return ["epoch", *names], [[epoch, *(s.get(epoch) for s in series)] for epoch in study.epochs()]


def as_csv(head, rows):
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(name.replace(" ", "_") for name in head)
    writer.writerows(["" if v is None else v if isinstance(v, int) else f"{v:.6f}" for v in row] for row in rows)
    return text.getvalue()


def folded(head, rows):
    table = markdown(head, [["" if v is None else str(v) if isinstance(v, int) else f"{v:.4f}" for v in r] for r in rows])
    return f"<details><summary>Every epoch</summary>\n\n{table}\n\n</details>"


def numerics(study):
    """The programs and the numerics that trained them: of every attempt, since a trial may have had several."""
    programs = {curve.program for curve in study.curves}
    kinds = {kind for curve in study.curves for kind in curve.numerics}
    return f"{', '.join(sorted(filter(None, programs)))} on {', '.join(sorted(filter(None, kinds)))}"


def page(seeds, dropout, sentence):
    """README.md of the results: everything but the plots, which it shows."""
    text = [
        "# Results\n\nWritten by `report.py`; what was run, and how, is told in [its README](../README.md). Losses are nats "
        "per\ntoken; the training loss is the mean over an epoch's updates, with dropout.",
    ]
    if seeds and seeds.curves:
        last = {part: mean(seeds.curves, part) for part in ("train", "validation")}
        ends = {part: next(reversed(means.values()), None) for part, means in last.items()}
        text += [
            f"## Seeds\n\n**{sentence[0].upper()}{sentence[1:]}.** {numerics(seeds)}.",
            "![Training and validation loss by epoch](seeds.svg)",
            comparison(seeds),
            markdown(
                ["", "train", "validation"],
                [
                    [f"mean of {len(seeds.curves)} seeds, epoch {max(last['validation'], default=0)}",
                     figure(ends["train"]), figure(ends["validation"])],
                    ["PyTorch, one seed, epoch 30", figure(PYTORCH_TRAIN[30], 3), figure(PYTORCH[30], 3)],
                    ["published, one seed", figure(PUBLISHED["train"], 3), figure(PUBLISHED["validation"], 3)],
                ],
            ),
            trials(seeds, "seed"),
            folded(*wide(seeds, "seed")),
        ]
    if dropout and dropout.curves:
        text += [
            f"## Dropout\n\n{numerics(dropout)}.",
            "![Training and validation loss by epoch and dropout](dropout.svg)",
            trials(dropout, "dropout"),
            folded(*wide(dropout, "dropout")),
        ]
    return "\n\n".join(text) + "\n"


# ---- The command


def write(path, text):
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".new")
    temporary.write_text(text)
    os.replace(temporary, path)


def draw(out):
    """Makes everything from the saved studies; the exit code and what to say."""
    seeds, dropout = load(out / "seeds.jsonl"), load(out / "dropout.jsonl")
    code, sentence = verdict(seeds)
    if seeds and seeds.curves:
        write(out / "seeds.csv", as_csv(*wide(seeds, "seed")))
        means = {part: mean(seeds.curves, part) for part in ("train", "validation")}
        within = {epoch: TOLERANCE for epoch in PYTORCH if epoch >= COMPARED_FROM_EPOCH}
        write(out / "seeds.svg", plots.seeds(seeds.curves, means, PYTORCH, PUBLISHED, within))
    if dropout and dropout.curves:
        dropout.curves.sort(key=lambda curve: curve.config["dropout"])
        write(out / "dropout.csv", as_csv(*wide(dropout, "dropout")))
        write(out / "dropout.svg", plots.dropout(dropout.curves))
    write(out / "README.md", page(seeds, dropout, sentence))
    return code, sentence


def arguments():
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n", maxsplit=1)[0],
        epilog="Exit codes: 0 matches PyTorch; 2 usage; 3 does not match; 6 not ready; 75 temporary.",
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--data-dir", type=pathlib.Path, metavar="DIR", help="where `kapell run` kept the studies")
    source.add_argument("--coordinator", metavar="URL", help="ask this one instead of starting one")
    source.add_argument("--redraw", action="store_true", help="use what is saved in --out")
    parser.add_argument("--out", type=pathlib.Path, metavar="DIR", default=HERE / "results", help="where everything goes")
    parser.add_argument("--kapell", metavar="PATH", help="by default the one that cargo built here, then PATH's")
    for name, study in STUDIES.items():
        parser.add_argument(f"--{name}", metavar="STUDY", default=study, help=f"by default {study}")
    return parser.parse_args()


def main():
    options = arguments()
    try:
        if not options.redraw:
            save_studies(options, options.out)
        code, sentence = draw(options.out)
    except ReportError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.code)
    print(f"{sentence}\n{options.out / 'README.md'}")
    sys.exit(code)


if __name__ == "__main__":
    main()

"""One of two Optuna workers: trials that do nothing but report, on a journal file. Prints when it began and ended."""

import sys
import time

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

path, trials, reports = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
optuna.logging.disable_default_handler()


def objective(trial):
    trial.suggest_int("seed", 1, 1_000_000)
    for step in range(reports):
        trial.report(1.0 / (step + 1), step)
    return 1.0 / reports


study = optuna.create_study(
    storage=JournalStorage(JournalFileBackend(path)),
    study_name="bench",
    sampler=optuna.samplers.RandomSampler(),
    load_if_exists=True,
)
begun = time.monotonic()
study.optimize(objective, n_trials=trials)
print(begun, time.monotonic())

#!/usr/bin/env python3
"""Puts bugs into the sources, one at a time, and sees each of them turn a test red.

    python3 tests/promises/teeth.py [NAME]...       all of them, or these; --list names them

Works on a clean checkout, edits one file at a time, and puts it back, whatever happens. A bug that does not compile
counts as a mistake in this file, not as caught. Exit codes: 0 all caught; 1 some were not; 2 usage.
"""

import os
import pathlib
import signal
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
# Far longer than any of these tests takes on a slow machine.
HANGS_AFTER_S = 900
STORE = "crates/coordinator/src/store/"
COORDINATOR = ["cargo", "test", "--release", "-p", "kapell-coordinator"]


def row(name, *flags):
    return ["cargo", "test", "--release", "--test", "promises", "--", name, *flags]


# name, file, what is there, what is put in its place, the tests that must notice
BUGS = [
    ("no-fence-in-statements", STORE + "trials.rs", "WHERE id = ?1 AND running_attempt IS ?2 AND +state = ?3",
     "WHERE id = ?1 AND (1 OR running_attempt IS ?2 OR +state = ?3)", COORDINATOR),
    ("no-fence-in-inserts", STORE + "trials.rs", "WHERE id = ? AND running_attempt IS ? AND +state = ?",
     "WHERE id = ? AND (1 OR running_attempt IS ? OR +state = ?)", COORDINATOR),
    ("no-fence-in-groups", STORE + "trials.rs",
     "t.id = m.column1 AND t.running_attempt IS m.column2 \\\n             AND +t.state = 'RUNNING' \"",
     "t.id = m.column1 AND (1 OR t.running_attempt IS m.column2 \\\n             OR +t.state = 'RUNNING') \"", COORDINATOR),
    ("group-not-counted", STORE + "many.rs", "if usize::try_from(met) != Ok(wanted) {", "if wanted > 9_999_999 && met == 0 {", COORDINATOR),
    ("fence-not-counted", STORE + "trials.rs", "if usize::try_from(met) == Ok(wanted) {", "if met > 0 || wanted > 0 {",
     COORDINATOR),
    ("acknowledge-before-commit", STORE + "writer.rs", '        events::flush_and(tx, "COMMIT").await',
     '        self.settles.drain(..).for_each(|settle| settle(Ok(())));\n        events::flush_and(tx, "COMMIT").await', row("power")),
    ("no-savepoint", STORE + "writer.rs", 'execute(tx, "ROLLBACK TO request").await?', "()", COORDINATOR),
    ("synchronous-normal", STORE + "open.rs", "SqliteSynchronous::Full", "SqliteSynchronous::Normal", row("power")),
    ("no-folder-fsync", "crates/coordinator/src/disk.rs", "File::open(dir)?.sync_all()", "File::open(dir).map(drop)",
     COORDINATOR),
    ("no-file-fsync", "crates/coordinator/src/disk.rs", "        file.sync_all()\n", "        file.metadata().map(drop)\n", COORDINATOR),
    ("no-fsync-of-blobs-folder", "crates/coordinator/src/blobs.rs", "synced(disk.sync_dir(place.parent().unwrap_or(place)))",
     "Ok(())", row("syncs")),
    ("no-fsync-of-checkpoints", "crates/model/src/checkpoint.rs", "    sync_dir(parent).map_err(at(parent))\n",
     "    sync_dir(parent.parent().unwrap_or(parent)).map_err(at(parent))\n", row("syncs")),
    ("no-blob-fsync", "crates/coordinator/src/blobs.rs", "synced(disk.sync(&upload.file))", "Ok(())", row("power")),
    ("full-disk-is-success", STORE + "writer.rs", "batch.settles.into_iter().for_each(|settle| settle(Err(error.share())));",
     "batch.settles.into_iter().for_each(|settle| settle(Ok(())));", row("faults")),
    ("events-outlive-refusals", STORE + "writer.rs", "            tx.events.truncate(self.events);\n", "", COORDINATOR),
    ("events-forgotten", STORE + "writer.rs", '        events::flush_and(tx, "COMMIT").await', '        execute(tx, "COMMIT").await',
     COORDINATOR),
    ("group-not-taken-back", STORE + "writer.rs", "mark.end(tx, stands(&done)?).await?;", "mark.end(tx, stands(&done)? || true).await?;",
     COORDINATOR),
    ("lease-not-remembered", STORE + "lease.rs", "    remember(tx, ask, &works).await?;\n    Ok(Some(works))",
     "    if works.is_empty() { remember(tx, ask, &works).await?; }\n    Ok(Some(works))", COORDINATOR),
    ("to-come-not-canceled", STORE + "studies.rs", "    expand::cancel(tx, study, why).await?;\n", "", COORDINATOR),
    ("to-come-forgotten", STORE + "studies.rs", "open = open.saturating_add(n);", "open = open.saturating_add(n - n);", COORDINATOR),
    ("piece-not-counted", STORE + "expand.rs", ".bind(i64::try_from(trials.len()).unwrap_or(i64::MAX))", ".bind(0)",
     COORDINATOR),
    ("queued-again-and-canceled", STORE + "expand.rs", "TrialState::Queued, from, &why", "TrialState::Queued, 1, &why",
     COORDINATOR),
    ("piece-twice", STORE + "expand.rs", ".filter(|(left, ends)| left.0 == ends.0)", ".filter(|(left, ends)| left.0 <= ends.0 + 9)",
     COORDINATOR),
    ("rows-dropped-with-their-table", STORE + "open.rs", "PRAGMA foreign_keys = OFF", "PRAGMA foreign_keys = ON", COORDINATOR),
    ("stores-alike", "migrations/0006_numbers_of_its_own.sql", "SELECT abs(random() % 2147483648) AS number", "SELECT 0 AS number",
     COORDINATOR),
    ("nothing-superseded", STORE + "lease.rs", "    if attempt > 1 {\n        supersede(", "    if attempt > 9 {\n        supersede(",
     COORDINATOR),
]


def put_in(path, old, new):
    text = path.read_text()
    if text.count(old) != 1:
        sys.exit(f"{path}: {old!r} is there {text.count(old)} times: mend the table in teeth.py")
    path.write_text(text.replace(old, new))
    return text


def fails(command):
    """A test that waits for what never comes fails as well."""
    tests = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        return tests.wait(timeout=HANGS_AFTER_S) != 0
    except subprocess.TimeoutExpired:
        os.killpg(tests.pid, signal.SIGKILL)
        tests.wait()
        return True


def is_caught(name, file, old, new, command):
    path = ROOT / file
    before = put_in(path, old, new)
    try:
        build = [*(command[: command.index("--")] if "--" in command else command), "--no-run"]
        built = subprocess.run(build, cwd=ROOT, capture_output=True, text=True)
        if built.returncode != 0:
            sys.exit(f"{name} does not compile:\n{built.stderr[-3000:]}")
        return fails(command)
    finally:
        path.write_text(before)


def main():
    names = sys.argv[1:]
    if names == ["--list"]:
        print("\n".join(bug[0] for bug in BUGS))
        return 0
    unknown = set(names) - {bug[0] for bug in BUGS}
    if unknown:
        print(f"there is no bug {', '.join(sorted(unknown))}; --list names them", file=sys.stderr)
        return 2
    if subprocess.run(["git", "status", "--porcelain", "crates"], cwd=ROOT, capture_output=True, text=True).stdout:
        print("the checkout has changes under crates: commit them first", file=sys.stderr)
        return 2
    missed = []
    for bug in [bug for bug in BUGS if not names or bug[0] in names]:
        caught = is_caught(*bug)
        print(f"{bug[0]:28} {'caught' if caught else 'NOT CAUGHT'} by {' '.join(bug[4])}", flush=True)
        missed += [] if caught else [bug[0]]
    print(f"{len(missed)} not caught" if missed else "all caught")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())

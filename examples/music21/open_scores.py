#!/usr/bin/env python3
"""Harmonises awkward melodies and opens each output with MuseScore 3 and LilyPond's musicxml2ly: who complains?

    apt-get install musescore3 lilypond; pip install music21==10.5.1
    python3 open_scores.py --kapell target/release/kapell --model FOLDER [--keep DIR] [--only NAME] [MELODY...]

Of `awkward.py`'s melodies, or of the files that are named. Every output is also compared with its melody by
`compare_melody.py`, note for note. A line for each complaint, and for each the same program's about the melody alone;
the last line has the counts. Exit code 0: no complaint and no difference; 1: some; 2: a program is missing.
"""

import argparse
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

import awkward

HERE = pathlib.Path(__file__).resolve().parent
# What both say of every score that they open.
PROGRESS = ("QStandardPaths:", "convert <", "to <", "... success!", "musicxml2ly: Reading", "musicxml2ly: Converting",
            "musicxml2ly: Output to",
            # MuseScore's own account of grace notes behind a note.
            "addGraceChordsAfter chord")
# What the programs cannot read, however it is written: each was tried with other spellings, as `README.md` here says.
LIMITS = [
    (r"Unsupported mode '(dorian|phrygian|lydian|mixolydian|aeolian|ionian|locrian)'", "MuseScore 3 knows no church modes"),
    (r"time symbol .?cut.? not recognized", "MuseScore 3 knows cut time as 2/2 only"),
    (r"unsupported bar type <heavy>", "MuseScore 3 knows no single heavy bar line"),
    (r"tuplet already started|determineTupletBaseLen", "MuseScore 3 knows no tuplets inside tuplets"),
    (r"Senza-misura time signatures are not yet supported", "musicxml2ly knows no music without a metre"),
]
READERS = {
    "musescore": lambda score, out: ["mscore3", "-o", f"{out}.mscx", score],
    "musicxml2ly": lambda score, out: ["musicxml2ly", "-o", f"{out}.ly", score],
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kapell", default="kapell")
    parser.add_argument("--model", required=True)
    parser.add_argument("--keep", help="a folder for melodies and outputs")
    parser.add_argument("--only", help="melodies whose name has this in it")
    parser.add_argument("melodies", nargs="*")
    args = parser.parse_args()
    missing = [program for program in ("mscore3", "musicxml2ly") if shutil.which(program) is None]
    if missing:
        print(f"not installed: {', '.join(missing)}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(args.keep or scratch)
        folder.mkdir(parents=True, exist_ok=True)
        return check_all(args, folder)


def check_all(args, folder):
    counts = {"melodies": 0, "harmonized": 0, "kept": 0, "musescore": 0, "musicxml2ly": 0, "limits": 0}
    for name, melody, more in melodies(args, folder):
        counts["melodies"] += 1
        output = folder / f"{name}.satb.musicxml"
        command = [args.kapell, "harmonize", melody, "--model", args.model, "-o", output, *more]
        made = subprocess.run(command, capture_output=True, text=True)
        if made.returncode != 0:
            print(f"{name}: exit code {made.returncode}: {made.stderr.strip()}")
            continue
        counts["harmonized"] += 1
        counts["kept"] += is_kept(name, melody, output, more)
        for reader, command in READERS.items():
            said = complaints(command(output, folder / f"{name}.satb.{reader}"))
            alone = complaints(command(melody, folder / f"{name}.{reader}")) if said else []
            limits = sorted({why for pattern, why in LIMITS for text in said if re.search(pattern, text)})
            said = [text for text in said if not any(re.search(pattern, text) for pattern, _ in LIMITS)]
            counts["limits"] += bool(limits)
            counts[reader] += bool(said)
            for why in limits:
                print(f"{name}: {why}")
            for text in said:
                print(f"{name}: {reader}: {text}" + ("  (of the melody alone, too)" if text in alone else ""))
    print(f"{counts['melodies']} melodies, {counts['harmonized']} harmonised, {counts['kept']} kept note for note; "
          f"MuseScore 3 complains of {counts['musescore']}, musicxml2ly of {counts['musicxml2ly']}; "
          f"{counts['limits']} outputs have what one of them cannot read")
    wanted = counts["melodies"]
    clean = counts["kept"] == wanted and not counts["musescore"] and not counts["musicxml2ly"]
    return 0 if clean else 1


def melodies(args, folder):
    """(name, file, further arguments)"""
    for path in map(pathlib.Path, args.melodies):
        yield path.stem, path, []
    for name, document, more in [] if args.melodies else awkward.MELODIES:
        if args.only is None or args.only in name:
            path = folder / f"{name}.musicxml"
            path.write_text(document, encoding="utf-8")
            yield name, path, more


def is_kept(name, melody, output, more):
    part = more[more.index("--part"):][:2] if "--part" in more else []
    command = [sys.executable, HERE / "compare_melody.py", melody, output, "--quiet", *part]
    compared = subprocess.run(command, capture_output=True, text=True)
    if compared.returncode != 0:
        print(f"{name}: not kept:\n{compared.stdout}{compared.stderr}".rstrip())
    return compared.returncode == 0


def complaints(command):
    """What a program says beyond its progress, each once."""
    env = {**os.environ, "QT_QPA_PLATFORM": "offscreen"}
    run = subprocess.run(command, capture_output=True, text=True, env=env)
    lines = (run.stdout + run.stderr).splitlines()
    said = [re.sub("0x[0-9a-f]+", "...", line.strip()) for line in lines if line.strip()]
    said = [line for line in said if not line.startswith(PROGRESS)]
    if run.returncode != 0:
        said.append(f"exit code {run.returncode}")
    return list(dict.fromkeys(said))


if __name__ == "__main__":
    sys.exit(main())

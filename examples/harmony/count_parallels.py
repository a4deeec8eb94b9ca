#!/usr/bin/env python3
"""Counts parallel fifths, octaves and unisons, and voice crossings, in four-part MusicXML with music21, beside our own.

    python3 -m venv venv && venv/bin/pip install music21
    cargo run --release -p kapell-music --example count_faults -- *.musicxml > counts.jsonl
    venv/bin/python count_parallels.py counts.jsonl

Every line of counts.jsonl names a score and has our counts. music21 reads the score, and its VoiceLeadingQuartet judges
each pair of voices from each chord to the next within a phrase (a chord: some voice strikes; a phrase ends with a
fermata). Fifths and octaves by contrary motion, which music21 counts, and pairs that change places are left out, as ours
leaves them out. Exit code 1 where any count differs.
"""

import itertools
import json
import sys

from music21 import chord, converter, expressions, interval, note, voiceLeading

NAMES = ["parallel_fifths", "parallel_octaves", "parallel_unisons", "crossings"]
VOICES = ["soprano", "alto", "tenor", "bass"]
INTERVALS = {"parallel_fifths": "P5", "parallel_octaves": "P8", "parallel_unisons": "P1"}


def sounding(part):
    """[(start, end, pitch, fermata)] with ties joined."""
    notes = []
    for n in part.stripTies().flatten().notes:
        top = n.notes[-1] if isinstance(n, chord.Chord) else n
        fermata = any(isinstance(e, expressions.Fermata) for e in n.expressions)
        notes.append((float(n.offset), float(n.offset + n.duration.quarterLength), top.pitch, fermata))
    return notes


def held(notes, at):
    return next((n for n in notes if n[0] <= at < n[1]), None)


def phrases(voices):
    """Chords (which voices strike, pitches) between one fermata's end and the next."""
    onsets = sorted({start for notes in voices for start, *_ in notes})
    ends = sorted({end for notes in voices for _, end, _, fermata in notes if fermata})
    for _, group in itertools.groupby(onsets, key=lambda at: sum(end <= at for end in ends)):
        frames = []
        for at in group:
            now = [held(notes, at) for notes in voices]
            frames.append(([n is not None and n[0] == at for n in now], [n and n[2] for n in now]))
        yield frames


def parallels(before, after):
    """The names of the parallels of all pairs of voices from one chord to the next."""
    for upper, lower in itertools.combinations(range(4), 2):
        four = before[upper], after[upper], before[lower], after[lower]
        if None in four:
            continue
        # By sounding pitch alone: how a model's notes are spelled is not the question here.
        quartet = voiceLeading.VoiceLeadingQuartet(*(note.Note(p.midi) for p in four))
        first, second = four[0].midi - four[2].midi, four[1].midi - four[3].midi
        if (first > 0) != (second > 0) or (first < 0) != (second < 0) or quartet.contraryMotion():
            continue
        for name, size in INTERVALS.items():
            if quartet.parallelInterval(interval.Interval(size)):
                yield name


def choir(score):
    """The parts called soprano, alto, tenor and bass, or else the first four."""
    named = [[p for p in score.parts if (p.partName or "").lower().startswith(voice)] for voice in VOICES]
    return [parts[0] for parts in named] if all(named) else score.parts[:4]


def count(path):
    voices = [sounding(part) for part in choir(converter.parse(path))]
    counts = dict.fromkeys(NAMES, 0)
    for frames in phrases(voices):
        for struck, pitches in frames:
            for upper in range(3):
                above, below = pitches[upper], pitches[upper + 1]
                if above and below and (struck[upper] or struck[upper + 1]):
                    counts["crossings"] += below.midi > above.midi
        for (_, before), (_, after) in itertools.pairwise(frames):
            for name in parallels(before, after):
                counts[name] += 1
    return counts


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    different = 0
    for line in open(sys.argv[1], encoding="utf-8"):
        ours = json.loads(line)
        theirs = count(ours["score"])
        same = all(ours["counts"][name] == theirs[name] for name in NAMES)
        different += not same
        told = ", ".join(f"{name.replace('_', ' ')} {ours['counts'][name]}/{theirs[name]}" for name in NAMES)
        print(f"{'same' if same else 'DIFFERENT'}  {ours['score']} (ours/music21): {told}")
    sys.exit(1 if different else 0)


if __name__ == "__main__":
    main()

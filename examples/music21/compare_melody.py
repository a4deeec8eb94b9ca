#!/usr/bin/env python3
"""Compares a melody with the soprano of its harmonisation, note for note, as music21 reads both.

    pip install music21==10.5.1
    python3 compare_melody.py MELODY OUTPUT.musicxml [--part N|NAME] [--quiet]

Exit code 0: the same; 1: different, with a line for each difference; 2: a file could not be read. Compared are pitch
names, offsets, quarter lengths, ties, chords, lyrics of every verse, fermatas, grace notes, articulations, slurs,
repeats, endings, jumps, signatures, tempo marks, and the measures' numbers and lengths. Of a MIDI melody, which has no
notation, only what sounds: pitches, onsets and (to an eighth) lengths, ties joined.
"""

import argparse
import sys
from fractions import Fraction

from music21 import (articulations, bar, chord, converter, expressions, key, meter, note, repeat, spanner, stream, tempo)

OUR_PARTS = ["Soprano", "Alto", "Tenor", "Bass"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("melody")
    parser.add_argument("output")
    parser.add_argument("--part", help="the melody's part, by number from 1 or by name")
    parser.add_argument("--quiet", action="store_true", help="only the verdict")
    args = parser.parse_args()
    try:
        # As it is played: music21 would round triplets and short notes its own way.
        melody, output = converter.parse(args.melody, quantizePost=False), converter.parse(args.output)
        source = choose(melody, args.part)
    except Exception as error:  # music21 raises whatever its readers raise
        print(f"{args.melody}, {args.output}: {error}", file=sys.stderr)
        return 2
    found = differences(melody, source, output, args.melody.lower().endswith((".mid", ".midi")))
    for line in found[: 3 if args.quiet else None]:
        print(f"  {line}")
    print(f"{args.melody}: " + (f"{len(found)} differences" if found else "the same"))
    return 1 if found else 0


def choose(score, wanted):
    """The part that `kapell harmonize` takes: the one asked for, else a soprano, else the first with notes."""
    parts = [part for part in score.parts if part.recurse().getElementsByClass(note.GeneralNote)]
    if wanted is not None:
        return parts[int(wanted) - 1] if wanted.isdigit() else next(p for p in parts if p.partName == wanted)
    named = [part for part in parts if (part.partName or "").lower().startswith(("soprano", "canto", "melody"))]
    sounding = [part for part in parts if any(n.pitches for n in part.recurse().notes)]
    return (named or sounding)[0]


def differences(melody, source, output, is_midi):
    names = [part.partName for part in output.parts]
    found = [] if names == OUR_PARTS else [f"parts: {names}"]
    soprano = output.parts[0]
    if is_midi:
        return found + compare_sounding(sounding(source), sounding(soprano))
    transposed = source.toSoundingPitch() if source.atSoundingPitch is not True else source
    for what in (measures, notes, lyrics, marks, slurs, words):
        found += compare(what.__name__, what(transposed), what(soprano))
    # What concerns the whole score may stand in another part of it.
    for what in (barlines, jumps, tempi):
        everywhere = sorted({sign for part in melody.parts for sign in what(part)}, key=str)
        found += compare(what.__name__, everywhere, sorted(set(what(soprano)), key=str))
    return found


def compare(what, expected, got):
    """A line for each place where two lists differ."""
    lines = [f"{what} {at}: {a} became {b}" for at, (a, b) in enumerate(zip(expected, got)) if a != b]
    if len(expected) != len(got):
        lines.append(f"{what}: {len(expected)} became {len(got)}")
        longer = expected if len(expected) > len(got) else got
        lines.append(f"{what}: the first without a partner is {longer[min(len(expected), len(got))]}")
    return lines


def compare_sounding(expected, got):
    """Pitches; onsets to within half a 32nd, lengths to within an eighth: what is played is never even."""
    lines = [f"notes: {len(expected)} became {len(got)}"] if len(expected) != len(got) else []
    for pitch in sorted({midi for _, midi, _ in expected + got}):
        both = [[(at, lasts) for at, midi, lasts in line if midi == pitch] for line in (expected, got)]
        for (at, lasts), (new_at, new_lasts) in zip(*both):
            if abs(at - new_at) > Fraction(1, 16) or abs(lasts - new_lasts) > Fraction(1, 2):
                lines.append(f"pitch {pitch} at {at}, {lasts} long, became one at {new_at}, {new_lasts} long")
    return lines


def exact(quarters):
    """Thirds are thirds, though a file's divisions round them."""
    return Fraction(quarters).limit_denominator(64)


def place(part, element):
    return exact(element.getOffsetInHierarchy(part))


def length(element):
    return exact(element.duration.quarterLength)


def written(part):
    """Notes and chords, without chord symbols, in order of time and pitch."""
    found = [n for n in part.recurse().getElementsByClass(note.NotRest) if not hasattr(n, "chordKind")]
    found = [n for n in found if isinstance(n, (note.Note, chord.Chord))]
    return sorted(found, key=lambda n: (place(part, n), not n.duration.isGrace, [p.ps for p in n.pitches]))


def pitches(element):
    return sorted(p.nameWithOctave for p in element.pitches)


def ties(element):
    members = element.notes if isinstance(element, chord.Chord) else [element]
    return sorted((m.pitch.nameWithOctave, m.tie.type) for m in members if m.tie is not None)


def notes(part):
    return [
        (str(place(part, n)), str(length(n)), n.duration.isGrace, pitches(n), ties(n), n.duration.type,
         n.duration.dots, [(t.numberNotesActual, t.numberNotesNormal) for t in n.duration.tuplets])
        for n in written(part)
    ]


def lyrics(part):
    """(place, verse, syllabic, text), melismas of several syllables under one note taken apart."""
    return [
        (str(place(part, n)), lyric.identifier, lyric.syllabic, lyric.text)
        for n in written(part) for lyric in sorted(n.lyrics, key=lambda lyric: lyric.number)
    ]


def marks(part):
    """Fermatas with shape, ornaments and articulations, on notes and rests."""
    found = []
    for n in part.recurse().notesAndRests:
        if hasattr(n, "chordKind"):
            continue
        here = [f"{e.shape} {e.type} fermata" if isinstance(e, expressions.Fermata) else e.name
                for e in n.expressions]
        here += [a.name for a in n.articulations if not isinstance(a, articulations.TechnicalIndication)]
        if here:
            found.append((str(place(part, n)), n.isRest, sorted(here)))
    return sorted(found)


def slurs(part):
    # One that begins or ends in another staff is in no part's own hands.
    here = {id(n) for n in part.recurse().notes}
    ends = lambda s: (str(place(part, s.getFirst())), str(place(part, s.getLast())))
    found = part.recurse().getElementsByClass(spanner.Slur)
    return sorted(ends(s) for s in found if id(s.getFirst()) in here and id(s.getLast()) in here)


def barlines(part):
    """Repeats and their counts, double bars, endings."""
    found = []
    for measure in part.getElementsByClass(stream.Measure):
        for side, line in (("left", measure.leftBarline), ("right", measure.rightBarline)):
            # Notation programs leave the last bar line to the reader; ours says it.
            is_last = measure is part.getElementsByClass(stream.Measure)[-1]
            if line is None or (is_last and not isinstance(line, bar.Repeat)):
                continue
            times = (line.direction, line.times) if isinstance(line, bar.Repeat) else None
            found.append((measure.number, side, line.type, times))
    for ending in part.recurse().getElementsByClass(spanner.RepeatBracket):
        found.append((ending.getFirst().number, "ending", ending.number, ending.getLast().number))
    return sorted(found, key=str)


def jumps(part):
    signs = part.recurse().getElementsByClass(repeat.RepeatMark)
    return sorted((str(place(part, s)), type(s).__name__) for s in signs if not isinstance(s, bar.Repeat))


def words(part):
    found = part.recurse().getElementsByClass(expressions.TextExpression)
    return sorted((str(place(part, w)), w.content) for w in found)


def tempi(part):
    marks = part.recurse().getElementsByClass(tempo.MetronomeMark)
    return sorted((str(place(part, m)), m.getQuarterBPM()) for m in marks if m.getQuarterBPM())


def measures(part):
    """Number, place and the signatures in force: before any, those that every reader assumes."""
    found = []
    sharps, mode, time, symbol = 0, None, "4/4", ""
    for measure in part.getElementsByClass(stream.Measure):
        for signature in measure.getElementsByClass(key.KeySignature):
            sharps, mode = signature.sharps, getattr(signature, "mode", None)
        for signature in measure.getElementsByClass(meter.TimeSignature):
            time, symbol = signature.ratioString, signature.symbol
        number = f"{measure.number}{measure.numberSuffix or ''}"
        found.append((number, str(place(part, measure)), sharps, mode, time, symbol))
    return found


def sounding(part):
    """Pitches, onsets and lengths of a part with its ties joined."""
    joined = part.stripTies()
    found = [(place(joined, n), length(n), p.midi) for n in joined.recurse().notes for p in n.pitches]
    return sorted((at, midi, lasts) for at, lasts, midi in found if lasts)


if __name__ == "__main__":
    sys.exit(main())

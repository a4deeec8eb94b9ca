"""Melodies that are awkward to read and to write, as MusicXML: what notation programs export and people sing.

Each of `MELODIES` is (name, document, arguments for `kapell harmonize`).
"""

DIVISIONS = 60
TYPES = {16: "whole", 8: "half", 4: "quarter", 2: "eighth", 1: "16th"}
FOUR_FOUR = "<time><beats>4</beats><beat-type>4</beat-type></time>"
TREBLE = "<clef><sign>G</sign><line>2</line></clef>"


def note(pitch, sixteenths, more="", notations="", ratio=None, dots=0, ties="", before="", lyrics="", kind=None):
    """A note of so many sixteenths as it is written, such as `note("F#5", 4)`; `ratio` (3, 2) makes it a triplet's."""
    length = DIVISIONS * sixteenths * (2 * 2**dots - 1) // (4 * 2**dots)
    tuplet = ""
    if ratio:
        length = length * ratio[1] // ratio[0]
        tuplet = (f"<time-modification><actual-notes>{ratio[0]}</actual-notes>"
                  f"<normal-notes>{ratio[1]}</normal-notes></time-modification>")
    if pitch == "rest":
        head = "<rest/>"
    else:
        alter = {"#": 1, "b": -1}.get(pitch[1])
        sounds = f"<alter>{alter}</alter>" if alter else ""
        head = f"<pitch><step>{pitch[0]}</step>{sounds}<octave>{pitch[-1]}</octave></pitch>"
    tied = "".join(f'<tied type="{tie}"/>' for tie in ties.split())
    sounding = "".join(f'<tie type="{tie}"/>' for tie in ties.split())
    notations = f"<notations>{tied}{notations}</notations>" if tied or notations else ""
    return (f"<note>{before}{head}<duration>{length}</duration>{sounding}<voice>1</voice>"
            f"<type>{kind or TYPES[sixteenths]}</type>{'<dot/>' * dots}{more}{tuplet}{notations}{lyrics}</note>")


def grace(pitch, slash=False, kind="16th", notations=""):
    stroke = ' slash="yes"' if slash else ""
    notations = f"<notations>{notations}</notations>" if notations else ""
    return (f"<note><grace{stroke}/><pitch><step>{pitch[0]}</step><octave>{pitch[1]}</octave></pitch><voice>1</voice>"
            f"<type>{kind}</type>{notations}</note>")


def line(pitches, sixteenths=4):
    return "".join(note(pitch, sixteenths) for pitch in pitches.split())


def key(fifths, mode=""):
    return f"<key><fifths>{fifths}</fifths>{f'<mode>{mode}</mode>' if mode else ''}</key>"


def time(beats, kind, symbol=""):
    symbol = f' symbol="{symbol}"' if symbol else ""
    return f"<time{symbol}><beats>{beats}</beats><beat-type>{kind}</beat-type></time>"


def attributes(*inside):
    return f"<attributes>{''.join(inside)}</attributes>"


def bar(location, style="", ending="", repeat=""):
    """A bar line; `ending` such as "1 start", `repeat` such as "backward"."""
    style = f"<bar-style>{style}</bar-style>" if style else ""
    if ending:
        number, kind = ending.split()
        ending = f'<ending number="{number}" type="{kind}"/>'
    if repeat:
        repeat = f'<repeat direction="{repeat}"/>'
    return f'<barline location="{location}">{style}{ending}{repeat}</barline>'


def lyric(text, syllabic="single", verse=1, more=""):
    return (f'<lyric number="{verse}"><syllabic>{syllabic}</syllabic><text>{text}</text>{more}</lyric>')


def part(measures, signatures=key(0) + FOUR_FOUR, clef=TREBLE, number=1, pickup=False):
    """A part of measures; the first has the signatures."""
    head = attributes(f"<divisions>{DIVISIONS}</divisions>", signatures, clef)
    first = 0 if pickup else 1
    written = []
    for at, measure in enumerate(measures):
        implicit = ' implicit="yes"' if pickup and at == 0 else ""
        # A bar line on the left stands before everything, so before the signatures too.
        left, rest = "", measure
        if measure.startswith('<barline location="left"'):
            left, rest = measure.split("</barline>", 1)
            left += "</barline>"
        written.append(f'<measure number="{first + at}"{implicit}>{left}{head if at == 0 else ""}{rest}</measure>')
    return f'<part id="P{number}">{"".join(written)}</part>'


def score(*parts, names=("Melody",)):
    listed = "".join(f'<score-part id="P{at}"><part-name>{name}</part-name></score-part>'
                     for at, name in enumerate(names, 1))
    return ('<?xml version="1.0" encoding="UTF-8"?><!DOCTYPE score-partwise PUBLIC '
            '"-//Recordare//DTD MusicXML 4.0 Partwise//EN" "http://www.musicxml.org/dtds/partwise.dtd">'
            f'<score-partwise version="4.0"><part-list>{listed}</part-list>{"".join(parts)}</score-partwise>')


def tune(*measures, **how):
    return score(part(measures, **how))


SCALE = "C5 D5 E5 F5", "G5 E5 D5 C5"
PLAIN = [line(SCALE[0]), line(SCALE[1]), note("C5", 16)]
BRACKET = '<tuplet type="{}" number="1" bracket="yes"/>'


def mode(name, fifths, pitches):
    measures = [line(pitches[at:at + 4 * 3].strip()) for at in range(0, len(pitches), 12)]
    return f"mode_{name}", tune(*measures, signatures=key(fifths, name) + FOUR_FOUR), []


def modes():
    return [
        mode("dorian", 0, "D5 E5 F5 A5 A5 G5 F5 E5 D5 C5 E5 D5"),
        mode("phrygian", 0, "E5 F5 G5 A5 A5 G5 F5 E5 F5 D5 F5 E5"),
        mode("lydian", 1, "C5 D5 E5 G5 A5 G5 E5 D5 C5 D5 B4 C5"),
        mode("mixolydian", 0, "G4 A4 B4 C5 D5 E5 D5 C5 B4 C5 A4 G4"),
        mode("aeolian", 0, "A4 B4 C5 D5 E5 D5 C5 B4 A4 G4 B4 A4"),
        mode("ionian", 1, "G4 A4 B4 C5 D5 E5 D5 C5 B4 C5 A4 G4"),
        mode("locrian", 0, "B4 C5 D5 E5 F5 E5 D5 C5 B4 C5 A4 B4"),
        mode("none", 0, "C5 D5 E5 F5 G5 F5 E5 D5 C5 D5 B4 C5"),
    ]


def bars():
    cut = time(4, 2, "cut")
    doubled = [note("C5", 16, kind="breve").replace(f"<duration>{DIVISIONS * 4}", f"<duration>{DIVISIONS * 8}"),
               line("E5 F5 G5 E5", 8), line("D5 D5 C5 C5", 8)]
    first = bar("left", ending="1 start")
    return [
        ("cut_4_2", tune(*doubled, signatures=key(-1) + cut), []),
        ("cut_2_2", tune(*PLAIN, signatures=key(0) + time(2, 2, "cut")), []),
        ("common", tune(*PLAIN, signatures=key(0) + time(4, 4, "common")), []),
        ("additive", tune(line("C5 D5 E5 F5 G5"), line("G5 F5 E5 D5 C5"), signatures=key(0) + time("3+2", 4)), []),
        ("senza_misura", tune(line("C5 D5 E5 F5 G5 F5 E5 D5 C5"), signatures=key(0) + "<time><senza-misura/></time>"),
         []),
        ("pickup", tune(note("G4", 4), line("C5 C5 D5 D5"), line("E5 D5 C5 C5") , note("C5", 8, dots=1), pickup=True), []),
        ("voltas", tune(bar("left", "heavy-light", repeat="forward") + PLAIN[0],
                        bar("left", ending="1 start") + PLAIN[1] + bar("right", "light-heavy", "1 stop", "backward"),
                        bar("left", ending="2 start") + PLAIN[2] + bar("right", ending="2 discontinue"), PLAIN[2]), []),
        ("voltas_of_two_bars", tune(PLAIN[0], first + PLAIN[1], PLAIN[1] + bar("right", "light-heavy", "1 stop", "backward"),
                                    bar("left", ending="2 start") + PLAIN[0],
                                    PLAIN[2] + bar("right", "light-heavy", "2 stop")), []),
        ("voltas_without_styles", tune(bar("left", repeat="forward") + PLAIN[0],
                                       first + PLAIN[1] + bar("right", ending="1 stop", repeat="backward"),
                                       bar("left", ending="2 start") + PLAIN[2] + bar("right", ending="2 stop")), []),
        ("three_voltas", tune(PLAIN[0], bar("left", ending="1,2 start") + PLAIN[1]
                              + bar("right", "light-heavy", "1,2 stop", "backward"),
                              bar("left", ending="3 start") + PLAIN[2] + bar("right", "light-heavy", "3 stop")), []),
        ("repeats_back_to_back", tune(PLAIN[0] + bar("right", "light-heavy", repeat="backward"),
                                      bar("left", "heavy-light", repeat="forward") + PLAIN[1],
                                      PLAIN[2] + bar("right", "light-heavy", repeat="backward")), []),
        ("double_bars", tune(PLAIN[0] + bar("right", "light-light"), PLAIN[1] + bar("right", "dashed"),
                             PLAIN[0] + bar("right", "heavy"), PLAIN[2] + bar("right", "light-heavy")), []),
        ("no_styles", tune(PLAIN[0] + bar("right"), PLAIN[1] + bar("right", "regular"),
                           PLAIN[2] + bar("right", "none")), []),
        ("fermata_on_a_bar_line", tune(PLAIN[0] + '<barline location="right"><bar-style>light-light</bar-style>'
                                       '<fermata type="upright"/></barline>', PLAIN[2]), []),
        ("middle_bar_line", tune(line("C5 D5") + bar("middle", "dashed") + line("E5 F5"), PLAIN[2]), []),
        ("changes", tune(PLAIN[0], attributes(key(2), time(3, 4)) + line("D5 E5 F#5"),
                         attributes(key(-3), time(6, 8)) + note("Eb5", 4, dots=1) + note("G5", 4, dots=1),
                         line("C5 D5") + attributes(key(0)) + line("E5"),
                         attributes(time(4, 4)) + note("C5", 16)), []),
        ("changes_of_all", tune(PLAIN[0], attributes(key(2, "minor") + time("3+2", 4)) + line("D5 E5 F#5 G5 A5"),
                                attributes(time(4, 4)) + line("D5 E5") + attributes(key(-4, "major"))
                                + attributes("<clef><sign>F</sign><line>4</line></clef>") + note("C4", 8),
                                note("C4", 16), clef=TREBLE.replace(
                                    "</clef>", "<clef-octave-change>-1</clef-octave-change></clef>")), []),
        ("change_inside", tune(line("C5 D5") + attributes(key(4)) + line("E5 F#5"), note("E5", 16)), []),
        ("split_bar", tune(PLAIN[0], line("G5 E5") + bar("right", "light-heavy", repeat="backward"),
                           line("D5 C5"), PLAIN[2]).replace('<measure number="3">', '<measure number="X1" implicit="yes">'),
         []),
        ("jumps", tune('<direction placement="above"><direction-type><segno/></direction-type><sound segno="1"/>'
                       "</direction>" + PLAIN[0], PLAIN[1]
                       + '<direction placement="above"><direction-type><words>Fine</words></direction-type>'
                       '<sound fine="yes"/></direction>', PLAIN[2]
                       + '<direction placement="above"><direction-type><words>D.S. al Fine</words></direction-type>'
                       '<sound dalsegno="1"/></direction>'), []),
        ("short_last_bar", tune(note("G4", 4), PLAIN[0], line("E5 D5 C5"), pickup=True), []),
    ]


def figures():
    ratio, start, stop = (3, 2), BRACKET.format("start"), BRACKET.format("stop")
    triplet = note("C5", 2, notations=start, ratio=ratio) + note("D5", 2, ratio=ratio) + note("E5", 2, notations=stop, ratio=ratio)
    plain = "".join(note(pitch, 2, ratio=ratio) for pitch in ("C5", "D5", "E5"))
    five = "".join(note(p, 1, ratio=(5, 4), notations=n) for p, n in zip(
        ("C5", "D5", "E5", "D5", "C5"), (start, "", "", "", stop)))
    wide = (note("C5", 4, ratio=ratio, notations=start) + note("E5", 4, ratio=ratio)
            + note("G5", 4, ratio=ratio, notations=stop))
    mixed = note("C5", 4, ratio=ratio, notations=start) + note("D5", 2, ratio=ratio, notations=stop)
    over = (note("C5", 8, ratio=ratio, notations=start) + note("D5", 8, ratio=ratio)
            + note("E5", 8, ratio=ratio, notations=stop))
    nested = ("<note><pitch><step>{}</step><octave>5</octave></pitch><duration>{}</duration><voice>1</voice>"
              "<type>{}</type><time-modification><actual-notes>{}</actual-notes><normal-notes>{}</normal-notes>"
              "</time-modification><notations>{}</notations></note>")
    outer = '<tuplet type="{}" number="1"/>'
    inner = '<tuplet type="{}" number="2"/>'
    deep = (nested.format("C", 40, "quarter", 3, 2, outer.format("start"))
            + nested.format("D", 40, "quarter", 3, 2, "")
            + nested.format("E", 8, "16th", 15, 8, inner.format("start"))
            + "".join(nested.format(p, 8, "16th", 15, 8, "") for p in "FED")
            + nested.format("C", 8, "16th", 15, 8, inner.format("stop") + outer.format("stop"))).replace(
                "<notations></notations>", "")
    return [
        ("triplets", tune(triplet + line("F5 G5 E5"), PLAIN[2]), []),
        ("triplets_without_brackets", tune(plain + line("F5 G5 E5"), PLAIN[2]), []),
        ("quintuplets", tune(five + line("F5 G5 E5"), PLAIN[2]), []),
        ("triplets_of_quarters", tune(wide + line("F5 E5"), PLAIN[2]), []),
        ("triplets_of_two_values", tune(mixed + mixed + line("F5 E5"), PLAIN[2]), []),
        ("triplets_of_halves", tune(over, PLAIN[2]), []),
        ("triplets_tied_over_the_bar",
         tune(line("C5 D5 E5") + note("F5", 2, notations=start, ratio=ratio) + note("G5", 2, ratio=ratio)
              + note("A5", 2, notations=stop, ratio=ratio, ties="start"),
              note("A5", 4, ties="stop") + line("G5 F5 E5"), PLAIN[2]), []),
        ("nested_tuplets", tune(deep + line("F5 E5"), PLAIN[2]), []),
        ("graces", tune(grace("D5", slash=True, kind="eighth") + note("C5", 4) + grace("E5") + grace("F5")
                        + note("D5", 4) + note("E5", 8) + grace("D5") + grace("E5"), note("C5", 16)), []),
        ("graces_with_slurs", tune(grace("D5", kind="eighth", notations='<slur type="start" number="1"/>')
                                   + note("C5", 8, notations='<slur type="stop" number="1"/>')
                                   + grace("B4", slash=True, kind="quarter") + note("E5", 8), PLAIN[2]), []),
        ("ties_over_bars", tune(line("C5 D5 E5") + note("F5", 4, ties="start"), note("F5", 16, ties="stop start"),
                                note("F5", 8, ties="stop") + line("E5 D5"), PLAIN[2]), []),
        ("rests", tune(note("rest", 4) + line("D5") + note("rest", 2) + note("E5", 2) + note("rest", 4),
                       f'<note><rest measure="yes"/><duration>{DIVISIONS * 4}</duration><voice>1</voice></note>',
                       note("rest", 8) + note("C5", 8), PLAIN[2]), []),
        ("fermatas", tune(line("C5 D5 E5") + note("D5", 4, notations="<fermata/>"),
                          line("E5 D5") + note("C5", 8, notations='<fermata type="inverted">square</fermata>')), []),
        ("marks", tune(note("C5", 4, notations="<articulations><staccato/><accent/></articulations>")
                       + note("D5", 4, notations="<ornaments><trill-mark/></ornaments>")
                       + note("E5", 4, notations='<slur type="start" number="1"/>')
                       + note("F5", 4, notations='<slur type="stop" number="1"/><articulations><breath-mark/>'
                              '</articulations>'), PLAIN[2]), []),
        ("cues", tune(line("C5 D5") + note("E5", 4, before="<cue/>") + line("F5"), PLAIN[2]), []),
        ("beams", tune("".join(note(p, 2).replace("</type>", f'</type><beam number="1">{b}</beam>')
                               for p, b in zip("C5 D5 E5 F5 G5 F5 E5 D5".split(), ["begin", "end"] * 4)), PLAIN[2]), []),
        ("accidentals", tune(note("C5", 4) + note("C#5", 4, more="<accidental>sharp</accidental>")
                             + note("D5", 4) + note("Eb5", 4, more='<accidental cautionary="yes">flat</accidental>'),
                             PLAIN[2]), []),
    ]


def words():
    extend = "<extend/>"
    sung = [("Praise", "single", ""), ("God", "single", extend), ("from", "single", ""), ("Al", "begin", "")]
    second = [("A", "begin", ""), ("men", "end", ""), ("sing", "single", extend), ("Hal", "begin", "")]
    third = [("le", "middle", ""), ("lu", "middle", ""), ("ja", "end", ""), ("O", "single", "")]
    both = "".join(
        note(p, 4, lyrics="".join(lyric(t, s, verse, more) for verse, (t, s, more) in enumerate(of, 1)))
        for p, *of in zip("C5 D5 E5 F5".split(), sung, second, third))
    elision = ('<lyric number="1"><syllabic>end</syllabic><text>a</text><elision>\u203f</elision>'
               "<syllabic>begin</syllabic><text>e</text></lyric>")
    named = '<lyric number="part1verse1" name="chorus"><syllabic>single</syllabic><text>Oh &amp; ah</text></lyric>'
    chord = '<harmony><root><root-step>C</root-step></root><kind text="7">dominant</kind></harmony>'
    tempo = ('<direction placement="above"><direction-type><metronome><beat-unit>half</beat-unit><per-minute>60'
             "</per-minute></metronome></direction-type></direction>")
    wedge = '<direction placement="below"><direction-type><wedge type="{}"/></direction-type></direction>'
    soft = '<direction placement="below"><direction-type><dynamics><p/></dynamics></direction-type></direction>'
    octave = '<direction><direction-type><octave-shift type="{}" size="8" number="1"/></direction-type></direction>'
    return [
        ("verses", tune(both, note("C5", 16, lyrics=lyric("men", "end") + lyric("le", "end", 2))), []),
        ("elisions", tune(note("C5", 8, lyrics=elision) + note("D5", 8, lyrics=named), PLAIN[2]), []),
        ("chord_symbols", tune(chord + line("C5 D5") + chord + line("E5 F5"), PLAIN[2]), []),
        ("tempo_and_dynamics", tune(tempo + soft + wedge.format("crescendo") + PLAIN[0] + wedge.format("stop"),
                                    PLAIN[2]), []),
        ("ottava", tune(octave.format("down") + line("C6 D6 E6 F6") + octave.format("stop"), PLAIN[2]), []),
    ]


def scores():
    clarinet = "<transpose><diatonic>-1</diatonic><chromatic>-2</chromatic></transpose>"
    bass = "<clef><sign>F</sign><line>4</line></clef>"
    low = [line("C3 D3 E3 F3"), line("G3 E3 D3 C3"), note("C3", 16)]
    drums = ('<note><unpitched><display-step>E</display-step><display-octave>4</display-octave></unpitched>'
             f"<duration>{DIVISIONS * 4}</duration><voice>1</voice><type>whole</type></note>")
    percussion = "<clef><sign>percussion</sign></clef>"
    staves = "<staves>2</staves>" + TREBLE.replace("<clef>", '<clef number="1">') + bass.replace(
        "<clef>", '<clef number="2">')
    on = lambda text, staff: text.replace("</type>", f"</type><staff>{staff}</staff>")
    piano = [on(up, 1) + f"<backup><duration>{DIVISIONS * 4}</duration></backup>"
             + on(down, 2).replace("<voice>1", "<voice>5") for up, down in zip(PLAIN, low)]
    clefs = tune(PLAIN[0], line("C5 B4") + attributes("<clef><sign>C</sign><line>3</line></clef>") + line("A4 G4"),
                 attributes(TREBLE) + PLAIN[2])
    sung = [key(0) + FOUR_FOUR, key(0, "minor") + FOUR_FOUR]
    two = score(part(PLAIN, signatures=sung[0]), part(["".join(low)[:0] + measure for measure in PLAIN],
                                                      signatures=sung[1], number=2), names=("Flute", "Violin"))
    long = tune(*[PLAIN[at % 2] for at in range(499)], PLAIN[2])
    keyed = key(2) + FOUR_FOUR
    return [
        ("second_part", two, ["--part", "2"]),
        ("own_signatures", score(part(PLAIN, signatures=key(0) + time(4, 4, "common")),
                                 part([line("D5 E5 F#5 G5"), attributes(key(0, "dorian")) + PLAIN[1], PLAIN[2]],
                                      signatures=key(2, "major") + time(2, 2, "cut"), number=2),
                                 names=("Oboe", "Voice")), ["--part", "Voice"]),
        ("clarinet", tune(line("D5 E5 F#5 G5"), line("A5 F#5 E5 D5"), note("D5", 16), signatures=keyed,
                          clef=TREBLE + clarinet), []),
        ("drums_beside", score(part(PLAIN), part([drums] * 3, clef=percussion, number=2), names=("Voice", "Drums")), []),
        ("drums_first", score(part([drums] * 3, clef=percussion), part(PLAIN, number=2), names=("Drums", "Voice")), []),
        ("two_staves", tune(*piano, clef=staves), []),
        ("two_staves_lower", tune(*piano, clef=staves), ["--part", "2"]),
        ("clef_changes", clefs, []),
        ("low_melody", tune(*low, clef=bass), []),
        ("high_melody", tune(line("C7 D7 E7 F7"), line("G7 E7 D7 C7")), []),
        ("one_bar", tune(PLAIN[0]), []),
        ("one_note", tune(note("C5", 16)), []),
        ("five_hundred_bars", long, ["--search", "greedy"]),
        ("no_key_no_time", tune(*PLAIN, signatures=""), []),
        ("seven_sharps", tune(line("C#5 D#5 E#5 F#5"), note("C#5", 16), signatures=key(7, "major") + FOUR_FOUR), []),
        ("seven_flats", tune(line("Cb5 Db5 Eb5 Fb5"), note("Cb5", 16), signatures=key(-7, "major") + FOUR_FOUR), []),
        ("chords_and_voices", tune(note("E5", 8) + note("C5", 8, before="<chord/>") + note("D5", 8)
                                   + f"<backup><duration>{DIVISIONS * 4}</duration></backup>"
                                   + note("A4", 16).replace("<voice>1", "<voice>2"), PLAIN[2]), []),
    ]


MELODIES = modes() + bars() + figures() + words() + scores()

//! What belongs to notes: words, marks, grace and cue notes, tuplets, rests, chords.

use super::*;

#[test]
fn verses_with_their_syllables_elisions_and_lines_are_kept() {
    let lyrics = "<lyric number='1'><syllabic>begin</syllabic><text>A</text></lyric>\
                  <lyric number='2' name='chorus'><syllabic>single</syllabic><text>O</text><elision>‿</elision>\
                  <syllabic>begin</syllabic><text>ho</text><extend type='start'/></lyric>\
                  <lyric number='3'><extend/></lyric>\
                  <lyric number='4'><text>\n la&#160;</text><elision>&#160;</elision><text>a</text></lyric>";
    let score = kept(&tune(
        FOUR_FOUR,
        &[&[quarter("C5", lyrics), note("D5", "half", 24, ""), quarter("E5", "")].concat()],
    ));
    let lyrics: &[Lyric] = &score.parts[0].notes[0].notation.lyrics;
    assert_eq!(lyrics.iter().map(|lyric| lyric.verse.as_str()).collect::<Vec<_>>(), ["1", "2", "3", "4"]);
    assert_eq!(lyrics[0].syllables[0].syllabic, Some(Syllabic::Begin));
    assert_eq!((lyrics[1].name.as_deref(), lyrics[1].extend.as_deref()), (Some("chorus"), Some("start")));
    assert_eq!(lyrics[1].syllables[1].elision.as_deref(), Some("‿"));
    assert_eq!((lyrics[1].words(), lyrics[2].extend.as_deref()), ("O ho-".to_owned(), Some("")));
    assert_eq!(score.parts[0].notes[0].lyric().as_deref(), Some("A-"));
    let spaced = &lyrics[3].syllables;
    assert_eq!(
        (spaced[0].text.as_str(), spaced[1].elision.as_deref()),
        ("la\u{a0}", Some("\u{a0}")),
        "no-break spaces"
    );
}

#[test]
fn tempi_fermatas_slurs_and_marks_are_kept() {
    let tempo = "<direction placement='above'><direction-type><metronome><beat-unit>half</beat-unit><per-minute>60\
                 </per-minute></metronome></direction-type></direction>";
    let slower = "<direction><direction-type><words>Slower</words></direction-type><offset>6</offset>\
                  <sound tempo='66'/></direction>";
    let soft =
        "<direction placement='below'><direction-type><dynamics><p/></dynamics></direction-type></direction>";
    let marks = "<notations><slur type='start' number='1'/><articulations><staccato/><breath-mark>comma</breath-mark>\
                 </articulations><fermata type='inverted'>angled</fermata></notations>";
    let end = "<accidental cautionary='yes'>natural</accidental><notations><slur type='stop' number='1'/></notations>";
    let bar = [tempo, soft, &quarter("C5", marks), slower, &note("D5", "half", 24, end), &quarter("E5", "")]
        .concat();
    let score = kept(&tune(FOUR_FOUR, &[&bar]));
    assert_eq!(score.tempo, Some(120.0));
    let tempi: Vec<_> = score.measures[0].notation.directions.iter().map(|d| (d.onset, d.tempo)).collect();
    assert_eq!(tempi, [(0, Some(120.0)), (Q * 3 / 2, Some(66.0))], "inside the half note");
    assert_eq!(score.parts[0].directions.len(), 1, "dynamics are the part's own");
    let first = &score.parts[0].notes[0];
    assert!(first.fermata && first.notation.marks.iter().any(|mark| mark.text == "angled"));
}

#[test]
fn grace_notes_are_kept_and_take_no_time() {
    let grace = |pitch: &str, slash: &str| {
        let (step, octave) = pitch.split_at(1);
        format!(
            "<note><grace{slash}/><pitch><step>{step}</step><octave>{octave}</octave></pitch><voice>1</voice>\
             <type>16th</type></note>"
        )
    };
    let bar = [
        grace("D5", " slash='yes'"),
        grace("E5", ""),
        note("C5", "half", 24, ""),
        note("B4", "half", 24, ""),
        grace("A4", ""),
    ];
    let score = kept(&tune(FOUR_FOUR, &[&bar.concat(), &whole("C5")]));
    let notes = &score.parts[0].notes;
    assert_eq!(notes.iter().map(|note| note.onset / Q).collect::<Vec<_>>(), [0, 2, 4]);
    let graces: Vec<_> =
        notes[0].notation.graces.iter().map(|grace| (grace.pitch.midi, grace.slash)).collect();
    assert_eq!(graces, [(74, true), (76, false)]);
    assert_eq!(notes[1].notation.graces_after.len(), 1);
}

#[test]
fn tuplets_with_their_brackets_and_rests_are_kept() {
    let triple =
        "<time-modification><actual-notes>3</actual-notes><normal-notes>2</normal-notes></time-modification>";
    let third = |pitch: &str, more: &str| note(pitch, "eighth", 4, &format!("{triple}{more}"));
    let rest =
        format!("<note><rest/><duration>4</duration><voice>1</voice><type>eighth</type>{triple}</note>");
    let bracket =
        |kind: &str| format!("<notations><tuplet type='{kind}' number='1' bracket='no'/></notations>");
    let bar = [
        third("C5", &bracket("start")),
        rest,
        third("E5", &bracket("stop")),
        note("F5", "half", 36, "<dot/>"),
    ];
    let score = kept(&tune(FOUR_FOUR, &[&bar.concat()]));
    let value = score.parts[0].notes[0].notation.value.clone().unwrap();
    let tuplet = Some(Tuplet { actual: 3, normal: 2, normal_type: None });
    assert_eq!(value, NoteValue { name: "eighth".to_owned(), dots: 0, tuplet });
    assert_eq!(score.parts[0].rests.len(), 1);
}

#[test]
fn rests_are_kept_as_they_are_written() {
    let rest = |inside: &str, duration: u32, more: &str| {
        format!("<note><rest{inside}/><duration>{duration}</duration><voice>1</voice>{more}</note>")
    };
    let marked = rest("", 24, "<type>half</type><notations><fermata type='upright'/></notations>");
    let hidden = rest("", 12, "<type>quarter</type>").replace("<note>", "<note print-object='no'>");
    let bar = [rest("", 12, "<type>quarter</type>"), hidden, marked].concat();
    let score = kept(&tune(
        FOUR_FOUR,
        &[&rest(" measure='yes'", 48, ""), &bar, &whole("C5"), &rest(" measure='yes'", 48, "")],
    ));
    assert!(score.parts[0].rests[2].notation.hidden, "it is there and is not printed");
    let rests: Vec<_> = score.parts[0].rests.iter().map(|rest| (rest.duration / Q, rest.measure)).collect();
    assert_eq!(rests, [(4, true), (1, false), (1, false), (2, false), (4, true)]);
}

#[test]
fn chords_and_two_voices_are_kept_with_their_words_on_the_lowest_note() {
    let words = "<lyric number='1'><syllabic>single</syllabic><text>la</text></lyric>";
    let chord = quarter("C5", "").replace("<note>", "<note><chord/>");
    let second = |pitch: &str| note(pitch, "half", 24, "").replace("<voice>1", "<voice>2");
    let bar = [
        quarter("E5", words),
        chord,
        note("F5", "half", 36, "<dot/>"),
        "<backup><duration>24</duration></backup>".to_owned(),
        second("A4"),
        // A chord's second note need not say whose it is.
        second("F4").replace("<note>", "<note><chord/>").replace("<voice>2</voice>", ""),
    ];
    let score = kept(&tune(FOUR_FOUR, &[&bar.concat()]));
    let notes: Vec<_> = score.parts[0]
        .notes
        .iter()
        .map(|n| (n.pitch.midi, n.onset / Q, n.voice, n.lyric().is_some()))
        .collect();
    let second = [(65, 2, 2, false), (69, 2, 2, false)];
    assert_eq!(notes, [&[(72, 0, 1, true), (76, 0, 1, false), (77, 1, 1, false)][..], &second].concat());
}

#[test]
fn cue_notes_are_kept_and_are_rests_to_the_part() {
    let cue = |pitch: &str| quarter(pitch, "").replace("<note>", "<note><cue/>");
    let chord = cue("G5").replace("<cue/>", "<cue/><chord/>");
    let score = kept(&tune(
        FOUR_FOUR,
        &[&[quarter("C5", ""), cue("E5"), chord, note("F5", "half", 24, "")].concat()],
    ));
    let part = &score.parts[0];
    assert_eq!(part.notes.iter().map(|note| note.pitch.midi).collect::<Vec<_>>(), [72, 77]);
    assert_eq!(part.rests[0].cue.iter().map(|pitch| pitch.midi).collect::<Vec<_>>(), [76, 79]);
}

#[test]
fn verses_without_a_number_get_one_and_keep_their_name() {
    let lyric =
        |verse: &str| format!("<lyric number='{verse}'><syllabic>single</syllabic><text>la</text></lyric>");
    let both = [lyric("part1verse1"), lyric("part1verse2")].concat();
    let score =
        kept(&tune(FOUR_FOUR, &[&[quarter("C5", &both), quarter("D5", &lyric("part1verse2"))].concat()]));
    let told = |at: usize| {
        let lyrics = &score.parts[0].notes[at].notation.lyrics;
        lyrics.iter().map(|lyric| (lyric.verse.as_str(), lyric.name.as_deref())).collect::<Vec<_>>()
    };
    assert_eq!(told(0), [("1", Some("part1verse1")), ("2", Some("part1verse2"))]);
    assert_eq!(told(1), [("2", Some("part1verse2"))]);
}

#[test]
fn tuplets_without_a_bracket_say_where_they_begin_and_end() {
    let triple =
        "<time-modification><actual-notes>3</actual-notes><normal-notes>2</normal-notes></time-modification>";
    let third = |pitch: &str| note(pitch, "eighth", 4, triple);
    let bar = [third("C5"), third("D5"), third("E5"), note("F5", "half", 36, "<dot/>")].concat();
    let written = write_musicxml(&read(&tune(FOUR_FOUR, &[&bar])));
    assert!(written.contains("<tuplet type=\"start\" bracket=\"no\"/>"), "{written}");
}

#[test]
fn thirds_that_the_files_divisions_round_are_thirds() {
    let triple =
        "<time-modification><actual-notes>3</actual-notes><normal-notes>2</normal-notes></time-modification>";
    let third = |pitch: &str, lasts: u32| note(pitch, "eighth", lasts, triple);
    let bar = [third("C5", 85), third("D5", 85), third("E5", 86), note("F5", "half", 768, "<dot/>")].concat();
    let text = tune(FOUR_FOUR, &[&bar, &bar]).replace("<divisions>12", "<divisions>256");
    let score = read(&text);
    let onsets: Vec<i64> = score.parts[0].notes.iter().map(|note| note.onset).collect();
    assert_eq!(onsets, [0, Q / 3, 2 * Q / 3, Q, 4 * Q, 4 * Q + Q / 3, 4 * Q + 2 * Q / 3, 5 * Q]);
    let slip = read(&text.replace("<duration>768", "<duration>767"));
    assert_eq!(slip.parts[0].notes[3].end(), 4 * Q, "a half with a dot");
    let other = read(&text.replace("<actual-notes>3", "<actual-notes>5"));
    assert_eq!(other.parts[0].notes[1].onset, (Q * 85 + 128) / 256, "no fifth's length: as the file counts");
}

//! Melodies as people have them: whatever they say is there when the score is written and read again.

use kapell_music::read::read_score;
use kapell_music::score::{
    KeySignature, Lyric, Measure, Mode, NoteValue, Part, Score, Syllabic, TICKS_PER_QUARTER, Tuplet,
};
use kapell_music::write::write_musicxml;

const Q: i64 = TICKS_PER_QUARTER;

/// A score of one part, 12 divisions a quarter; the first measure has the attributes.
fn tune(attributes: &str, measures: &[&str]) -> String {
    let mut number = 0;
    let numbered = measures.iter().map(|measure| {
        number += 1;
        let first = if number == 1 {
            format!("<attributes><divisions>12</divisions>{attributes}</attributes>")
        } else {
            String::new()
        };
        match measure.strip_prefix('<') {
            // One that begins with a tag of its own.
            Some(rest) if rest.starts_with("measure") => measure.replacen('>', &format!(">{first}"), 1),
            _ => format!("<measure number='{number}'>{first}{measure}</measure>"),
        }
    });
    let measures: String = numbered.collect();
    format!(
        "<score-partwise><part-list><score-part id='P1'><part-name>Melody</part-name></score-part></part-list>\
         <part id='P1'>{measures}</part></score-partwise>"
    )
}

/// A note such as `C5 quarter 12` with more elements behind its type.
fn note(pitch: &str, kind: &str, duration: u32, more: &str) -> String {
    let (step, octave) = pitch.split_at(1);
    format!(
        "<note><pitch><step>{step}</step><octave>{octave}</octave></pitch><duration>{duration}</duration>\
         <voice>1</voice><type>{kind}</type>{more}</note>"
    )
}

fn quarter(pitch: &str, more: &str) -> String {
    note(pitch, "quarter", 12, more)
}

fn whole(pitch: &str) -> String {
    note(pitch, "whole", 48, "")
}

fn read(text: &str) -> Score {
    read_score(text.as_bytes(), "tune.musicxml").unwrap_or_else(|error| panic!("{error}\n{text}"))
}

/// Reads, writes and reads again: nothing may be lost.
fn kept(text: &str) -> Score {
    let score = read(text);
    let again = read(&write_musicxml(&score));
    for (got, wanted) in again.parts.iter().zip(&score.parts) {
        // The writer numbers parts, and finds a clef where there is none.
        let clefs = if wanted.clefs.is_empty() { Vec::new() } else { got.clefs.clone() };
        let got = Part { id: wanted.id.clone(), clefs, ..got.clone() };
        assert_eq!(got, *wanted);
    }
    let last = score.measures.len() - 1;
    for (index, (got, wanted)) in again.measures.iter().zip(&score.measures).enumerate() {
        // The writer ends a score by a double line where it has none.
        let mut got = got.clone();
        if index == last && wanted.notation.right.is_none() {
            got.notation.right = None;
        }
        assert_eq!(&got, wanted);
    }
    assert_eq!(again.measures.len(), score.measures.len());
    assert_eq!((&again.credits, again.tempo), (&score.credits, score.tempo));
    score
}

const FOUR_FOUR: &str = "<time><beats>4</beats><beat-type>4</beat-type></time>";

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
fn repeats_endings_and_jumps_are_kept() {
    let sign = |kind: &str, sound: &str| {
        format!("<direction><direction-type>{kind}</direction-type><sound {sound}/></direction>")
    };
    let right = |ending: &str, more: &str| {
        format!("<barline location='right'><bar-style>light-heavy</bar-style>{ending}{more}</barline>")
    };
    let left = |more: &str| format!("<barline location='left'>{more}</barline>");
    let measures = [
        [
            left("<bar-style>heavy-light</bar-style><repeat direction='forward'/>"),
            sign("<segno/>", "segno='1'"),
            whole("C5"),
        ]
        .concat(),
        [
            left("<ending number='1' type='start'/>"),
            whole("D5"),
            right("<ending number='1' type='stop'/>", "<repeat direction='backward' times='3'/>"),
        ]
        .concat(),
        [
            left("<ending number='2' type='start'>2.</ending>"),
            whole("E5"),
            right("<ending number='2' type='discontinue'/>", ""),
            sign("<words>Fine</words>", "fine='yes'"),
        ]
        .concat(),
        [
            whole("F5"),
            sign("<words font-size='12'>D.S. al Fine</words>", "dalsegno='1'"),
            "<barline><bar-style>light-light</bar-style></barline>".to_owned(),
        ]
        .concat(),
    ];
    let measures: Vec<&str> = measures.iter().map(String::as_str).collect();
    let score = kept(&tune(FOUR_FOUR, &measures));
    let bars: Vec<_> = score.measures.iter().map(|bar| (bar.repeat_start, bar.repeat_end)).collect();
    assert_eq!(bars, [(true, false), (false, true), (false, false), (false, false)]);
    let ending = score.measures[1].notation.right.as_ref().unwrap();
    assert_eq!(ending.child("repeat").unwrap().attribute("times"), Some("3"));
    assert!(score.measures[0].notation.directions[0].markup.as_ref().unwrap().contains("segno"));
    let jump = score.measures[3].notation.directions[0].markup.as_ref().unwrap();
    assert_eq!(jump.child("sound").unwrap().attribute("dalsegno"), Some("1"));
    assert!(!format!("{jump:?}").contains("font-size"), "what is of the page stays behind");
}

#[test]
fn a_repeat_that_begins_at_the_end_of_a_measure_stays_there() {
    let forward =
        "<barline location='right'><bar-style>heavy-light</bar-style><repeat direction='forward'/></barline>";
    let measures = [format!("{}{forward}", whole("C5")), whole("D5")];
    let score = kept(&tune(FOUR_FOUR, &measures.each_ref().map(String::as_str)));
    let bar = &score.measures[0];
    assert!(bar.notation.right.as_ref().unwrap().child("repeat").is_some());
    assert!(!bar.repeat_start && bar.notation.left.is_none(), "the measure itself is not repeated");
}

#[test]
fn keys_modes_metres_and_clefs_are_kept_where_they_change() {
    let key = |fifths: i32, mode: &str| format!("<key><fifths>{fifths}</fifths><mode>{mode}</mode></key>");
    let start = format!(
        "{}<time symbol='cut'><beats>2</beats><beat-type>2</beat-type></time><clef><sign>G</sign><line>2</line>\
         <clef-octave-change>-1</clef-octave-change></clef>",
        key(0, "dorian")
    );
    let change = |what: &str| format!("<attributes>{what}</attributes>");
    let odd = "<time><beats>3+2</beats><beat-type>4</beat-type></time>";
    let bass = "<clef><sign>F</sign><line>4</line></clef>";
    let half = |pitch: &str| note(pitch, "half", 24, "");
    let score = kept(&tune(
        &start,
        &[
            &whole("D4"),
            &[change(&(key(2, "minor") + odd)), note("D4", "half", 36, "<dot/>"), half("E4")].concat(),
            &[change(FOUR_FOUR), half("D4"), change(&key(-4, "major")), change(bass), half("C4")].concat(),
            &whole("C4"),
        ],
    ));
    let signed: Vec<_> = score.measures.iter().map(|bar| (bar.time, bar.key.fifths, bar.key.mode)).collect();
    let expected = [
        ((2, 2), 0, None),
        ((5, 4), 2, Some(Mode::Minor)),
        ((4, 4), 2, Some(Mode::Minor)),
        ((4, 4), -4, Some(Mode::Major)),
    ];
    assert_eq!(signed, expected);
    assert_eq!(score.measures[0].notation.mode.as_deref(), Some("dorian"));
    assert_eq!(score.measures[0].notation.time.as_ref().unwrap().attribute("symbol"), Some("cut"));
    assert_eq!(score.measures[1].notation.time.as_ref().unwrap().child("beats").unwrap().text, "3+2");
    let clefs: Vec<_> =
        score.parts[0].clefs.iter().map(|clef| (clef.onset, clef.sign.as_str(), clef.octaves)).collect();
    assert_eq!(clefs, [(0, "G", -1), (11 * Q, "F", 0)]);
    let written = write_musicxml(&score);
    assert_eq!(
        written.matches("<fifths>-4</fifths>").count(),
        1,
        "the change is said once, inside its measure"
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
fn pickups_split_bars_and_numbers_are_kept() {
    let two = note("C5", "half", 24, "");
    let score = kept(&tune(
        FOUR_FOUR,
        &[
            &format!("<measure number='0' implicit='yes'>{}</measure>", quarter("G4", "")),
            &format!("<measure number='1'>{}</measure>", whole("C5")),
            &format!("<measure number='2'>{two}</measure>"),
            &format!("<measure number='X1' implicit='yes'>{two}</measure>"),
            &format!("<measure number='3a'>{}</measure>", whole("C5")),
        ],
    ));
    let bars: Vec<_> =
        score.measures.iter().map(|m| (m.number.as_str(), m.start / Q, m.duration / Q, m.implicit)).collect();
    assert_eq!(
        bars,
        [("0", 0, 1, true), ("1", 1, 4, false), ("2", 5, 2, false), ("X1", 7, 2, true), ("3a", 9, 4, false)]
    );
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
fn a_part_of_two_staves_is_two_parts() {
    let on =
        |staff: u8, pitch: &str| whole(pitch).replace("</note>", &format!("<staff>{staff}</staff></note>"));
    let clefs = "<staves>2</staves><clef number='1'><sign>G</sign><line>2</line></clef><clef number='2'><sign>F</sign>\
                 <line>4</line></clef>";
    let bar = [on(1, "C5"), "<backup><duration>48</duration></backup>".to_owned(), on(2, "C3")].concat();
    let score = kept(&tune(&format!("{FOUR_FOUR}{clefs}"), &[&bar]));
    let told: Vec<_> = score
        .parts
        .iter()
        .map(|p| (p.name.as_str(), p.notes[0].pitch.midi, p.clefs[0].sign.as_str()))
        .collect();
    assert_eq!(told, [("Melody (staff 1)", 72, "G"), ("Melody (staff 2)", 48, "F")]);
}

#[test]
fn transposing_parts_are_written_as_they_sound_and_say_so() {
    let attributes = format!(
        "<key><fifths>2</fifths></key>{FOUR_FOUR}<transpose><diatonic>-1</diatonic><chromatic>-2</chromatic></transpose>"
    );
    let score = read(&tune(&attributes, &[&quarter("D5", "<accidental>natural</accidental>")]));
    let note = &score.parts[0].notes[0];
    assert_eq!((note.pitch.midi, score.measures[0].key.fifths), (72, 0));
    assert!(note.notation.marks.is_empty(), "the accidental was another note's");
    assert!(score.parts[0].remarks[0].contains("transposing"));
    let guitar = format!(
        "{FOUR_FOUR}<clef><sign>G</sign><line>2</line></clef><transpose><chromatic>0</chromatic><octave-change>-1\
         </octave-change></transpose>"
    );
    let score = kept(
        &tune(&guitar, &[&quarter("C5", "")]).replace("<transpose>", "<transpose><diatonic>0</diatonic>"),
    );
    assert_eq!((score.parts[0].notes[0].pitch.midi, score.parts[0].clefs[0].octaves), (60, -1));
}

#[test]
fn the_signatures_are_the_first_parts_though_another_one_has_attributes_later() {
    let first = tune(
        &format!("<key><fifths>-1</fifths><mode>minor</mode></key>{FOUR_FOUR}"),
        &[&whole("D5"), &whole("D5")],
    );
    let second = "<part id='P2'><measure number='1'><attributes><divisions>1</divisions><key><fifths>-1</fifths>\
                  <mode>major</mode></key></attributes></measure><measure number='2'><attributes><divisions>2</divisions>\
                  </attributes></measure></part></score-partwise>";
    let score = read(&first.replace("</score-partwise>", second));
    let minor = KeySignature { fifths: -1, mode: Some(Mode::Minor) };
    assert!(score.measures.iter().map(|bar: &Measure| bar.key).eq([minor; 2]), "{:?}", score.measures);
}

#[test]
fn what_concerns_all_is_taken_from_any_part() {
    let repeat = "<barline location='right'><repeat direction='backward'/></barline>";
    let tempo = "<direction><direction-type><words>Fine</words></direction-type><sound fine='yes' tempo='88'/></direction>";
    let first = tune(FOUR_FOUR, &[&[tempo, &whole("C5"), repeat].concat()]);
    let second = "<part id='P2'><measure number='1'><attributes><divisions>1</divisions></attributes><note><pitch>\
                  <step>C</step><octave>4</octave></pitch><duration>4</duration></note></measure></part></score-partwise>";
    let score = read(&first.replace("</score-partwise>", second));
    let part: &Part = &score.parts[1];
    let alone = Score { parts: vec![part.clone()], measures: score.measures.clone(), ..Score::default() };
    let again = read(&write_musicxml(&alone));
    assert!(again.measures[0].repeat_end);
    assert_eq!(again.measures[0].notation.directions, score.measures[0].notation.directions);
}

#[test]
fn long_and_short_tunes_are_kept() {
    for bars in [1, 20, 500] {
        let bar = [quarter("C5", ""), quarter("D5", ""), note("E5", "half", 24, "")].concat();
        let score = kept(&tune(FOUR_FOUR, &vec![bar.as_str(); bars]));
        assert_eq!(score.duration(), i64::try_from(bars).unwrap() * 4 * Q);
    }
}

#[test]
fn a_parts_own_signatures_are_kept_and_may_become_those_of_all() {
    let first = tune(
        &format!("<key><fifths>-1</fifths><mode>minor</mode></key>{FOUR_FOUR}"),
        &[whole("D5").as_str(); 3],
    );
    let key = |fifths: i32, mode: &str| format!("<key><fifths>{fifths}</fifths>{mode}</key>");
    let cut = "<time symbol='cut'><beats>2</beats><beat-type>2</beat-type></time>";
    let halves = note("D5", "half", 24, "");
    let second = format!(
        "<part id='P2'><measure number='1'><attributes><divisions>12</divisions>{}{cut}</attributes>{}</measure>\
         <measure number='2'>{halves}<attributes>{}</attributes>{halves}</measure><measure number='3'>{}</measure></part>\
         <part id='P3'><measure number='1'><attributes><divisions>12</divisions></attributes>{}</measure>\
         <measure number='2'>{halves}{halves}</measure><measure number='3'>{}</measure></part></score-partwise>",
        key(-1, ""),
        whole("D5"),
        key(0, "<mode>dorian</mode>"),
        whole("D5"),
        whole("D5"),
        whole("D5"),
    );
    let mut score = kept(&first.replace("</score-partwise>", &second));
    let of = |score: &Score, part: usize| {
        let told = |bar: &Measure| score.parts[part].signatures_in(bar);
        score.measures.iter().map(told).collect::<Vec<_>>()
    };
    let (shared, own) = (of(&score, 0), of(&score, 1));
    assert!(score.parts[2].signatures.is_empty(), "what declares nothing has those of all");
    assert_eq!((own[0].key.mode, own[0].time, own[2].mode.as_deref()), (None, (2, 2), Some("dorian")));
    assert_eq!(own[1].key, own[0].key, "a change inside a measure counts from the next one");
    score.sign_by(1);
    assert_eq!((of(&score, 0), of(&score, 1), of(&score, 2)), (shared.clone(), own.clone(), shared));
    assert_eq!(score.measures.iter().map(Measure::signatures).collect::<Vec<_>>(), own);
    assert_eq!(score.measures[1].notation.directions.len(), 1, "the change is everyone's now");
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
fn bar_lines_have_a_style_and_an_endings_stop_a_line_of_its_own() {
    let right =
        "<barline location='right'><ending number='1' type='stop'/><repeat direction='backward'/></barline>";
    let left = "<barline location='left'><ending number='1' type='start'/></barline>";
    let score = kept(&tune(FOUR_FOUR, &[&[left, &whole("C5"), right].concat(), &whole("C5")]));
    let line = score.measures[0].notation.right.as_ref().unwrap();
    let names: Vec<&str> = line.children.iter().map(|child| child.name.as_str()).collect();
    assert_eq!(
        (names, line.children[0].text.as_str()),
        (vec!["bar-style", "ending", "repeat"], "light-heavy")
    );
    assert_eq!(score.measures[0].notation.left.as_ref().unwrap().children[0].text, "regular");
    let written = write_musicxml(&score);
    let at = |what: &str| written.find(what).unwrap();
    assert!(written[at("type=\"stop\"")..at("direction=\"backward\"")].contains("</barline>"), "{written}");
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

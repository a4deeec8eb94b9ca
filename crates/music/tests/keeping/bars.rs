//! What belongs to bars and parts: repeats, endings, signatures, pickups, staves.

use super::*;

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

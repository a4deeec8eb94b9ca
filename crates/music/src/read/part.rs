//! One part of a MusicXML document: its state from measure to measure, and what a measure says.

use std::collections::{BTreeMap, BTreeSet};

use crate::score::{Clef, Direction, Grace, Markup, Measure, Note, Part, Rest, Signatures};

use super::ReadError;
use super::direction::{DirectionDraft, barline, direction, note_for_all};
use super::lyric::{Names, number_verses};
use super::musicxml::Document;
use super::note::{NoteDraft, Placed, WrittenNote};
use super::pitch::Transposition;
use super::signatures::{clef, key, time};
use super::time::Quarters;
use super::xml::Element;

/// Clefs and directions of a part, at most.
const SIGNS_MAX: usize = 100_000;

/// A part that is being read.
pub(super) struct PartReader {
    /// Without notes until `finish`.
    pub(super) part: Part,
    /// Partwise: its `part` element was seen.
    pub(super) begun: bool,
    signatures: Signatures,
    /// Whether the part has declared a key, and a metre. Until it does it has those of the measures.
    declared: (bool, bool),
    /// Those that are not the measures', by measure.
    own: Vec<(usize, Signatures)>,
    /// In a quarter note.
    divisions: Quarters,
    transposition: Transposition,
    /// It was another instrument's than one in C at some time.
    transposed: bool,
    notes: Vec<NoteDraft>,
    /// With their measures.
    directions: Vec<(usize, DirectionDraft)>,
    clefs: Vec<ClefDraft>,
    /// The last measure with a note or rest, and how far into it they reach.
    written_until: (usize, Quarters),
    /// Names of voices that are no numbers from 1 to 255, and of verses that are none.
    voices: Names,
    verses: Names,
}

struct ClefDraft {
    measure: usize,
    at: Quarters,
    staff: u8,
    clef: Clef,
}

/// Where in a measure the part is.
struct Cursor {
    index: usize,
    /// As the file counts.
    at: Quarters,
    /// Where that is exactly, if it has rounded the notes before: (as the file counts, exactly).
    exact: Option<(Quarters, Quarters)>,
    /// How far notes, rests and jumps forward reach, and how far notes and rests alone.
    filled: Quarters,
    sounded: Quarters,
    /// Whether there was more than rests.
    notes: bool,
    /// Where the last note that was no chord's second began: chords go there.
    chord_onset: Quarters,
    /// Its voice and staff, which are its chord's where the others do not say.
    chord_place: (u8, u8),
    /// Grace notes, by voice, that wait for the note that they belong to.
    graces: Vec<(u8, Grace)>,
    /// What the part had at the measure's beginning, once it has changed inside.
    signed: Option<Signatures>,
}

impl Cursor {
    fn place(&self) -> Quarters {
        self.exact.filter(|(counted, _)| *counted == self.at).map_or(self.at, |(_, exact)| exact)
    }
}

impl PartReader {
    pub(super) fn new(id: &str) -> Self {
        Self {
            part: Part { id: id.to_owned(), ..Part::default() },
            begun: false,
            signatures: Signatures::default(),
            declared: (false, false),
            own: Vec::new(),
            divisions: Quarters::ONE,
            transposition: Transposition::default(),
            transposed: false,
            notes: Vec::new(),
            directions: Vec::new(),
            clefs: Vec::new(),
            written_until: (0, Quarters::ZERO),
            voices: Names::default(),
            verses: Names::default(),
        }
    }

    pub(super) fn signatures(&self) -> Signatures {
        self.signatures.clone()
    }

    /// Reads this part's share of a measure.
    pub(super) fn measure(&mut self, document: &mut Document<'_>, index: usize) -> Result<(), ReadError> {
        let zero = Quarters::ZERO;
        let mut cursor = Cursor {
            index,
            at: zero,
            exact: None,
            filled: zero,
            sounded: zero,
            chord_onset: zero,
            chord_place: (1, 1),
            notes: false,
            graces: Vec::new(),
            signed: None,
        };
        while let Some(child) = document.xml.child()? {
            match child.name() {
                "note" => self.note(document, &child, &mut cursor)?,
                "backup" | "forward" => self.shift(document, &mut cursor, child.name() == "forward")?,
                "attributes" => self.attributes(document, &mut cursor)?,
                "barline" => barline(document, &child, index, cursor.place())?,
                "direction" | "sound" => self.direction(document, &child, &cursor)?,
                _ => document.xml.skip()?,
            }
        }
        self.graces_after(&mut cursor);
        self.note_own(document, &mut cursor);
        if !cursor.sounded.is_zero() {
            self.written_until = (index, cursor.sounded);
        }
        let here = self.notes.iter().rev().take_while(|note| note.measure == index);
        { here }.for_each(|note| document.measures[index].begins(note.onset));
        document.measures[index].reach(cursor.filled, cursor.sounded, cursor.notes);
        Ok(())
    }

    fn note(
        &mut self,
        document: &mut Document<'_>,
        element: &Element<'_>,
        cursor: &mut Cursor,
    ) -> Result<(), ReadError> {
        let mut written = WrittenNote::read(document, element)?;
        if written.grace {
            self.grace(cursor, written);
            return Ok(());
        }
        document.unpitched |= written.unpitched;
        let counted = match written.duration {
            Some(duration) => duration.over(self.divisions).ok_or_else(|| too_fine(document))?,
            None => Quarters::ZERO,
        };
        let duration = written.unrounded(counted, self.divisions);
        let onset = if written.chord { cursor.chord_onset } else { cursor.place() };
        let end = onset.plus(duration).ok_or_else(|| too_fine(document))?;
        if !written.chord {
            cursor.chord_onset = onset;
            cursor.at = cursor.at.plus(counted).ok_or_else(|| too_fine(document))?;
            cursor.exact = Some((cursor.at, end));
        }
        cursor.filled = cursor.filled.max(end);
        cursor.sounded = cursor.sounded.max(end);
        cursor.notes |= !written.rest;
        if duration.is_zero() || (written.pitch.is_none() && !written.rest) {
            return Ok(());
        }
        let (voice, staff) = self.voice_and_staff(&written, cursor);
        let pitch = written.pitch.filter(|_| !written.rest).map(|pitch| self.transposition.sounding(pitch));
        let pitch = pitch.transpose().map_err(|what| document.fail(what))?;
        self.keep_sounding_marks(&mut written.marks);
        number_verses(&mut written.lyrics, &mut self.verses);
        let graces = if written.chord { Vec::new() } else { take_graces(&mut cursor.graces, voice) };
        self.notes.push(NoteDraft {
            measure: cursor.index,
            onset,
            end,
            pitch,
            cue: written.cue,
            voice,
            staff,
            tie_from: written.tie_stop,
            tie_to: written.tie_start,
            fermata: written.fermata,
            whole_measure: written.whole_measure,
            notation: written.notation(graces),
        });
        Ok(())
    }

    fn grace(&mut self, cursor: &mut Cursor, mut written: WrittenNote) {
        let Some(pitch) = written.pitch.filter(|_| !written.cue) else { return };
        // One that cannot sound is no reason to refuse the score.
        let Ok(pitch) = self.transposition.sounding(pitch) else { return };
        let (voice, _) = self.voice_and_staff(&written, cursor);
        self.keep_sounding_marks(&mut written.marks);
        cursor.graces.push((voice, written.into_grace(pitch)));
    }

    /// An accidental of a transposing part is not that of what sounds.
    fn keep_sounding_marks(&self, marks: &mut Vec<Markup>) {
        if !self.transposition.keeps_spelling() {
            marks.retain(|mark| mark.name != "accidental");
        }
    }

    /// Grace notes that no note follows within their measure belong to the one before.
    fn graces_after(&mut self, cursor: &mut Cursor) {
        let waiting = std::mem::take(&mut cursor.graces);
        for (voice, grace) in waiting {
            let of_measure = self.notes.iter_mut().rev().take_while(|note| note.measure == cursor.index);
            if let Some(note) = { of_measure }.find(|note| note.voice == voice) {
                note.notation.graces_after.push(grace);
            }
        }
    }

    fn direction(
        &mut self,
        document: &mut Document<'_>,
        element: &Element<'_>,
        cursor: &Cursor,
    ) -> Result<(), ReadError> {
        let Some(draft) = direction(document, element, cursor.place(), self.divisions)? else {
            return Ok(());
        };
        document.tempo = document.tempo.or(draft.direction.tempo);
        if draft.for_all {
            note_for_all(document, cursor.index, draft);
        } else if self.directions.len() < SIGNS_MAX {
            self.directions.push((cursor.index, draft));
        }
        Ok(())
    }

    /// Those of a chord's first note are those of the others, where they say nothing else.
    fn voice_and_staff(&mut self, written: &WrittenNote, cursor: &mut Cursor) -> (u8, u8) {
        let (voice, staff) = if written.chord { cursor.chord_place } else { (1, 1) };
        let named = Some(written.voice.as_str()).filter(|voice| !voice.is_empty());
        let voice = named.map_or(voice, |named| self.voice_number(named));
        let place = (voice, written.staff.unwrap_or(staff));
        if !written.chord {
            cursor.chord_place = place;
        }
        place
    }

    /// As the file numbers it, where it is a number.
    fn voice_number(&mut self, voice: &str) -> u8 {
        if let Some(number) = voice.parse::<u8>().ok().filter(|number| *number > 0) {
            return number;
        }
        self.voices.number(voice)
    }

    fn shift(
        &mut self,
        document: &mut Document<'_>,
        cursor: &mut Cursor,
        forward: bool,
    ) -> Result<(), ReadError> {
        let mut duration = Quarters::ZERO;
        while let Some(child) = document.xml.child()? {
            match child.name() {
                "duration" => duration = document.number("duration")?,
                _ => document.xml.skip()?,
            }
        }
        let duration = duration.over(self.divisions).ok_or_else(|| too_fine(document))?;
        let at = if forward { cursor.at.plus(duration) } else { cursor.at.minus(duration) };
        cursor.at = at.ok_or_else(|| too_fine(document))?;
        cursor.exact = None;
        cursor.chord_onset = cursor.at;
        cursor.filled = cursor.filled.max(cursor.at);
        Ok(())
    }

    fn attributes(&mut self, document: &mut Document<'_>, cursor: &mut Cursor) -> Result<(), ReadError> {
        let mut written_key = None;
        if !cursor.at.is_zero() {
            cursor.signed.get_or_insert_with(|| self.signatures.clone());
        }
        while let Some(child) = document.xml.child()? {
            match child.name() {
                "divisions" => {
                    self.divisions = document.number("divisions")?;
                    if self.divisions.is_zero() {
                        return Err(document.fail("divisions must be above 0; export the score again"));
                    }
                }
                "key" => written_key = written_key.or(key(document)?),
                "time" => {
                    let (numbers, markup) = time(document, &child)?;
                    self.declared.1 = true;
                    self.signatures.time = numbers.unwrap_or(self.signatures.time);
                    self.signatures.time_markup = markup;
                }
                "transpose" => {
                    self.transposition = Transposition::read(document)?;
                    self.transposed |= !self.transposition.keeps_spelling();
                }
                "clef" => {
                    let (staff, clef) = clef(document, &child)?;
                    if self.clefs.len() < SIGNS_MAX {
                        let (measure, at) = (cursor.index, cursor.place());
                        self.clefs.push(ClefDraft { measure, at, staff, clef });
                    }
                }
                _ => document.xml.skip()?,
            }
        }
        // What stands an octave from where it sounds is written so by its clef.
        if !self.transposition.is_none() {
            let octaves = self.transposition.octaves().clamp(-3, 3);
            let here = self.clefs.iter_mut().rev();
            let here = here.take_while(|clef| clef.measure == cursor.index && clef.at == cursor.place());
            here.filter(|clef| clef.clef.octaves == 0).for_each(|clef| clef.clef.octaves = octaves);
        }
        let new_key = written_key.is_some();
        if let Some((key, mode)) = written_key {
            self.declared.0 = true;
            self.signatures.key.fifths = self.transposition.sounding_fifths(key.fifths);
            (self.signatures.key.mode, self.signatures.mode) = (key.mode, mode);
        }
        // The first part's signatures are the score's; a change inside a measure counts from the next one.
        let draft = &mut document.measures[cursor.index];
        if cursor.at.is_zero() && draft.defined_by(&self.part.id) {
            draft.measure.sign(self.signatures());
        } else if new_key && !cursor.at.is_zero() {
            self.key_inside(document, cursor);
        }
        Ok(())
    }

    /// Notes what the part had at the measure's beginning, if that is not the measure's.
    fn note_own(&mut self, document: &mut Document<'_>, cursor: &mut Cursor) {
        let draft = &mut document.measures[cursor.index];
        if draft.defined_by(&self.part.id) || self.declared == (false, false) {
            return;
        }
        let mut own = cursor.signed.take().unwrap_or_else(|| self.signatures.clone());
        let shared = draft.measure.signatures();
        if !self.declared.0 {
            (own.key, own.mode) = (shared.key, shared.mode.clone());
        }
        if !self.declared.1 {
            (own.time, own.time_markup) = (shared.time, shared.time_markup.clone());
        }
        if own != shared {
            self.own.push((cursor.index, own));
        }
    }

    /// A change of key inside a measure stands where it stood: for all, if the measures are by this part.
    fn key_inside(&mut self, document: &mut Document<'_>, cursor: &Cursor) {
        let Signatures { key, mode, .. } = &self.signatures;
        let markup = Markup {
            children: vec![crate::write::key_markup(*key, mode.as_deref())],
            ..Markup::new("attributes")
        };
        let direction = Direction { markup: Some(markup), ..Direction::default() };
        let measure = &mut document.measures[cursor.index];
        let for_all = measure.defined_by(&self.part.id);
        let draft = DirectionDraft { at: cursor.place(), staff: 1, for_all, direction };
        let said = |known: &DirectionDraft| known.at == draft.at && known.direction == draft.direction;
        if for_all {
            note_for_all(document, cursor.index, draft);
        } else if !measure.directions.iter().any(said) && self.directions.len() < SIGNS_MAX {
            self.directions.push((cursor.index, draft));
        }
    }

    /// Puts the notes on the score's time line. A part of several staves becomes a part a staff.
    pub(super) fn finish(self, measures: &[Measure]) -> Vec<Part> {
        let mut staves = self.staves(measures);
        let start = |measure: usize| measures.get(measure).map_or(0, |measure| measure.start);
        let own: BTreeMap<_, _> = self.own.into_iter().map(|(measure, own)| (start(measure), own)).collect();
        staves.iter_mut().for_each(|(_, part)| part.signatures = own.clone());
        for note in self.notes {
            let Some((_, part)) = staves.iter_mut().find(|(staff, _)| *staff == note.staff) else { continue };
            match note.placed(measures) {
                Some(Placed::Note(note)) => part.notes.push(note),
                Some(Placed::Rest(rest)) => part.rests.push(rest),
                None => {}
            }
        }
        for (measure, draft) in self.directions {
            let at = staves.iter().position(|(staff, _)| *staff == draft.staff).unwrap_or(0);
            staves[at].1.directions.extend(draft.placed(start(measure)));
        }
        for draft in self.clefs {
            let Some((_, part)) = staves.iter_mut().find(|(staff, _)| *staff == draft.staff) else {
                continue;
            };
            let onset = draft.at.ticks().and_then(|ticks| start(draft.measure).checked_add(ticks));
            part.clefs.extend(onset.map(|onset| Clef { onset, ..draft.clef }));
        }
        staves.into_iter().map(|(_, part)| in_order(part)).collect()
    }

    /// A part, still empty, for each staff that has notes; one where none has.
    fn staves(&self, measures: &[Measure]) -> Vec<(u8, Part)> {
        let (last, reach) = self.written_until;
        let end =
            measures.get(last).zip(reach.ticks()).and_then(|(last, reach)| last.start.checked_add(reach));
        let with_notes =
            self.notes.iter().filter(|note| note.pitch.is_some() && !note.cue).map(|note| note.staff);
        let mut staves: BTreeSet<u8> = with_notes.collect();
        if staves.is_empty() {
            staves.insert(1);
        }
        let several = staves.len() > 1;
        let part = |(index, staff): (usize, u8)| {
            let mut part = Part { written_until: end.unwrap_or(0), ..self.part.clone() };
            if index > 0 {
                part.id = format!("{}-{staff}", part.id);
            }
            if several {
                part.name = format!("{} (staff {staff})", part.name).trim().to_owned();
            }
            if self.transposed {
                part.remarks.push("for a transposing instrument: it is written as it sounds".to_owned());
            }
            (staff, part)
        };
        staves.into_iter().enumerate().map(part).collect()
    }
}

/// In time order; of a chord, the lowest note has what belongs to all of it.
fn in_order(mut part: Part) -> Part {
    part.notes.sort_by_key(|note| (note.onset, note.voice, note.pitch.midi));
    part.rests = cue_chords(part.rests);
    part.clefs.sort_by_key(|clef| clef.onset);
    part.directions.sort_by_key(|direction| direction.onset);
    let together = |a: &Note, b: &Note| (a.onset, a.voice, a.duration) == (b.onset, b.voice, b.duration);
    for chord in part.notes.chunk_by_mut(together).filter(|chord| chord.len() > 1) {
        let fermata = chord.iter().any(|note| note.fermata);
        chord.iter_mut().for_each(|note| note.fermata = fermata);
        let (lowest, others) = chord.split_at_mut(1);
        for note in others {
            let (lowest, notation) = (&mut lowest[0].notation, &mut note.notation);
            lowest.lyrics.append(&mut notation.lyrics);
            lowest.graces.append(&mut notation.graces);
            lowest.graces_after.append(&mut notation.graces_after);
            let own =
                |mark: &mut Markup| !["accidental", "notehead", "technical"].contains(&mark.name.as_str());
            lowest.marks.extend(notation.marks.extract_if(.., own));
        }
    }
    part
}

/// Rests in time order. Cue notes that sound together are one.
fn cue_chords(mut rests: Vec<Rest>) -> Vec<Rest> {
    rests.sort_by_key(|rest| (rest.onset, rest.voice));
    rests.dedup_by(|next, rest| {
        let together = (next.onset, next.voice, next.duration) == (rest.onset, rest.voice, rest.duration)
            && !next.cue.is_empty()
            && !rest.cue.is_empty();
        if together {
            rest.cue.append(&mut next.cue);
        }
        together
    });
    rests
}

fn take_graces(waiting: &mut Vec<(u8, Grace)>, voice: u8) -> Vec<Grace> {
    waiting.extract_if(.., |(of, _)| *of == voice).map(|(_, grace)| grace).collect()
}

pub(super) fn too_fine(document: &Document<'_>) -> ReadError {
    document.fail(
        "durations and divisions that do not fit together (too long or too fine); export the score again",
    )
}

//! What may come next: the given tokens, the order of a frame, and the rules for free voices.
//!
//! A frame is: the fermata, where there is one; then notes from the soprano down, each pitch once; then `|||`, or END
//! after the last frame. Which voice sings which note is not said by the tokens: two voices may share one. So a cursor
//! keeps every way in which voices could have sung what was said ([`Chord`]); a token may come if one of them can go on
//! to the frame's end by all rules. There are no dead ends.

use kapell_music::encode::Token;

use super::task::{Frame, Given, Law, Task, VOICES, triad_classes};

/// In place of a pitch: the voice rests.
pub(super) const SILENT: u8 = 128;

/// The pitches of a frame so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Notes {
    /// A bit each.
    sounding: u128,
    struck: bool,
}

impl Notes {
    fn has(self, midi: u8) -> bool {
        self.sounding >> midi & 1 == 1
    }

    fn with(self, midi: u8, struck: bool) -> Self {
        Self { sounding: self.sounding | 1 << midi, struck: self.struck || struck }
    }
}

/// A way to sing the notes of a frame so far: what each voice, from the soprano down, does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Chord {
    /// What each voice sang in the frame before.
    before: [u8; VOICES],
    now: [u8; VOICES],
    /// Voices that are decided.
    decided: usize,
    /// The lowest note so far; `SILENT` before the first.
    last: u8,
    /// Whether no free voice may move in parallel fifths or octaves with another.
    no_parallels: bool,
}

impl Chord {
    /// Before a frame's first note. Where parallels cannot be avoided, they are let through.
    fn new(before: [u8; VOICES], frame: &Frame, law: &Law) -> Self {
        let free = Self { before, now: [SILENT; VOICES], decided: 0, last: SILENT, no_parallels: false };
        let strict = Self { no_parallels: law.no_parallels, ..free };
        if strict.completes(frame, law, Notes::default()) { strict } else { free }
    }

    /// Whether the law leaves any chord over what is given in a frame.
    pub(super) fn can_be(frame: &Frame, law: &Law) -> bool {
        Self::new([SILENT; VOICES], frame, law).completes(frame, law, Notes::default())
    }

    /// With the next voice singing a note of its own, or one of a voice above, or nothing.
    fn then(self, midi: u8) -> Self {
        let mut next = self;
        next.now[self.decided] = midi;
        next.decided += 1;
        next
    }

    /// Whether the next voice would move by this note in parallel fifths, octaves or unisons with a voice above: both
    /// move the same way and are as far apart as before. Two given voices may.
    fn is_parallel(self, frame: &Frame, midi: u8) -> bool {
        if !self.no_parallels {
            return false;
        }
        let given = |voice: usize| matches!(frame.voices[voice], Given::Note { .. });
        let step = |from: u8, to: u8| i16::from(to) - i16::from(from);
        let (voice, from) = (self.decided, self.before[self.decided]);
        (0..voice).any(|above| {
            let (above_from, above_to) = (self.before[above], self.now[above]);
            let sounds = from != SILENT && above_from != SILENT && above_to != SILENT;
            let apart = step(from, above_from).rem_euclid(12);
            sounds
                && !(given(voice) && given(above))
                && (apart == 0 || apart == 7)
                && apart == step(midi, above_to).rem_euclid(12)
                && step(from, midi) * step(above_from, above_to) > 0
        })
    }

    fn with_note(self, midi: u8) -> Self {
        Self { last: midi, ..self.then(midi) }
    }

    /// What the next voice may do without a token: nothing, or share a note above.
    fn skips(self, frame: &Frame, law: &Law, notes: Notes) -> impl Iterator<Item = Self> {
        let (shared, rest) = match frame.voices.get(self.decided) {
            None => (None, false),
            Some(Given::Rest) => (None, true),
            Some(&Given::Note { midi, .. }) => (notes.has(midi).then_some(midi), false),
            Some(Given::Free) => {
                let within = self.last != SILENT && law.pitches[self.decided] >> self.last & 1 == 1;
                (within.then_some(self.last), law.may_rest)
            }
        };
        let shared = shared.filter(|&midi| !self.is_parallel(frame, midi));
        shared.map(|midi| self.then(midi)).into_iter().chain(rest.then(|| self.then(SILENT)))
    }

    /// The pitches of which the next voice may sing one as a note of its own, if it is free.
    fn own_notes(self, frame: &Frame, law: &Law, notes: Notes) -> u128 {
        let below = if law.may_cross || self.last == SILENT { u128::MAX } else { (1 << self.last) - 1 };
        let mut own = law.pitches[self.decided] & below & !notes.sounding;
        if self.no_parallels && self.before[self.decided] != SILENT {
            let parallel = (0..SILENT).filter(|&midi| own >> midi & 1 == 1 && self.is_parallel(frame, midi));
            own &= !parallel.fold(0, |bits, midi| bits | 1 << midi);
        }
        let Some(triads) = law.triads else { return own };
        let fitting = (0..24).filter(|&number| triads >> number & 1 == 1).map(triad_pitches);
        let fitting = fitting.filter(|pitches| notes.sounding & !pitches == 0);
        own & fitting.fold(0, |all, pitches| all | pitches)
    }

    /// Whether the voices left can be sung to the end of the frame.
    fn completes(self, frame: &Frame, law: &Law, notes: Notes) -> bool {
        let Some(&given) = frame.voices.get(self.decided) else { return law.accepts(notes) };
        if let Given::Note { midi, tied } = given
            && !notes.has(midi)
        {
            let in_order = midi < self.last || law.may_cross;
            return in_order
                && !self.is_parallel(frame, midi)
                && self.with_note(midi).completes(frame, law, notes.with(midi, !tied));
        }
        if given == Given::Free {
            let mut own = self.own_notes(frame, law, notes);
            while own != 0 {
                let midi = highest(own);
                let struck = self.before[self.decided] != midi;
                if self.with_note(midi).completes(frame, law, notes.with(midi, struck)) {
                    return true;
                }
                // The highest note leaves the most room: it is nearly always the first that does.
                own &= !(1 << midi);
            }
        }
        self.skips(frame, law, notes).any(|next| next.completes(frame, law, notes))
    }

    /// All ways to sing one more note.
    fn sing(self, frame: &Frame, law: &Law, notes: Notes, note: (u8, bool), ways: &mut Vec<Self>) {
        let (midi, tied) = note;
        let takes = match frame.voices.get(self.decided) {
            None | Some(Given::Rest) => false,
            Some(&Given::Note { midi: given, tied: given_tied }) => {
                (midi, tied) == (given, given_tied) && !notes.has(midi) && !self.is_parallel(frame, midi)
            }
            Some(Given::Free) => {
                let held = !tied || self.before[self.decided] == midi;
                held && self.own_notes(frame, law, notes) >> midi & 1 == 1
            }
        };
        if takes {
            let way = self.with_note(midi);
            if !ways.contains(&way) && way.completes(frame, law, notes.with(midi, !tied)) {
                ways.push(way);
            }
        }
        for next in self.skips(frame, law, notes) {
            next.sing(frame, law, notes, note, ways);
        }
    }

    /// All ways in which the frame is over now.
    fn close(self, frame: &Frame, law: &Law, notes: Notes, ways: &mut Vec<[u8; VOICES]>) {
        if self.decided == VOICES {
            if law.accepts(notes) && !ways.contains(&self.now) {
                ways.push(self.now);
            }
            return;
        }
        for next in self.skips(frame, law, notes) {
            next.close(frame, law, notes, ways);
        }
    }

    /// Adds the notes that may be sung now.
    fn allow(self, frame: &Frame, law: &Law, notes: Notes, allowed: &mut Allowed) {
        match frame.voices.get(self.decided) {
            None | Some(Given::Rest) => {}
            Some(&Given::Note { midi, tied }) => {
                let next = self.with_note(midi);
                if !notes.has(midi)
                    && !self.is_parallel(frame, midi)
                    && next.completes(frame, law, notes.with(midi, !tied))
                {
                    *(if tied { &mut allowed.tied } else { &mut allowed.struck }) |= 1 << midi;
                }
            }
            Some(Given::Free) => {
                let own = self.own_notes(frame, law, notes);
                let mut unseen = own & !allowed.struck;
                while unseen != 0 {
                    let midi = highest(unseen);
                    unseen &= !(1 << midi);
                    if self.with_note(midi).completes(frame, law, notes.with(midi, true)) {
                        allowed.struck |= 1 << midi;
                    }
                }
                let held = self.before[self.decided];
                if held != SILENT
                    && own >> held & 1 == 1
                    && self.with_note(held).completes(frame, law, notes.with(held, false))
                {
                    allowed.tied |= 1 << held;
                }
            }
        }
        for next in self.skips(frame, law, notes) {
            next.allow(frame, law, notes, allowed);
        }
    }
}

impl Law {
    /// Whether a whole frame may have these notes.
    fn accepts(&self, notes: Notes) -> bool {
        let enough = !notes.struck || notes.sounding.count_ones() as usize >= self.notes_min;
        let Some(triads) = self.triads else { return enough };
        let is = |number: u32| {
            let [root, third, _] = triad_classes(number);
            let bass = notes.sounding.trailing_zeros() % 12;
            triads >> number & 1 == 1
                && notes.sounding & !triad_pitches(number) == 0
                && bass == u32::from(root)
                && notes.sounding & of_class(third) != 0
        };
        enough && (notes.sounding == 0 || (0..24).any(is))
    }
}

fn highest(pitches: u128) -> u8 {
    u8::try_from(127 - pitches.leading_zeros()).unwrap_or(0)
}

/// Every pitch of a pitch class.
const fn of_class(class: u8) -> u128 {
    let (mut bits, mut midi) = (0, class as u32);
    while midi < 128 {
        bits |= 1 << midi;
        midi += 12;
    }
    bits
}

/// Every pitch of a triad.
fn triad_pitches(number: u32) -> u128 {
    const ALL: [u128; 24] = {
        let (mut all, mut number) = ([0; 24], 0);
        while number < 24 {
            let [root, third, fifth] = triad_classes(number);
            all[number as usize] = of_class(root) | of_class(third) | of_class(fifth);
            number += 1;
        }
        all
    };
    ALL[number as usize]
}

/// The ways to sing the notes of one whole frame, each as what every voice sings, behind a frame that was sung as
/// `before`.
pub(super) fn ways(task: &Task, at: usize, before: [u8; VOICES], sung: &[(u8, bool)]) -> Vec<[u8; VOICES]> {
    let (frame, law) = (task.frame(at), task.law(at));
    let (mut chords, mut notes) = (vec![Chord::new(before, &frame, law)], Notes::default());
    for &note in sung {
        let mut next = Vec::new();
        chords.iter().for_each(|chord| chord.sing(&frame, law, notes, note, &mut next));
        notes = notes.with(note.0, !note.1);
        chords = next;
    }
    let mut ways = Vec::new();
    chords.iter().for_each(|chord| chord.close(&frame, law, notes, &mut ways));
    ways
}

/// The tokens that may come next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Allowed {
    /// Pitches that may be struck and held, a bit each.
    pub struck: u128,
    pub tied: u128,
    pub fermata: bool,
    pub frame_end: bool,
    pub end: bool,
}

impl Allowed {
    /// Whether a token is among them.
    #[must_use]
    pub fn has(&self, token: Token) -> bool {
        match token {
            Token::Start => false,
            Token::End => self.end,
            Token::FrameEnd => self.frame_end,
            Token::Fermata => self.fermata,
            Token::Note { midi, tied } => {
                midi < SILENT && (if tied { self.tied } else { self.struck }) >> midi & 1 == 1
            }
        }
    }
}

/// How far a piece has come, behind START. Cheap to clone, so that a search can branch.
#[derive(Debug, Clone)]
pub struct Cursor {
    frame: usize,
    fermata: bool,
    notes: Notes,
    /// The ways to sing the frame so far.
    chords: Vec<Chord>,
    ended: bool,
}

impl Cursor {
    /// Behind START.
    #[must_use]
    pub fn new(task: &Task) -> Self {
        Self {
            frame: 0,
            fermata: false,
            notes: Notes::default(),
            chords: vec![Chord::new([SILENT; VOICES], &task.frame(0), task.law(0))],
            ended: false,
        }
    }

    /// Index of the current frame.
    #[must_use]
    pub fn frame(&self) -> usize {
        self.frame
    }

    /// Whether END was said.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// What may come next; nothing behind END.
    #[must_use]
    pub fn allowed(&self, task: &Task) -> Allowed {
        let mut allowed = Allowed::default();
        if self.ended {
            return allowed;
        }
        let (frame, law) = (task.frame(self.frame), task.law(self.frame));
        if frame.fermata != Some(false) && !self.fermata && self.notes.sounding == 0 {
            allowed.fermata = true;
            if frame.fermata == Some(true) {
                return allowed;
            }
        }
        for chord in &self.chords {
            chord.allow(&frame, law, self.notes, &mut allowed);
        }
        let mut closed = Vec::new();
        self.chords.iter().for_each(|chord| chord.close(&frame, law, self.notes, &mut closed));
        if !closed.is_empty() {
            let last = task.is_last(self.frame);
            allowed.frame_end = last != Some(true);
            allowed.end = last == Some(true) || (last.is_none() && self.notes.sounding != 0);
        }
        allowed
    }

    /// Goes on over a token that was allowed.
    pub fn push(&mut self, task: &Task, token: Token) {
        let (frame, law) = (task.frame(self.frame), task.law(self.frame));
        match token {
            Token::Start => *self = Self::new(task),
            Token::End => self.ended = true,
            Token::Fermata => self.fermata = true,
            Token::Note { midi, tied } => {
                let mut ways = Vec::with_capacity(self.chords.len());
                for chord in &self.chords {
                    chord.sing(&frame, law, self.notes, (midi, tied), &mut ways);
                }
                self.chords = ways;
                self.notes = self.notes.with(midi, !tied);
            }
            Token::FrameEnd => {
                let mut ways = Vec::with_capacity(self.chords.len());
                self.chords.iter().for_each(|chord| chord.close(&frame, law, self.notes, &mut ways));
                self.frame += 1;
                let (frame, law) = (task.frame(self.frame), task.law(self.frame));
                self.chords = ways.into_iter().map(|before| Chord::new(before, &frame, law)).collect();
                self.fermata = false;
                self.notes = Notes::default();
            }
        }
    }
}

#[cfg(test)]
mod tests;

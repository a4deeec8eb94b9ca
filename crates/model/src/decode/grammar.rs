//! What may come next: the tokens that the melody forces, and the grammar of frames.
//!
//! A frame is: the fermata, where there is one; then notes in descending order, the soprano's first; then `|||`, or
//! END after the last frame. So no pitch stands twice in a frame and no voice crosses another. A note may be tied
//! only if its pitch sounded in the frame before, in a voice that can still have it. Nothing says how many notes a
//! frame has, but the limit.

use kapell_music::encode::Token;

/// Notes a frame, at most: one a voice.
pub const NOTES_MAX: usize = 4;

/// One frame of a melody, as the model sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MelodyFrame {
    /// MIDI pitch and whether it goes on from the frame before; none where the melody rests.
    pub soprano: Option<(u8, bool)>,
    pub fermata: bool,
}

/// What is decoded.
#[derive(Debug, Clone, Copy)]
pub enum Task<'a> {
    /// Voices under a given melody. It has a frame at least.
    Harmonize(&'a [MelodyFrame]),
    /// All voices, until the model ends the piece, or the limit does.
    Compose { frames_max: usize },
}

/// The next token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// There is no choice.
    Forced(Token),
    /// Whatever [`Cursor::allows`].
    Free,
    /// The piece has ended.
    Done,
}

/// How far a piece has come. Cheap to clone, so that a search can branch.
#[derive(Debug, Clone)]
pub struct Cursor<'a> {
    task: Task<'a>,
    /// Index of the current frame; none before START.
    frame: Option<usize>,
    fermata: bool,
    /// Of the current frame so far, and of the one before.
    notes: Vec<Placed>,
    before: Vec<Placed>,
    ended: bool,
}

/// A note, and the highest voice that can have it: 0 is the soprano.
#[derive(Debug, Clone, Copy)]
struct Placed {
    midi: u8,
    voice: usize,
}

impl<'a> Cursor<'a> {
    /// Before START.
    #[must_use]
    pub fn new(task: Task<'a>) -> Self {
        Self {
            task,
            frame: None,
            fermata: false,
            notes: Vec::with_capacity(NOTES_MAX),
            before: Vec::with_capacity(NOTES_MAX),
            ended: false,
        }
    }

    /// What may come next.
    #[must_use]
    pub fn next(&self) -> Next {
        let Some(frame) = self.frame else { return Next::Forced(Token::Start) };
        if self.ended {
            return Next::Done;
        }
        if let Some(given) = self.given(frame) {
            if given.fermata && !self.fermata {
                return Next::Forced(Token::Fermata);
            }
            if let Some((midi, tied)) = given.soprano
                && self.notes.is_empty()
            {
                return Next::Forced(Token::Note { midi, tied });
            }
        }
        match (self.voice(frame) >= NOTES_MAX, self.closing(frame)) {
            (true, Closing::Frame) => Next::Forced(Token::FrameEnd),
            (true, Closing::Piece) => Next::Forced(Token::End),
            _ => Next::Free,
        }
    }

    /// Whether a token may come next where the choice is free.
    #[must_use]
    pub fn allows(&self, token: Token) -> bool {
        let Some(frame) = self.frame else { return false };
        match (token, self.closing(frame)) {
            (Token::Start, _) => false,
            (Token::FrameEnd, closing) => closing != Closing::Piece,
            (Token::End, closing) => closing != Closing::Frame,
            (Token::Fermata, _) => self.given(frame).is_none() && !self.fermata && self.notes.is_empty(),
            (Token::Note { midi, tied }, _) => {
                let voice = if tied { self.tied_voice(frame, midi) } else { Some(self.voice(frame)) };
                voice.is_some_and(|voice| voice < NOTES_MAX)
                    && self.notes.last().is_none_or(|above| midi < above.midi)
            }
        }
    }

    /// Goes on over a token that was forced or allowed.
    pub fn push(&mut self, token: Token) {
        match token {
            Token::Start => self.frame = Some(0),
            Token::End => self.ended = true,
            Token::Fermata => self.fermata = true,
            Token::Note { midi, tied } => {
                let frame = self.frame.unwrap_or(0);
                let held = if tied { self.tied_voice(frame, midi) } else { None };
                self.notes.push(Placed { midi, voice: held.unwrap_or_else(|| self.voice(frame)) });
            }
            Token::FrameEnd => {
                self.frame = self.frame.map(|frame| frame + 1);
                self.fermata = false;
                std::mem::swap(&mut self.notes, &mut self.before);
                self.notes.clear();
            }
        }
    }

    fn given(&self, frame: usize) -> Option<MelodyFrame> {
        match self.task {
            Task::Harmonize(melody) => melody.get(frame).copied(),
            Task::Compose { .. } => None,
        }
    }

    /// The highest voice that can have the next note; [`NOTES_MAX`] if none is left. While the melody rests, the
    /// soprano does.
    fn voice(&self, frame: usize) -> usize {
        match (self.notes.last(), self.given(frame)) {
            (Some(above), _) => above.voice + 1,
            (None, Some(MelodyFrame { soprano: None, .. })) => 1,
            (None, _) => 0,
        }
    }

    /// The highest voice that can have the next note and may have held its pitch in the frame before.
    fn tied_voice(&self, frame: usize, midi: u8) -> Option<usize> {
        let at = self.before.iter().position(|held| held.midi == midi)?;
        // Each of the notes below it had a voice of its own.
        let lowest = NOTES_MAX - (self.before.len() - at);
        let voice = self.voice(frame).max(self.before[at].voice);
        (voice <= lowest).then_some(voice)
    }

    /// What can close the current frame.
    fn closing(&self, frame: usize) -> Closing {
        let last = match self.task {
            Task::Harmonize(melody) => frame + 1 >= melody.len(),
            Task::Compose { frames_max } => frame + 1 >= frames_max,
        };
        match self.task {
            _ if last => Closing::Piece,
            Task::Compose { .. } if !self.notes.is_empty() => Closing::Either,
            _ => Closing::Frame,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Closing {
    /// `|||`: another frame follows.
    Frame,
    /// END.
    Piece,
    /// The model may choose.
    Either,
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn note(midi: u8, tied: bool) -> Token {
        Token::Note { midi, tied }
    }

    fn after<'a>(task: Task<'a>, tokens: &[Token]) -> Cursor<'a> {
        let mut cursor = Cursor::new(task);
        for &token in tokens {
            assert!(cursor.next() == Next::Forced(token) || cursor.allows(token), "{token} may not come");
            cursor.push(token);
        }
        cursor
    }

    #[test]
    fn a_melody_forces_its_notes_ties_fermatas_and_the_end() {
        let melody = [
            MelodyFrame { soprano: Some((72, false)), fermata: false },
            MelodyFrame { soprano: Some((72, true)), fermata: true },
        ];
        let task = Task::Harmonize(&melody);
        let mut cursor = Cursor::new(task);
        for token in [Token::Start, note(72, false)] {
            assert_eq!(cursor.next(), Next::Forced(token));
            cursor.push(token);
        }
        assert_eq!(cursor.next(), Next::Free);
        assert!(
            !cursor.allows(Token::Fermata) && !cursor.allows(Token::End) && cursor.allows(Token::FrameEnd)
        );
        cursor.push(Token::FrameEnd);
        for token in [Token::Fermata, note(72, true)] {
            assert_eq!(cursor.next(), Next::Forced(token));
            cursor.push(token);
        }
        assert!(cursor.allows(Token::End) && !cursor.allows(Token::FrameEnd) && !cursor.allows(Token::Start));
        cursor.push(Token::End);
        assert_eq!(cursor.next(), Next::Done);
    }

    #[test]
    fn notes_descend_and_tie_only_to_what_sounded_before() {
        let melody = [MelodyFrame { soprano: Some((72, false)), fermata: false }; 2];
        let task = Task::Harmonize(&melody);
        let cursor =
            after(task, &[Token::Start, note(72, false), note(64, false), Token::FrameEnd, note(72, false)]);
        assert!(
            cursor.allows(note(64, true)) && cursor.allows(note(64, false)) && cursor.allows(note(65, false))
        );
        assert!(
            !cursor.allows(note(65, true))
                && !cursor.allows(note(72, true))
                && !cursor.allows(note(73, false))
        );
    }

    #[test]
    fn a_voice_cannot_hold_what_another_had() {
        let melody = [
            MelodyFrame { soprano: Some((64, false)), fermata: false },
            MelodyFrame { soprano: Some((72, false)), fermata: false },
        ];
        let full = [64, 60, 55, 48].map(|midi| note(midi, false));
        let mut tokens = vec![Token::Start];
        tokens.extend(full);
        tokens.extend([Token::FrameEnd, note(72, false)]);
        let cursor = after(Task::Harmonize(&melody), &tokens);
        // The soprano had 64. Only where a frame has fewer notes may another voice have had it, too.
        assert!(
            !cursor.allows(note(64, true)) && cursor.allows(note(64, false)) && cursor.allows(note(60, true))
        );
        tokens.remove(4);
        assert!(after(Task::Harmonize(&melody), &tokens).allows(note(64, true)));
        // The bass goes on: there is no voice below it.
        let mut cursor = cursor;
        cursor.push(note(48, true));
        assert_eq!(cursor.next(), Next::Forced(Token::End));
    }

    #[test]
    fn after_four_notes_a_frame_must_end() {
        let melody = [MelodyFrame { soprano: Some((72, false)), fermata: false }; 2];
        let chord = [72, 67, 64, 48].map(|midi| note(midi, false));
        let mut tokens = vec![Token::Start];
        tokens.extend(chord);
        let mut cursor = after(Task::Harmonize(&melody), &tokens);
        assert_eq!(cursor.next(), Next::Forced(Token::FrameEnd));
        cursor.push(Token::FrameEnd);
        chord.into_iter().for_each(|token| cursor.push(token));
        assert_eq!(cursor.next(), Next::Forced(Token::End));
    }

    #[test]
    fn while_the_melody_rests_three_voices_are_free() {
        let melody = [MelodyFrame { soprano: None, fermata: false }; 2];
        let cursor = after(
            Task::Harmonize(&melody),
            &[Token::Start, note(67, false), note(64, false), note(48, false)],
        );
        assert_eq!(cursor.next(), Next::Forced(Token::FrameEnd));
        let empty = after(Task::Harmonize(&melody), &[Token::Start]);
        assert!(empty.allows(Token::FrameEnd) && !empty.allows(Token::End));
    }

    #[test]
    fn a_composition_ends_after_a_frame_of_notes_or_at_its_limit() {
        let task = Task::Compose { frames_max: 2 };
        let start = after(task, &[Token::Start]);
        assert!(start.allows(Token::Fermata) && !start.allows(Token::End));
        let fermata = after(task, &[Token::Start, Token::Fermata]);
        assert!(!fermata.allows(Token::Fermata));
        let sounding = after(task, &[Token::Start, note(60, false)]);
        assert!(
            sounding.allows(Token::End)
                && sounding.allows(Token::FrameEnd)
                && !sounding.allows(Token::Fermata)
        );
        let last = after(task, &[Token::Start, note(60, false), Token::FrameEnd]);
        assert!(last.allows(Token::End) && !last.allows(Token::FrameEnd));
    }
}

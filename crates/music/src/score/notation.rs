//! How music is written beyond what sounds: words, grace notes, marks, bar lines, clefs and directions.
//!
//! Models never see any of it; a melody keeps it on its way from a score to its harmonisation.

use super::{Mode, Pitch, TICKS_PER_QUARTER};

/// An element of MusicXML that is taken over as it stands, but for its place on the page.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Markup {
    pub name: String,
    pub attributes: Vec<(String, String)>,
    pub text: String,
    pub children: Vec<Markup>,
}

impl Markup {
    /// An element with nothing in it.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), ..Self::default() }
    }

    /// With an attribute more.
    #[must_use]
    pub fn with(mut self, key: &str, value: &str) -> Self {
        self.attributes.push((key.to_owned(), value.to_owned()));
        self
    }

    #[must_use]
    pub fn attribute(&self, key: &str) -> Option<&str> {
        self.attributes.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    /// The first child of that name.
    #[must_use]
    pub fn child(&self, name: &str) -> Option<&Markup> {
        self.children.iter().find(|child| child.name == name)
    }

    /// The element itself, or any inside it, of that name.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        self.name == name || self.children.iter().any(|child| child.contains(name))
    }
}

/// How a note or rest is written.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Notation {
    /// The file's value for it; none: whoever writes it finds one.
    pub value: Option<NoteValue>,
    /// A syllable a verse. Of a chord, its lowest note has them.
    pub lyrics: Vec<Lyric>,
    /// Before the note.
    pub graces: Vec<Grace>,
    /// Behind it, at a measure's end.
    pub graces_after: Vec<Grace>,
    /// Fermatas with their shape, slurs, articulations, ornaments, brackets of tuplets, written accidentals.
    pub marks: Vec<Markup>,
    /// It sounds and is not printed, such as a trill's notes.
    pub hidden: bool,
}

impl Notation {
    /// Of one verse with one syllable: "-" at its end says that the word goes on.
    #[must_use]
    pub fn sung(syllable: &str) -> Self {
        let (text, goes_on) = match syllable.strip_suffix('-') {
            Some(text) => (text, true),
            None => (syllable, false),
        };
        let syllabic = Some(if goes_on { Syllabic::Begin } else { Syllabic::Single });
        let syllables = vec![Syllable { text: text.to_owned(), syllabic, elision: None }];
        Self {
            lyrics: vec![Lyric { verse: "1".to_owned(), syllables, ..Lyric::default() }],
            ..Self::default()
        }
    }
}

/// A note value: its name in MusicXML ("quarter", "16th"), dots, and the tuplet that it is in.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NoteValue {
    pub name: String,
    pub dots: u8,
    pub tuplet: Option<Tuplet>,
}

/// So many notes in the time of so many.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tuplet {
    pub actual: u32,
    pub normal: u32,
    /// The value that is counted, where the file says so.
    pub normal_type: Option<String>,
}

/// Note values from long to 256th: MusicXML's name and the length in ticks.
pub const NOTE_VALUES: [(&str, i64); 11] = [
    ("long", 16 * TICKS_PER_QUARTER),
    ("breve", 8 * TICKS_PER_QUARTER),
    ("whole", 4 * TICKS_PER_QUARTER),
    ("half", 2 * TICKS_PER_QUARTER),
    ("quarter", TICKS_PER_QUARTER),
    ("eighth", TICKS_PER_QUARTER / 2),
    ("16th", TICKS_PER_QUARTER / 4),
    ("32nd", TICKS_PER_QUARTER / 8),
    ("64th", TICKS_PER_QUARTER / 16),
    ("128th", TICKS_PER_QUARTER / 32),
    ("256th", TICKS_PER_QUARTER / 64),
];

impl NoteValue {
    /// Whether a note of so many ticks can be written so, to within two ticks.
    #[must_use]
    pub fn lasts(&self, ticks: i64) -> bool {
        let Some((_, plain)) = NOTE_VALUES.iter().find(|(name, _)| *name == self.name) else { return false };
        let dots = self.dots.min(8);
        // 2^dots and 2^(dots+1)-1 in place of the sum of halves; then the tuplet.
        let (mut numerator, mut denominator) = (i128::from(*plain) * ((2 << dots) - 1), 1_i128 << dots);
        if let Some(tuplet) = &self.tuplet {
            numerator *= i128::from(tuplet.normal);
            denominator *= i128::from(tuplet.actual);
        }
        denominator > 0 && (numerator - i128::from(ticks) * denominator).abs() < 2 * denominator
    }
}

/// What one verse sings to a note.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Lyric {
    /// "1", "2", or whatever the file calls the verse.
    pub verse: String,
    /// Such as "chorus".
    pub name: Option<String>,
    /// More than one where syllables are drawn together.
    pub syllables: Vec<Syllable>,
    /// A line behind it for a melisma: "", or "start", "continue", "stop".
    pub extend: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Syllable {
    pub text: String,
    pub syllabic: Option<Syllabic>,
    /// The sign that draws it to the syllable before it.
    pub elision: Option<String>,
}

/// A syllable's place in its word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Syllabic {
    Single,
    Begin,
    Middle,
    End,
}

impl Syllabic {
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "single" => Some(Self::Single),
            "begin" => Some(Self::Begin),
            "middle" => Some(Self::Middle),
            "end" => Some(Self::End),
            _ => None,
        }
    }

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Single => "single",
            Self::Begin => "begin",
            Self::Middle => "middle",
            Self::End => "end",
        }
    }

    /// Whether another syllable of the word follows.
    #[must_use]
    pub fn goes_on(self) -> bool {
        matches!(self, Self::Begin | Self::Middle)
    }
}

impl Lyric {
    /// Its words in a line; "-" at the end says that the word goes on.
    #[must_use]
    pub fn words(&self) -> String {
        let texts: Vec<&str> = self.syllables.iter().map(|syllable| syllable.text.as_str()).collect();
        let mut words = texts.join(" ");
        let goes_on = self.syllables.last().and_then(|last| last.syllabic).is_some_and(Syllabic::goes_on);
        if goes_on && !words.is_empty() {
            words.push('-');
        }
        words
    }
}

/// A grace note. It takes no time of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grace {
    pub pitch: Pitch,
    /// Together with the grace note before it.
    pub chord: bool,
    /// With a stroke through its flag.
    pub slash: bool,
    pub tie_from: bool,
    pub tie_to: bool,
    pub value: Option<NoteValue>,
    pub marks: Vec<Markup>,
}

/// A rest that is written. Gaps without one are rests, too.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rest {
    /// Ticks from the score's start.
    pub onset: i64,
    /// Ticks; above 0.
    pub duration: i64,
    pub voice: u8,
    /// For the whole measure.
    pub measure: bool,
    /// Small notes in its place: what another part sounds meanwhile.
    pub cue: Vec<Pitch>,
    pub notation: Notation,
}

/// A clef, from here on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Clef {
    /// Ticks from the score's start.
    pub onset: i64,
    /// G, F, C, percussion.
    pub sign: String,
    pub line: Option<i32>,
    /// Octaves that the notes sound higher than they stand.
    pub octaves: i32,
}

/// Something that stands beside the notes: words, dynamics, a tempo, a sign to jump to.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Direction {
    /// Ticks from the score's start.
    pub onset: i64,
    /// Quarter notes a minute from here on.
    pub tempo: Option<f64>,
    /// A `direction`, `sound`, `attributes` or `barline` of MusicXML; none: a tempo without a sign.
    pub markup: Option<Markup>,
}

/// How a measure is written beyond its signatures and repeats.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct MeasureNotation {
    /// The mode's name where it is neither major nor minor ("dorian").
    pub mode: Option<String>,
    /// The time signature where it is more than two numbers (common, cut, 3+2/8, none).
    pub time: Option<Markup>,
    /// The bar lines as the file has them: repeats, endings, double bars.
    pub left: Option<Markup>,
    pub right: Option<Markup>,
    /// What concerns the whole score: tempi, jumps, signs, rehearsal marks.
    pub directions: Vec<Direction>,
}

/// Someone or something that a score names beside its composer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credit {
    /// lyricist, arranger, translator, ... or rights.
    pub kind: String,
    pub name: String,
}

/// The mode that a signature's word means to a model.
#[must_use]
pub fn mode_named(name: &str) -> Option<Mode> {
    match name {
        "major" | "ionian" => Some(Mode::Major),
        "minor" | "aeolian" => Some(Mode::Minor),
        _ => None,
    }
}

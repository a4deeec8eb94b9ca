//! Keys and metres: what all parts share, and what one part has of its own.

use super::{Direction, KeySignature, Markup, Measure, Part, Score};

/// A key and a metre as they are written.
#[derive(Debug, Clone, PartialEq)]
pub struct Signatures {
    /// Beats and beat type, for example (4, 4).
    pub time: (u32, u32),
    /// As written, where that is more than two numbers.
    pub time_markup: Option<Markup>,
    /// As it sounds.
    pub key: KeySignature,
    /// Its mode's name, where that is neither major nor minor.
    pub mode: Option<String>,
}

/// What a part starts with before it has said anything.
impl Default for Signatures {
    fn default() -> Self {
        Self { time: (4, 4), time_markup: None, key: KeySignature::default(), mode: None }
    }
}

impl Measure {
    /// What the parts have here that have none of their own.
    #[must_use]
    pub fn signatures(&self) -> Signatures {
        let (time_markup, mode) = (self.notation.time.clone(), self.notation.mode.clone());
        Signatures { time: self.time, time_markup, key: self.key, mode }
    }

    /// Gives the measure a key and a metre.
    pub fn sign(&mut self, signatures: Signatures) {
        (self.time, self.key) = (signatures.time, signatures.key);
        (self.notation.time, self.notation.mode) = (signatures.time_markup, signatures.mode);
    }
}

impl Part {
    /// What the part has in a measure, its own or those of all.
    #[must_use]
    pub fn signatures_in(&self, measure: &Measure) -> Signatures {
        self.signatures.get(&measure.start).cloned().unwrap_or_else(|| measure.signatures())
    }
}

impl Score {
    /// Makes a part's signatures those of all: of a score that is made for that part. Nothing sounds differently.
    pub fn sign_by(&mut self, lead: usize) {
        let Some(part) = self.parts.get_mut(lead) else { return };
        let changes: Vec<Direction> = part.directions.extract_if(.., |sign| is_key_change(sign)).collect();
        for change in changes {
            let before = self.measures.partition_point(|measure| measure.start <= change.onset);
            let Some(measure) = self.measures[..before].last_mut() else { continue };
            let signs = &mut measure.notation.directions;
            signs.retain(|sign| sign.onset != change.onset || !is_key_change(sign));
            let at = signs.partition_point(|sign| sign.onset <= change.onset);
            signs.insert(at, change);
        }
        let own = std::mem::take(&mut part.signatures);
        for measure in &mut self.measures {
            let Some(signatures) = own.get(&measure.start) else { continue };
            let shared = measure.signatures();
            for (at, part) in self.parts.iter_mut().enumerate() {
                let theirs = part.signatures.remove(&measure.start).unwrap_or_else(|| shared.clone());
                if at != lead && theirs != *signatures {
                    part.signatures.insert(measure.start, theirs);
                }
            }
            measure.sign(signatures.clone());
        }
    }
}

/// Whether a sign is a change of key inside a measure.
fn is_key_change(sign: &Direction) -> bool {
    sign.markup.as_ref().is_some_and(|markup| markup.name == "attributes" && markup.child("key").is_some())
}

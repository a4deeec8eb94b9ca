//! What a verse sings to a note of MusicXML.

use crate::score::{Lyric, Syllabic, Syllable};

use super::ReadError;
use super::musicxml::Document;
use super::xml::Element;

/// Names that a part gives to its voices and verses where it does not number them, in order of appearance.
#[derive(Default)]
pub(super) struct Names(Vec<String>);

impl Names {
    /// The name's number, from 1. More names than numbers share the last one.
    pub(super) fn number(&mut self, name: &str) -> u8 {
        let known = self.0.iter().position(|known| known == name);
        let index = known.unwrap_or_else(|| {
            if self.0.len() < 255 {
                self.0.push(name.to_owned());
            }
            self.0.len() - 1
        });
        u8::try_from(index + 1).unwrap_or(u8::MAX)
    }
}

/// Gives verses numbers that are none, as "part1verse2"; what they were called becomes their name. Some readers take
/// numbers only.
pub(super) fn number_verses(lyrics: &mut [Lyric], names: &mut Names) {
    for lyric in lyrics.iter_mut().filter(|lyric| lyric.verse.parse::<u16>().is_err()) {
        let name = std::mem::take(&mut lyric.verse);
        lyric.verse = names.number(&name).to_string();
        lyric.name.get_or_insert(name);
    }
}

/// Reads the open `lyric` element to its end; none where it says nothing.
pub(super) fn lyric(document: &mut Document<'_>, element: &Element<'_>) -> Result<Option<Lyric>, ReadError> {
    let verse = document.xml.attribute(element, "number")?.filter(|number| !number.is_empty());
    let mut lyric = Lyric {
        verse: verse.unwrap_or_else(|| "1".to_owned()),
        name: document.xml.attribute(element, "name")?,
        ..Lyric::default()
    };
    // They come before the text that they belong to.
    let (mut syllabic, mut elision) = (None, None);
    while let Some(child) = document.xml.child()? {
        match child.name() {
            "syllabic" => syllabic = Syllabic::parse(&document.xml.content()?),
            "elision" => elision = Some(document.xml.content()?),
            "text" => {
                let text = document.xml.content()?;
                lyric.syllables.push(Syllable { text, syllabic: syllabic.take(), elision: elision.take() });
            }
            "extend" => {
                lyric.extend = Some(document.xml.attribute(&child, "type")?.unwrap_or_default());
                document.xml.skip()?;
            }
            _ => document.xml.skip()?,
        }
    }
    Ok(Some(lyric).filter(|lyric| !lyric.syllables.is_empty() || lyric.extend.is_some()))
}

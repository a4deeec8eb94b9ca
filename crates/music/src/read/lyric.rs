//! What a verse sings to a note of MusicXML.

use crate::score::{Lyric, Syllabic, Syllable};

use super::ReadError;
use super::musicxml::Document;
use super::xml::Element;

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

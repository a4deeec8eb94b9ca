//! Keys, metres and clefs of MusicXML.

use crate::score::{Clef, KeySignature, Markup, mode_named};

use super::ReadError;
use super::musicxml::Document;
use super::xml::Element;

/// Characters of a mode's name, at most.
const MODE_MAX: usize = 40;
/// Characters of what a time signature says, at most.
const TIME_MAX: usize = 400;

/// Reads the open `key` element to its end: the key, and its mode's name where that is neither major nor minor.
pub(super) fn key(document: &mut Document<'_>) -> Result<Option<(KeySignature, Option<String>)>, ReadError> {
    let (mut fifths, mut mode, mut name) = (None, None, None);
    while let Some(child) = document.xml.child()? {
        match child.name() {
            "fifths" => {
                let text = document.xml.content()?;
                let number = text.parse::<i32>().ok().filter(|fifths| (-24..=24).contains(fifths));
                let number = number.ok_or_else(|| document.fail(format!("a key of {text:.20} fifths")))?;
                // Eight sharps and more have flats for a simpler name.
                let simple = if number.abs() > 7 { (number + 5).rem_euclid(12) - 5 } else { number };
                fifths = i8::try_from(simple).ok();
            }
            "mode" => {
                let text = document.xml.content()?;
                mode = mode_named(&text);
                let plain = text.is_empty() || text == "none" || ["major", "minor"].contains(&text.as_str());
                name = (!plain && text.len() <= MODE_MAX).then_some(text);
            }
            _ => document.xml.skip()?,
        }
    }
    Ok(fifths.map(|fifths| (KeySignature { fifths, mode }, name)))
}

/// A time signature's numbers, none where there is no metre; and its element, where that says more.
pub(super) type Metre = (Option<(u32, u32)>, Option<Markup>);

/// Reads the open `time` element to its end: its numbers, none where the music is said to have no metre; and itself,
/// where that says more.
pub(super) fn time(document: &mut Document<'_>, element: &Element<'_>) -> Result<Metre, ReadError> {
    let mut markup = document.xml.markup(element)?;
    let mut beats = 0_u32;
    let mut beat_type = None;
    for child in &markup.children {
        if child.name != "beats" && child.name != "beat-type" {
            continue;
        }
        let numbers = child.text.split('+').map(|number| number.trim().parse::<u32>().ok());
        let sum = numbers.sum::<Option<u32>>().filter(|sum| (1..=1024).contains(sum));
        let Some(sum) = sum else {
            let text = &child.text;
            return Err(document
                .fail(format!("a time signature with {text:.20}; whole numbers up to 1024 are known")));
        };
        if child.name == "beats" {
            beats = beats.saturating_add(sum).min(1024);
        } else {
            beat_type = beat_type.or(Some(sum));
        }
    }
    let numbers = beat_type.filter(|_| beats > 0).map(|beat_type| (beats, beat_type));
    markup.attributes.retain(|(key, value)| key == "symbol" && value != "normal");
    markup.children.retain(|child| ["beats", "beat-type", "senza-misura"].contains(&child.name.as_str()));
    let plain = markup.attributes.is_empty()
        && markup.children.len() == 2
        && markup.children.iter().all(|child| !child.text.contains('+'));
    let length: usize = markup.children.iter().map(|child| child.text.len()).sum();
    let kept = !plain && !markup.children.is_empty() && length <= TIME_MAX;
    Ok((numbers, kept.then_some(markup)))
}

/// Reads the open `clef` element to its end; the staff that it is for, from 1.
pub(super) fn clef(document: &mut Document<'_>, element: &Element<'_>) -> Result<(u8, Clef), ReadError> {
    let staff = document.xml.attribute(element, "number")?;
    let staff = staff.and_then(|number| number.parse::<u8>().ok()).filter(|staff| *staff > 0).unwrap_or(1);
    let mut clef = Clef::default();
    while let Some(child) = document.xml.child()? {
        let name = child.name().to_owned();
        let text = document.xml.content()?;
        match name.as_str() {
            "sign" => clef.sign = text,
            "line" => clef.line = text.parse().ok().filter(|line| (-10..=10).contains(line)),
            "clef-octave-change" => {
                clef.octaves = text.parse().ok().filter(|octaves| (-3..=3).contains(octaves)).unwrap_or(0);
            }
            _ => {}
        }
    }
    Ok((staff, clef))
}

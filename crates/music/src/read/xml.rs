//! XML as a stream of elements: no tree, no entities but the five of XML, errors with line numbers.

use std::borrow::Cow;

use quick_xml::events::{BytesRef, BytesStart, Event};
use quick_xml::reader::Reader;

use super::ReadError;
use crate::score::Markup;

/// Elements of a piece of markup, their depth, and the attributes of each, at most. What is beyond is left out.
const MARKUP_ELEMENTS_MAX: usize = 200;
const MARKUP_DEPTH_MAX: usize = 8;
const MARKUP_ATTRIBUTES_MAX: usize = 24;
/// White space in the sense of XML: a no-break space is a sign like any other, as in "<elision>&#160;</elision>".
const XML_SPACE: [char; 4] = [' ', '\t', '\r', '\n'];
/// Attributes that say where on a page something is, or how it looks there; they would be wrong on another page.
const OF_THE_PAGE: [&str; 9] =
    ["default-", "relative-", "bezier-", "font-", "color", "id", "halign", "valign", "justify"];

/// A document being read, forwards only.
pub(super) struct Xml<'a> {
    text: &'a str,
    reader: Reader<&'a [u8]>,
    name: &'a str,
}

/// An element's start tag.
pub(super) struct Element<'a>(BytesStart<'a>);

impl Element<'_> {
    /// Without a namespace's prefix.
    pub(super) fn name(&self) -> &str {
        self.0.local_name().into_inner()
    }
}

impl<'a> Xml<'a> {
    pub(super) fn new(text: &'a str, name: &'a str) -> Self {
        let mut reader = Reader::from_str(text);
        reader.config_mut().expand_empty_elements = true;
        Self { text, reader, name }
    }

    pub(super) fn name(&self) -> &'a str {
        self.name
    }

    /// The line that is being read, from 1. Counts from the start: for messages only.
    pub(super) fn line(&self) -> usize {
        self.line_at(self.reader.buffer_position())
    }

    fn line_at(&self, position: u64) -> usize {
        let read = usize::try_from(position).unwrap_or(usize::MAX).min(self.text.len());
        let bytes = &self.text.as_bytes()[..read];
        let ends = bytes.iter().enumerate().filter(|&(at, byte)| match byte {
            b'\n' => true,
            // Old Macintosh files end lines by a carriage return alone.
            b'\r' => bytes.get(at + 1) != Some(&b'\n'),
            _ => false,
        });
        1 + ends.count()
    }

    fn ill_formed(&self, what: impl ToString) -> ReadError {
        let what = what.to_string().chars().take(200).collect();
        let line = self.line_at(self.reader.error_position());
        ReadError::Xml { name: self.name.to_owned(), line, what }
    }

    fn entities(&self) -> ReadError {
        ReadError::Entities { name: self.name.to_owned(), line: self.line() }
    }

    fn event(&mut self) -> Result<Event<'a>, ReadError> {
        match self.reader.read_event() {
            Ok(Event::DocType(doctype)) if doctype.contains("<!ENTITY") => Err(self.entities()),
            Ok(event) => Ok(event),
            Err(error) => Err(self.ill_formed(error)),
        }
    }

    /// The document's root element; none in an empty document.
    pub(super) fn root(&mut self) -> Result<Option<Element<'a>>, ReadError> {
        loop {
            match self.event()? {
                Event::Start(start) => return Ok(Some(Element(start))),
                Event::Eof => return Ok(None),
                _ => {}
            }
        }
    }

    /// The next child of the element that is open, or none at that element's end. What is returned is then the open
    /// element: read it to its end (`child` until none, `content` or `skip`) before asking for the next.
    pub(super) fn child(&mut self) -> Result<Option<Element<'a>>, ReadError> {
        loop {
            match self.event()? {
                Event::Start(start) => return Ok(Some(Element(start))),
                Event::End(_) => return Ok(None),
                Event::Eof => return Err(self.ill_formed("it ends in the middle of an element")),
                _ => {}
            }
        }
    }

    /// Reads on to the end of the open element.
    pub(super) fn skip(&mut self) -> Result<(), ReadError> {
        let mut depth = 0_usize;
        loop {
            match self.event()? {
                Event::Start(_) => depth += 1,
                Event::End(_) if depth == 0 => return Ok(()),
                Event::End(_) => depth -= 1,
                Event::Eof => return Err(self.ill_formed("it ends in the middle of an element")),
                _ => {}
            }
        }
    }

    /// The open element's own text, without white space around it, reading to its end. Elements inside are skipped.
    pub(super) fn content(&mut self) -> Result<String, ReadError> {
        let mut content = String::new();
        loop {
            match self.event()? {
                Event::Start(_) => self.skip()?,
                Event::End(_) => return Ok(content.trim_matches(XML_SPACE).to_owned()),
                Event::Text(text) => content.push_str(&text),
                Event::CData(text) => content.push_str(&text),
                Event::GeneralRef(reference) => content.push(self.resolve(&reference)?),
                Event::Eof => return Err(self.ill_formed("it ends in the middle of an element")),
                _ => {}
            }
        }
    }

    /// The open element with what is in it, but for its place on the page, reading to its end.
    pub(super) fn markup(&mut self, element: &Element<'_>) -> Result<Markup, ReadError> {
        let mut room = MARKUP_ELEMENTS_MAX;
        self.markup_within(element, MARKUP_DEPTH_MAX, &mut room)
    }

    fn markup_within(
        &mut self,
        element: &Element<'_>,
        depth: usize,
        room: &mut usize,
    ) -> Result<Markup, ReadError> {
        let attributes = self.attributes(element)?;
        let mut markup = Markup { attributes, ..Markup::new(element.name()) };
        loop {
            match self.event()? {
                Event::Start(start)
                    if depth == 0 || *room == 0 || !is_plain(Element(start.clone()).name()) =>
                {
                    self.skip()?;
                }
                Event::Start(start) => {
                    *room -= 1;
                    markup.children.push(self.markup_within(&Element(start), depth - 1, room)?);
                }
                Event::End(_) => {
                    markup.text = markup.text.trim_matches(XML_SPACE).to_owned();
                    return Ok(markup);
                }
                Event::Text(text) => markup.text.push_str(&text),
                Event::CData(text) => markup.text.push_str(&text),
                Event::GeneralRef(reference) => markup.text.push(self.resolve(&reference)?),
                Event::Eof => return Err(self.ill_formed("it ends in the middle of an element")),
                _ => {}
            }
        }
    }

    /// An element's attributes, without those of the page and of other namespaces.
    fn attributes(&self, element: &Element<'_>) -> Result<Vec<(String, String)>, ReadError> {
        let mut attributes = Vec::new();
        for attribute in element.0.attributes().with_checks(false).take(MARKUP_ATTRIBUTES_MAX) {
            let attribute = attribute.map_err(|error| self.ill_formed(error))?;
            let key = attribute.key.as_ref().to_owned();
            let of_the_page = OF_THE_PAGE.iter().any(|start| match start.strip_suffix('-') {
                Some(_) => key.starts_with(start),
                None => key == *start,
            });
            if of_the_page || !is_plain(&key) {
                continue;
            }
            if let Some(value) = self.attribute(element, &key)? {
                attributes.push((key, value));
            }
        }
        Ok(attributes)
    }

    fn resolve(&self, reference: &BytesRef<'_>) -> Result<char, ReadError> {
        match reference.resolve_char_ref() {
            Ok(Some(character)) => return Ok(character),
            Ok(None) => {}
            Err(error) => return Err(self.ill_formed(error)),
        }
        match &**reference {
            "lt" => Ok('<'),
            "gt" => Ok('>'),
            "amp" => Ok('&'),
            "apos" => Ok('\''),
            "quot" => Ok('"'),
            _ => Err(self.entities()),
        }
    }

    /// An attribute of an element, its references resolved.
    pub(super) fn attribute(&self, element: &Element<'_>, key: &str) -> Result<Option<String>, ReadError> {
        // Without the check for duplicates, which is quadratic in the number of attributes.
        for attribute in element.0.attributes().with_checks(false) {
            let attribute = attribute.map_err(|error| self.ill_formed(error))?;
            if attribute.key.as_ref() != key {
                continue;
            }
            let value = attribute.normalized_value(quick_xml::XmlVersion::Explicit1_0);
            return match value {
                Ok(value) => Ok(Some(value.into_owned())),
                Err(quick_xml::Error::Escape(_)) => Err(self.entities()),
                Err(error) => Err(self.ill_formed(error)),
            };
        }
        Ok(None)
    }
}

/// Whether a name can be written again: letters, digits and hyphens, and no prefix.
fn is_plain(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
    name.starts_with(|c: char| c.is_ascii_alphabetic()) && name.chars().all(plain)
}

/// A document's bytes as text: UTF-8, UTF-16 with its mark, or Latin-1 where the declaration says so.
pub(super) fn decode_text<'a>(bytes: &'a [u8], name: &str) -> Result<Cow<'a, str>, ReadError> {
    let invalid = |line, what: &str| ReadError::Xml { name: name.to_owned(), line, what: what.to_owned() };
    let utf_16 = |rest: &[u8], unit: fn([u8; 2]) -> u16| {
        let units: Vec<u16> = rest.chunks_exact(2).map(|pair| unit([pair[0], pair[1]])).collect();
        String::from_utf16(&units).map(Cow::Owned).map_err(|_| invalid(1, "not the UTF-16 that it begins as"))
    };
    match bytes {
        [0xff, 0xfe, rest @ ..] => return utf_16(rest, u16::from_le_bytes),
        [0xfe, 0xff, rest @ ..] => return utf_16(rest, u16::from_be_bytes),
        _ => {}
    }
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(Cow::Borrowed(text)),
        Err(_) if declares_latin_1(bytes) => {
            Ok(Cow::Owned(bytes.iter().map(|byte| char::from(*byte)).collect()))
        }
        Err(error) => {
            let line = 1 + bytes[..error.valid_up_to()].iter().filter(|byte| **byte == b'\n').count();
            Err(invalid(line, "not valid UTF-8"))
        }
    }
}

fn declares_latin_1(bytes: &[u8]) -> bool {
    let declaration = String::from_utf8_lossy(&bytes[..bytes.len().min(200)]).to_lowercase();
    let declaration = declaration.split("?>").next().unwrap_or("");
    ["iso-8859-1", "latin1", "latin-1", "windows-1252"].iter().any(|encoding| declaration.contains(encoding))
}

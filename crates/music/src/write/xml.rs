//! XML out: indented, an element a line.

use crate::score::Markup;

/// A document being written.
pub(super) struct Xml {
    pub(super) out: String,
    depth: usize,
}

impl Xml {
    pub(super) fn new() -> Self {
        Self { out: String::new(), depth: 0 }
    }

    pub(super) fn line(&mut self, text: &str) {
        self.out.push_str(&"  ".repeat(self.depth));
        self.out.push_str(text);
        self.out.push('\n');
    }

    pub(super) fn open(&mut self, name: &str, attributes: &str) {
        self.line(&format!("<{name}{attributes}>"));
        self.depth += 1;
    }

    pub(super) fn close(&mut self, name: &str) {
        self.depth = self.depth.saturating_sub(1);
        self.line(&format!("</{name}>"));
    }

    pub(super) fn leaf(&mut self, name: &str, text: &str) {
        self.line(&format!("<{name}>{}</{name}>", escape(text)));
    }

    /// An element that is taken over.
    pub(super) fn markup(&mut self, markup: &Markup) {
        let name = &markup.name;
        let attributes: String =
            markup.attributes.iter().map(|(key, value)| format!(" {key}=\"{}\"", escape(value))).collect();
        match (markup.children.is_empty(), escape(&markup.text)) {
            (true, text) if text.is_empty() => self.line(&format!("<{name}{attributes}/>")),
            (true, text) => self.line(&format!("<{name}{attributes}>{text}</{name}>")),
            (false, _) => {
                self.open(name, &attributes);
                markup.children.iter().for_each(|child| self.markup(child));
                self.close(name);
            }
        }
    }
}

/// Text as XML content or attribute; characters that XML cannot hold are dropped.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            // The signs that draw syllables together and hold words apart are white space to Unicode only.
            '\u{a0}' | '\u{202f}' => out.push(c),
            // As a reference it is a line's end in an attribute, too.
            '\n' => out.push_str("&#10;"),
            c if c.is_whitespace() => out.push(' '),
            '\u{fffe}' | '\u{ffff}' => {}
            c if c.is_control() => {}
            c => out.push(c),
        }
    }
    out
}

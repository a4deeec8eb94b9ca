//! The values of a table's keys, each with its complaint where it is not what it should be.

use std::ops::Range;

use toml::Spanned;
use toml::de::DeValue;

use super::{Reader, SpecError, Table};
use crate::options;

impl Reader<'_> {
    pub(super) fn at(&mut self, span: Range<usize>, message: impl Into<String>) {
        let before = &self.text.as_bytes()[..span.start.min(self.text.len())];
        let line = before.iter().filter(|b| **b == b'\n').count() + 1;
        let column = before.iter().rev().take_while(|b| **b != b'\n').count() + 1;
        self.errors.push(SpecError { line, column, message: message.into() });
    }

    pub(super) fn whole(&mut self, message: impl Into<String>) {
        self.errors.push(SpecError { line: 0, column: 0, message: message.into() });
    }

    /// Complains of every key of `table` that is not among `known`.
    pub(super) fn known_keys(&mut self, table: &Table<'_>, prefix: &str, known: &[&str]) {
        for key in table.keys() {
            let word = key.get_ref().as_ref();
            if !known.contains(&word) {
                let hint = match options::nearest(word, known.iter().copied()) {
                    Some(near) => format!("; did you mean \"{near}\"?"),
                    None => format!("; known are {}", known.join(", ")),
                };
                self.at(key.span(), format!("unknown key \"{prefix}{word}\"{hint}"));
            }
        }
    }

    pub(super) fn any_table<'a, 'i>(&mut self, root: &'a Table<'i>, key: &str) -> Option<&'a Table<'i>> {
        let value = root.get(key)?;
        let table = value.get_ref().as_table();
        if table.is_none() {
            self.at(value.span(), format!("{key} is a table: [{key}]"));
        }
        table
    }

    pub(super) fn table<'a, 'i>(
        &mut self,
        root: &'a Table<'i>,
        key: &str,
        known: &[&str],
    ) -> Option<&'a Table<'i>> {
        let table = self.any_table(root, key)?;
        self.known_keys(table, &format!("{key}."), known);
        Some(table)
    }

    pub(super) fn key_error(&mut self, table: &Table<'_>, key: &str, message: impl Into<String>) {
        let span = table.get(key).map_or(0..0, Spanned::span);
        self.at(span, message);
    }

    pub(super) fn string(&mut self, table: &Table<'_>, key: &str) -> Option<String> {
        let value = table.get(key)?;
        let text = value.get_ref().as_str();
        if text.is_none() {
            self.at(
                value.span(),
                format!("{key} wants a text in quotes, not {}", value.get_ref().type_str()),
            );
        }
        text.map(ToOwned::to_owned)
    }

    pub(super) fn number(&mut self, table: &Table<'_>, key: &str) -> Option<f64> {
        let value = table.get(key)?;
        let number = match value.get_ref() {
            DeValue::Integer(i) => i.as_str().replace('_', "").parse().ok(),
            DeValue::Float(x) => x.as_str().replace('_', "").parse().ok(),
            _ => None,
        };
        if number.is_none() {
            self.at(value.span(), format!("{key} wants a number, not {}", value.get_ref().type_str()));
        }
        number
    }

    pub(super) fn whole_number(
        &mut self,
        table: &Table<'_>,
        key: &str,
        default: u32,
        min: u32,
        max: u32,
    ) -> u32 {
        let Some(value) = table.get(key) else { return default };
        let number = match value.get_ref() {
            DeValue::Integer(i) => u32::from_str_radix(&i.as_str().replace('_', ""), i.radix()).ok(),
            _ => None,
        };
        match number.filter(|n| (min..=max).contains(n)) {
            Some(n) => n,
            None => {
                self.at(value.span(), format!("{key} wants a whole number from {min} to {max}"));
                default
            }
        }
    }

    pub(super) fn choice<T: Copy>(
        &mut self,
        table: &Table<'_>,
        key: &str,
        choices: &[(&str, T)],
    ) -> Option<T> {
        let text = self.string(table, key)?;
        let found = choices.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
        if found.is_none() {
            let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
            self.key_error(table, key, format!("{key} is one of {}, not \"{text}\"", words.join(", ")));
        }
        found
    }
}

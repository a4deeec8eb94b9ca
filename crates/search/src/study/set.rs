//! Applies `--set KEY=VALUE` and `--tag K=V` to the text of a study file.

use toml::{Table, Value};

use crate::options;

/// A `--set` or `--tag` that cannot be applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SetError {
    #[error("\"{0}\" has no \"=\"; write KEY=VALUE")]
    NoEquals(String),
    #[error("the study file is not TOML: {0}")]
    NotToml(String),
    #[error("\"{key}\": {part} is not a table")]
    NotATable { key: String, part: String },
}

/// The study file's text with the overrides in place. A key is a dotted path of the file (`retry.max_lost=5`);
/// a training option may stand alone: `epochs=3` fixes it, taking it out of the space, and `layers=[1,2]`
/// searches it. A value is TOML; what does not parse as that is a text. Without overrides: the same text.
///
/// # Errors
/// An override without `=`, a file that is no TOML, or a path through something that is no table.
pub fn apply_overrides(text: &str, sets: &[String], tags: &[String]) -> Result<String, SetError> {
    if sets.is_empty() && tags.is_empty() {
        return Ok(text.to_owned());
    }
    let mut root: Table = toml::from_str(text).map_err(|e| SetError::NotToml(e.to_string()))?;
    for set in sets {
        let (key, value) = split(set)?;
        let value = parse_value(value);
        if options::find(key).is_some() {
            let (to, from) = if value.is_array() { ("space", "train") } else { ("train", "space") };
            remove(&mut root, from, key);
            insert(&mut root, &format!("{to}.{key}"), value)?;
        } else {
            insert(&mut root, key, value)?;
        }
    }
    for tag in tags {
        let (key, value) = split(tag)?;
        let entry = root.entry("tags").or_insert_with(|| Value::Table(Table::new()));
        let table = entry.as_table_mut().ok_or_else(|| not_a_table(key, "tags"))?;
        table.insert(key.to_owned(), Value::String(value.to_owned()));
    }
    Ok(root.to_string())
}

fn split(set: &str) -> Result<(&str, &str), SetError> {
    let (key, value) = set.split_once('=').ok_or_else(|| SetError::NoEquals(set.to_owned()))?;
    Ok((key.trim(), value.trim()))
}

fn parse_value(text: &str) -> Value {
    let parsed: Option<Table> = toml::from_str(&format!("v = {text}")).ok();
    parsed.and_then(|mut t| t.remove("v")).unwrap_or_else(|| Value::String(text.to_owned()))
}

fn not_a_table(key: &str, part: &str) -> SetError {
    SetError::NotATable { key: key.to_owned(), part: part.to_owned() }
}

fn insert(root: &mut Table, path: &str, value: Value) -> Result<(), SetError> {
    let mut table = root;
    let mut parts = path.split('.').peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            table.insert(part.to_owned(), value);
            return Ok(());
        }
        let entry = table.entry(part).or_insert_with(|| Value::Table(Table::new()));
        table = entry.as_table_mut().ok_or_else(|| not_a_table(path, part))?;
    }
    Ok(())
}

fn remove(root: &mut Table, section: &str, name: &str) {
    let Some(table) = root.get_mut(section).and_then(Value::as_table_mut) else { return };
    match name.split_once('.') {
        None => {
            table.remove(name);
        }
        Some((group, key)) => {
            if let Some(group) = table.get_mut(group).and_then(Value::as_table_mut) {
                group.remove(key);
            }
        }
    }
}

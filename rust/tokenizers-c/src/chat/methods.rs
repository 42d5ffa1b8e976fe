//! Methods of Python's str, dict and list, which templates call on values.

use minijinja::value::{from_args, Kwargs, ValueKind};
use minijinja::{Error, ErrorKind, FormatStyle, State, Value};

use super::budget::charge;
use super::operators::formatted;
use super::python::{is_list, wrong};

/// What Python strips and splits at: Unicode's white space and four separators.
pub fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\x1c'..='\x1f').contains(&c)
}

pub fn strip(text: &str, chars: Option<&str>, left: bool, right: bool) -> String {
    let stripped = |c: char| chars.map_or_else(|| is_space(c), |chars| chars.contains(c));
    let mut text = text;
    if left {
        text = text.trim_start_matches(stripped);
    }
    if right {
        text = text.trim_end_matches(stripped);
    }
    text.to_owned()
}

fn owned<'a>(parts: impl Iterator<Item = &'a str>) -> Value {
    parts.map(Value::from).collect()
}

/// `text.split(separator, most)`; from the right, `rsplit`.
fn split(text: &str, separator: Option<&str>, most: i64, right: bool) -> Result<Value, Error> {
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    let mut parts = Vec::new();
    let mut rest = text;
    if separator.is_none() {
        rest = if right {
            rest.trim_end_matches(is_space)
        } else {
            rest.trim_start_matches(is_space)
        };
    }
    while parts.len() < most && !rest.is_empty() {
        let found = match (separator, right) {
            (Some(""), _) => return Err(wrong("split: empty separator")),
            (Some(separator), false) => rest.split_once(separator),
            (Some(separator), true) => rest.rsplit_once(separator),
            (None, false) => rest
                .split_once(is_space)
                .map(|(part, rest)| (part, rest.trim_start_matches(is_space))),
            (None, true) => rest
                .rsplit_once(is_space)
                .map(|(rest, part)| (rest.trim_end_matches(is_space), part)),
        };
        let Some((a, b)) = found else { break };
        let (part, left) = if right { (b, a) } else { (a, b) };
        parts.push(part);
        rest = left;
    }
    if separator.is_some() || !rest.is_empty() {
        if separator.is_none() && right {
            rest = rest.trim_start_matches(is_space);
        }
        if separator.is_none() && !right && parts.len() < most {
            rest = rest.trim_end_matches(is_space);
        }
        parts.push(rest);
    }
    if right {
        parts.reverse();
    }
    Ok(owned(parts.into_iter()))
}

fn splitlines(text: &str, keep: bool) -> Value {
    let ends = |c: char| {
        matches!(
            c,
            '\n' | '\r' | '\x0b' | '\x0c' | '\x1c'..='\x1e' | '\u{85}' | '\u{2028}' | '\u{2029}'
        )
    };
    let mut lines = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(ends) {
        let end = if rest[at..].starts_with("\r\n") {
            at + 2
        } else {
            at + rest[at..].chars().next().map_or(1, char::len_utf8)
        };
        lines.push(&rest[..if keep { end } else { at }]);
        rest = &rest[end..];
    }
    if !rest.is_empty() {
        lines.push(rest);
    }
    owned(lines.into_iter())
}

/// Each word's first letter large, the others small; a word is a run of letters.
fn title(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut inside = false;
    for c in text.chars() {
        if inside {
            out.extend(c.to_lowercase());
        } else {
            out.extend(c.to_uppercase());
        }
        inside = c.is_alphabetic();
    }
    out
}

pub fn capitalize(text: &str) -> String {
    let mut chars = text.chars();
    match chars.next() {
        Some(first) => first
            .to_uppercase()
            .chain(chars.as_str().to_lowercase().chars())
            .collect(),
        None => String::new(),
    }
}

/// Whether there are cased letters and none of the other case.
fn cased(text: &str, is: fn(char) -> bool, other: fn(char) -> bool) -> bool {
    text.chars().any(is) && !text.chars().any(other)
}

fn all(text: &str, is: impl Fn(char) -> bool) -> bool {
    !text.is_empty() && text.chars().all(is)
}

/// A prefix or suffix, or a list of which one will do.
fn any_of(what: &Value, fits: impl Fn(&str) -> bool) -> Result<Value, Error> {
    if let Some(text) = what.as_str() {
        return Ok(fits(text).into());
    }
    if !is_list(what) {
        return Err(wrong(format!(
            "a {} is neither text nor a tuple of texts",
            what.kind()
        )));
    }
    for text in what.try_iter()? {
        let text = text
            .as_str()
            .ok_or_else(|| wrong("the tuple holds what is no text"))?;
        if fits(text) {
            return Ok(true.into());
        }
    }
    Ok(false.into())
}

fn padded(
    text: &str,
    width: i64,
    fill: Option<&str>,
    left: bool,
    right: bool,
) -> Result<Value, Error> {
    let missing = usize::try_from(width)
        .unwrap_or(0)
        .saturating_sub(text.chars().count());
    let fill = fill.unwrap_or(" ");
    charge(missing.saturating_mul(fill.len()))?;
    let before = match (left, right) {
        (true, true) => missing / 2 + (missing & usize::try_from(width).unwrap_or(0) & 1),
        (true, false) => missing,
        _ => 0,
    };
    Ok(format!(
        "{}{text}{}",
        fill.repeat(before),
        fill.repeat(missing - before)
    )
    .into())
}

pub fn replace(text: &str, old: &str, new: &str, count: i64) -> Result<String, Error> {
    let places = if old.is_empty() {
        text.len() + 1
    } else {
        text.len() / old.len()
    };
    charge(text.len().saturating_add(places.saturating_mul(new.len())))?;
    Ok(match usize::try_from(count) {
        Ok(count) => text.replacen(old, new, count),
        Err(_) => text.replace(old, new),
    })
}

fn partition(found: Option<(&str, &str)>, separator: &str, text: &str, right: bool) -> Value {
    owned(match (found, right) {
        (Some((before, behind)), _) => [before, separator, behind].into_iter(),
        (None, false) => [text, "", ""].into_iter(),
        (None, true) => ["", "", text].into_iter(),
    })
}

/// The place of a byte, in characters; -1 for none.
fn place(text: &str, at: Option<usize>) -> Value {
    at.map_or(-1, |at| text[..at].chars().count() as i64).into()
}

fn of_str(text: &str, method: &str, args: &[Value]) -> Result<Value, Error> {
    let none = || from_args::<()>(args);
    Ok(match method {
        "strip" | "lstrip" | "rstrip" => {
            let (chars,): (Option<Value>,) = from_args(args)?;
            let chars = chars.filter(|chars| !chars.is_none());
            let chars = chars.as_ref().map(|chars| {
                chars
                    .as_str()
                    .ok_or_else(|| wrong(format!("{method}: a {} is no text", chars.kind())))
            });
            let chars = chars.transpose()?;
            strip(text, chars, method != "rstrip", method != "lstrip").into()
        }
        "split" | "rsplit" => {
            let (separator, most, kwargs): (Option<Value>, Option<i64>, Kwargs) = from_args(args)?;
            let separator = match separator {
                None => kwargs.get::<Option<Value>>("sep")?,
                some => some,
            };
            let separator = separator.filter(|separator| !separator.is_none());
            let most = match most {
                None => kwargs.get::<Option<i64>>("maxsplit")?,
                some => some,
            };
            kwargs.assert_all_used()?;
            let separator = match &separator {
                Some(text) => Some(
                    text.as_str()
                        .ok_or_else(|| wrong("split: the separator is no text"))?,
                ),
                None => None,
            };
            split(text, separator, most.unwrap_or(-1), method == "rsplit")?
        }
        "splitlines" => {
            let (keep, kwargs): (Option<bool>, Kwargs) = from_args(args)?;
            let keep = keep.or(kwargs.get::<Option<bool>>("keepends")?);
            kwargs.assert_all_used()?;
            splitlines(text, keep.unwrap_or(false))
        }
        "startswith" => {
            let (what,): (Value,) = from_args(args)?;
            any_of(&what, |prefix| text.starts_with(prefix))?
        }
        "endswith" => {
            let (what,): (Value,) = from_args(args)?;
            any_of(&what, |suffix| text.ends_with(suffix))?
        }
        "replace" => {
            let (old, new, count): (&str, &str, Option<i64>) = from_args(args)?;
            replace(text, old, new, count.unwrap_or(-1))?.into()
        }
        "join" => {
            let (values,): (Value,) = from_args(args)?;
            let mut out = String::new();
            for (i, value) in values.try_iter()?.enumerate() {
                let part = value.as_str().ok_or_else(|| {
                    wrong(format!("join: item {i} is a {}, no text", value.kind()))
                })?;
                charge(text.len() + part.len())?;
                if i > 0 {
                    out.push_str(text);
                }
                out.push_str(part);
            }
            out.into()
        }
        "removeprefix" => {
            let (what,): (&str,) = from_args(args)?;
            text.strip_prefix(what).unwrap_or(text).into()
        }
        "removesuffix" => {
            let (what,): (&str,) = from_args(args)?;
            text.strip_suffix(what).unwrap_or(text).into()
        }
        "partition" => {
            let (what,): (&str,) = from_args(args)?;
            partition(text.split_once(what), what, text, false)
        }
        "rpartition" => {
            let (what,): (&str,) = from_args(args)?;
            partition(text.rsplit_once(what), what, text, true)
        }
        "find" | "rfind" | "index" | "rindex" => {
            let (what,): (&str,) = from_args(args)?;
            let at = if method.starts_with('r') {
                text.rfind(what)
            } else {
                text.find(what)
            };
            if at.is_none() && method.ends_with("index") {
                return Err(wrong(format!("{method}: substring not found")));
            }
            place(text, at)
        }
        "count" => {
            let (what,): (&str,) = from_args(args)?;
            if what.is_empty() {
                return Ok((text.chars().count() + 1).into());
            }
            text.matches(what).count().into()
        }
        "center" | "ljust" | "rjust" => {
            let (width, fill): (i64, Option<&str>) = from_args(args)?;
            padded(text, width, fill, method != "ljust", method != "rjust")?
        }
        "zfill" => {
            let (width,): (i64,) = from_args(args)?;
            let sign = text.len()
                - text
                    .trim_start_matches(['+', '-'])
                    .len()
                    .max(text.len().saturating_sub(1));
            let zeros = padded(&text[sign..], width - sign as i64, Some("0"), true, false)?;
            format!("{}{}", &text[..sign], zeros.as_str().unwrap_or_default()).into()
        }
        "format" => formatted(FormatStyle::StrFormat, text, args)?,
        "upper" => (none()?, text.to_uppercase()).1.into(),
        "lower" | "casefold" => (none()?, text.to_lowercase()).1.into(),
        "title" => (none()?, title(text)).1.into(),
        "capitalize" => (none()?, capitalize(text)).1.into(),
        "isupper" => (none()?, cased(text, char::is_uppercase, char::is_lowercase))
            .1
            .into(),
        "islower" => (none()?, cased(text, char::is_lowercase, char::is_uppercase))
            .1
            .into(),
        "isspace" => (none()?, all(text, is_space)).1.into(),
        "isdigit" | "isdecimal" | "isnumeric" => (none()?, all(text, char::is_numeric)).1.into(),
        "isalpha" => (none()?, all(text, char::is_alphabetic)).1.into(),
        "isalnum" => (none()?, all(text, char::is_alphanumeric)).1.into(),
        "isascii" => (none()?, text.is_ascii()).1.into(),
        _ => return Err(Error::from(ErrorKind::UnknownMethod)),
    })
}

fn of_dict(dict: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    let items = || -> Result<Vec<(Value, Value)>, Error> {
        dict.try_iter()?
            .map(|key| Ok((key.clone(), dict.get_item(&key)?)))
            .collect()
    };
    match method {
        "keys" => {
            from_args::<()>(args)?;
            Ok(dict.try_iter()?.collect())
        }
        "values" => {
            from_args::<()>(args)?;
            Ok(items()?.into_iter().map(|(_, value)| value).collect())
        }
        "items" => {
            from_args::<()>(args)?;
            Ok(items()?
                .into_iter()
                .map(|(key, value)| Value::from(vec![key, value]))
                .collect())
        }
        "copy" => {
            from_args::<()>(args)?;
            Ok(dict.clone())
        }
        "get" => {
            let (key, otherwise): (Value, Option<Value>) = from_args(args)?;
            let value = dict.get_item(&key)?;
            if value.is_undefined() {
                return Ok(otherwise.unwrap_or_else(|| Value::from(())));
            }
            Ok(value)
        }
        _ => Err(Error::from(ErrorKind::UnknownMethod)),
    }
}

fn of_list(list: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    match method {
        "count" => {
            let (what,): (Value,) = from_args(args)?;
            Ok(list.try_iter()?.filter(|item| *item == what).count().into())
        }
        "index" => {
            let (what,): (Value,) = from_args(args)?;
            let at = list.try_iter()?.position(|item| item == what);
            at.map(Value::from)
                .ok_or_else(|| wrong("index: the value is not in the list"))
        }
        "copy" => {
            from_args::<()>(args)?;
            Ok(list.clone())
        }
        _ => Err(Error::from(ErrorKind::UnknownMethod)),
    }
}

pub fn call(_: &State, value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    charge(
        value
            .as_str()
            .map_or_else(|| value.len().unwrap_or(0), str::len),
    )?;
    match value.kind() {
        ValueKind::String => of_str(value.as_str().unwrap_or_default(), method, args),
        ValueKind::Map => of_dict(value, method, args),
        ValueKind::Seq | ValueKind::Iterable => of_list(value, method, args),
        _ => Err(Error::from(ErrorKind::UnknownMethod)),
    }
}

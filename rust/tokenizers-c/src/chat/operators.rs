//! `~ + * %` as Python has them, each over a chain of operands.

use minijinja::value::{Rest, ValueKind};
use minijinja::{format_filter, Error, FormatStyle, Value};

use super::budget::charge;
use super::python::{self, is_list, wrong};

fn of_two(sign: &str, a: &Value, b: &Value) -> Error {
    wrong(format!(
        "a {} {sign} a {} is not defined",
        a.kind(),
        b.kind()
    ))
}

/// True is 1.
fn int(value: &Value) -> Option<i128> {
    match value.kind() {
        ValueKind::Bool => Some(i128::from(value.is_true())),
        ValueKind::Number if value.is_integer() => i128::try_from(value.clone()).ok(),
        _ => None,
    }
}

fn real(value: &Value) -> Option<f64> {
    match value.kind() {
        ValueKind::Bool | ValueKind::Number => int(value)
            .map(|n| n as f64)
            .or_else(|| f64::try_from(value.clone()).ok()),
        _ => None,
    }
}

fn whole(sign: &str, value: Option<i128>) -> Result<Value, Error> {
    let value = value.ok_or_else(|| wrong(format!("an integer {sign} another is too large")))?;
    Ok(i64::try_from(value).map_or_else(|_| Value::from(value), Value::from))
}

fn items(list: &Value) -> Result<Vec<Value>, Error> {
    let items: Vec<Value> = list.try_iter()?.collect();
    charge(items.len() * size_of::<Value>())?;
    Ok(items)
}

pub fn concat(operands: Rest<Value>) -> Result<Value, Error> {
    let mut out = String::new();
    for value in operands.iter() {
        let text = python::str(value)?;
        charge(text.len() + out.len())?;
        out.push_str(&text);
    }
    Ok(out.into())
}

fn sum(a: &Value, b: &Value) -> Result<Value, Error> {
    if let (Some(a), Some(b)) = (a.as_str(), b.as_str()) {
        charge(a.len() + b.len())?;
        return Ok([a, b].concat().into());
    }
    if is_list(a) && is_list(b) {
        let mut all = items(a)?;
        all.extend(items(b)?);
        return Ok(all.into());
    }
    if let (Some(a), Some(b)) = (int(a), int(b)) {
        return whole("+", a.checked_add(b));
    }
    match (real(a), real(b)) {
        (Some(a), Some(b)) => Ok((a + b).into()),
        _ => Err(of_two("+", a, b)),
    }
}

fn repeated(what: &Value, times: i128) -> Option<Result<Value, Error>> {
    let times = usize::try_from(times.max(0)).unwrap_or(usize::MAX);
    if let Some(text) = what.as_str() {
        let bytes = text.len().saturating_mul(times);
        return Some(charge(bytes).map(|()| text.repeat(times).into()));
    }
    is_list(what).then(|| {
        let once = items(what)?;
        charge(
            once.len()
                .saturating_mul(times)
                .saturating_mul(size_of::<Value>()),
        )?;
        let count = once.len() * times;
        Ok(once.into_iter().cycle().take(count).collect())
    })
}

fn product(a: &Value, b: &Value) -> Result<Value, Error> {
    for (what, times) in [(a, b), (b, a)] {
        if let Some(out) = int(times).and_then(|times| repeated(what, times)) {
            return out;
        }
    }
    if let (Some(a), Some(b)) = (int(a), int(b)) {
        return whole("*", a.checked_mul(b));
    }
    match (real(a), real(b)) {
        (Some(a), Some(b)) => Ok((a * b).into()),
        _ => Err(of_two("*", a, b)),
    }
}

/// `format % args` or `format.format(*args)`, where a width has four digits at most:
/// a few characters could ask for gigabytes.
pub fn formatted(style: FormatStyle, format: &str, args: &[Value]) -> Result<Value, Error> {
    const DIGITS: usize = 4;
    let longest = format
        .split(|c: char| !c.is_ascii_digit())
        .map(str::len)
        .max();
    let sign = if style == FormatStyle::Printf {
        '%'
    } else {
        '{'
    };
    let nested = format
        .split('}')
        .any(|part| part.replace("{{", "").matches('{').count() > 1);
    if longest.unwrap_or(0) > DIGITS || (sign == '%' && format.contains('*')) || nested {
        return Err(wrong(
            "format: a width or precision is no number of four digits at most",
        ));
    }
    charge(
        format
            .matches(sign)
            .count()
            .saturating_mul(10usize.pow(DIGITS as u32)),
    )?;
    let mut given = Vec::new();
    for arg in args {
        given.push(match arg.kind() {
            ValueKind::Bool | ValueKind::None | ValueKind::Seq | ValueKind::Map
                if !arg.is_kwargs() =>
            {
                python::str(arg)?.into()
            }
            _ => arg.clone(),
        });
    }
    let out = format_filter(style, format, &given)?;
    charge(out.len())?;
    Ok(out.into())
}

/// `"%s of %d" % [a, b]`, or what is left of a division, of the divisor's sign.
fn remainder(a: &Value, b: &Value) -> Result<Value, Error> {
    if let Some(format) = a.as_str() {
        let args = if is_list(b) {
            items(b)?
        } else {
            vec![b.clone()]
        };
        return formatted(FormatStyle::Printf, format, &args);
    }
    if let (Some(a), Some(b)) = (int(a), int(b)) {
        let rest = a.checked_rem(b).ok_or_else(|| wrong("modulo by zero"))?;
        return whole(
            "%",
            Some(if rest != 0 && (rest < 0) != (b < 0) {
                rest + b
            } else {
                rest
            }),
        );
    }
    match (real(a), real(b)) {
        (Some(_), Some(b)) if b == 0.0 => Err(wrong("modulo by zero")),
        (Some(a), Some(b)) => {
            let rest = a % b;
            Ok(if rest != 0.0 && (rest < 0.0) != (b < 0.0) {
                rest + b
            } else {
                rest
            }
            .into())
        }
        _ => Err(of_two("%", a, b)),
    }
}

type Operator = fn(&Value, &Value) -> Result<Value, Error>;

fn fold(operands: &[Value], operator: Operator) -> Result<Value, Error> {
    let (first, others) = operands.split_first().ok_or_else(|| wrong("no operands"))?;
    others
        .iter()
        .try_fold(first.clone(), |a, b| operator(&a, b))
}

pub fn add(operands: Rest<Value>) -> Result<Value, Error> {
    fold(&operands, sum)
}

pub fn mul(operands: Rest<Value>) -> Result<Value, Error> {
    fold(&operands, product)
}

pub fn rem(operands: Rest<Value>) -> Result<Value, Error> {
    fold(&operands, remainder)
}

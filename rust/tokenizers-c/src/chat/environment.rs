//! Hugging Face's Jinja environment: its filters, tests, functions and settings.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io::{self, Write};

use minijinja::value::{from_args, Kwargs, Rest, ValueKind};
use minijinja::{
    filters, Environment, Error, ErrorKind, FormatStyle, State, UndefinedBehavior, Value,
};

use super::budget::{charge, Exceeded, TkcChatLimits};
use super::clock::TkcTime;
use super::python::{self, is_list, wrong, Json};
use super::{methods, operators, source};

/// What a template said with `raise_exception`.
#[derive(Debug)]
pub struct Raised(pub String);

impl fmt::Display for Raised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Raised {}

thread_local! {
    /// Of the one rendering on this thread.
    static NOW: Cell<Option<TkcTime>> = const { Cell::new(None) };
    /// Bytes of its text so far.
    static WRITTEN: Cell<usize> = const { Cell::new(0) };
    /// What `{% generation %}` wrote: first bytes and those behind the last.
    static GENERATED: RefCell<Vec<u32>> = const { RefCell::new(Vec::new()) };
}

/// The text of a `{% generation %}`, which is written next; of one in a macro
/// or another capture the place of the whole of that, as in transformers.
fn generation(text: Value) -> Value {
    let begin = WRITTEN.get();
    let end = begin + text.as_str().map_or(0, str::len);
    GENERATED.with_borrow_mut(|found| found.extend([begin as u32, end as u32]));
    text
}

fn raise(message: Value) -> Result<Value, Error> {
    let message = python::str(&message)?;
    Err(wrong("raise_exception").with_source(Raised(message)))
}

fn strftime_now(format: &str) -> Result<String, Error> {
    NOW.get()
        .ok_or_else(|| wrong("strftime_now: there is no time"))?
        .format(format)
}

type FourOptions = (
    Option<Value>,
    Option<Value>,
    Option<Value>,
    Option<Value>,
    Kwargs,
);

fn tojson(value: Value, args: Rest<Value>) -> Result<String, Error> {
    let (ascii, indent, separators, sort, kwargs): FourOptions = from_args(&args)?;
    let given = |positional: Option<Value>, name| -> Result<Value, Error> {
        let named = kwargs.get::<Option<Value>>(name)?;
        Ok(positional.or(named).unwrap_or_default())
    };
    let ensure_ascii = given(ascii, "ensure_ascii")?.is_true();
    let indent = given(indent, "indent")?;
    let separators = given(separators, "separators")?;
    let sort_keys = given(sort, "sort_keys")?.is_true();
    kwargs.assert_all_used()?;
    let indent = match indent.kind() {
        ValueKind::None | ValueKind::Undefined => None,
        ValueKind::String => indent.as_str().map(str::to_owned),
        _ => {
            let width = i64::try_from(indent)?;
            let width = usize::try_from(width).unwrap_or(0);
            charge(width)?;
            Some(" ".repeat(width))
        }
    };
    let (item, key) = if is_list(&separators) {
        let text = |i| -> Result<String, Error> {
            let separator = separators.get_item_by_index(i)?;
            Ok(separator
                .as_str()
                .ok_or_else(|| wrong("tojson: a separator is no text"))?
                .to_owned())
        };
        (text(0)?, text(1)?)
    } else {
        (
            if indent.is_some() { "," } else { ", " }.to_owned(),
            ": ".to_owned(),
        )
    };
    let json = Json {
        ensure_ascii,
        indent,
        item,
        key,
        sort_keys,
    };
    let text = json.dumps(&value)?;
    charge(text.len())?;
    Ok(text)
}

/// Filters of text take anything, as its `str`.
fn text_of(value: &Value) -> Result<String, Error> {
    let text = python::str(value)?;
    charge(text.len())?;
    Ok(text)
}

fn join(
    value: Value,
    separator: Option<Value>,
    attribute: Option<Value>,
    kwargs: Kwargs,
) -> Result<String, Error> {
    let separator = separator.or(kwargs.get::<Option<Value>>("d")?);
    let attribute = attribute.or(kwargs.get::<Option<Value>>("attribute")?);
    kwargs.assert_all_used()?;
    let separator = separator.map_or_else(|| Ok(String::new()), |separator| text_of(&separator))?;
    let mut out = String::new();
    for (i, item) in value.try_iter()?.enumerate() {
        let item = match &attribute {
            Some(name) if !name.is_none() => item.get_item(name)?,
            _ => item,
        };
        let text = text_of(&item)?;
        charge(separator.len())?;
        if i > 0 {
            out.push_str(&separator);
        }
        out.push_str(&text);
    }
    Ok(out)
}

fn indent(
    value: Value,
    width: Option<Value>,
    first: Option<bool>,
    blank: Option<bool>,
    kwargs: Kwargs,
) -> Result<String, Error> {
    let width = width
        .or(kwargs.get::<Option<Value>>("width")?)
        .unwrap_or_else(|| 4.into());
    let first = first
        .or(kwargs.get::<Option<bool>>("first")?)
        .unwrap_or(false);
    let blank = blank
        .or(kwargs.get::<Option<bool>>("blank")?)
        .unwrap_or(false);
    kwargs.assert_all_used()?;
    let text = text_of(&value)?;
    let width = match width.as_str() {
        Some(width) => width.to_owned(),
        None => {
            let spaces = usize::try_from(i64::try_from(width)?).unwrap_or(0);
            charge(spaces)?;
            " ".repeat(spaces)
        }
    };
    charge(text.split('\n').count().saturating_mul(width.len()))?;
    let mut out = String::new();
    for (i, line) in text.split('\n').enumerate() {
        if i > 0 {
            out.push('\n');
        }
        if (i > 0 || first) && (blank || !line.is_empty()) {
            out.push_str(&width);
        }
        out.push_str(line);
    }
    Ok(out)
}

fn length(value: Value) -> Result<usize, Error> {
    if value.is_undefined() {
        return Ok(0);
    }
    if let Some(text) = value.as_str() {
        charge(text.len())?;
    }
    filters::length(&value)
}

fn int(value: Value, otherwise: Option<Value>) -> Value {
    let otherwise = otherwise.unwrap_or_else(|| 0.into());
    let number = match value.as_str() {
        Some(text) => text.trim().parse::<i64>().ok(),
        None if value.kind() == ValueKind::Bool => Some(value.is_true().into()),
        None => i64::try_from(value.clone())
            .ok()
            .or_else(|| f64::try_from(value).ok().map(|x| x as i64)),
    };
    number.map_or(otherwise, Value::from)
}

fn float(value: Value, otherwise: Option<Value>) -> Value {
    let number = match value.as_str() {
        Some(text) => text.trim().parse::<f64>().ok(),
        None => f64::try_from(value).ok(),
    };
    number.map_or(otherwise.unwrap_or_else(|| 0.0.into()), Value::from)
}

/// To so many digits, halves to the even one, as Python does; an int stays one.
fn round(
    value: Value,
    digits: Option<i64>,
    method: Option<String>,
    kwargs: Kwargs,
) -> Result<Value, Error> {
    let digits = digits
        .or(kwargs.get::<Option<i64>>("precision")?)
        .unwrap_or(0);
    let method = method.or(kwargs.get::<Option<String>>("method")?);
    kwargs.assert_all_used()?;
    let common = method.as_deref().unwrap_or("common") == "common";
    if value.is_integer() && common && digits >= 0 {
        return Ok(value);
    }
    let x = f64::try_from(value)?;
    let digits = digits.clamp(-300, 300) as i32;
    let scale = 10f64.powi(digits);
    Ok(match method.as_deref().unwrap_or("common") {
        "common" if digits >= 0 => format!("{x:.*}", digits as usize).parse().unwrap_or(x),
        "common" => (x * scale).round_ties_even() / scale,
        "ceil" => (x * scale).ceil() / scale,
        "floor" => (x * scale).floor() / scale,
        method => {
            return Err(wrong(format!(
                "round: '{method}' is not common, ceil or floor"
            )))
        }
    }
    .into())
}

/// minijinja's own, of which each use costs what it is used on.
fn charged(environment: &mut Environment<'static>, name: &'static str, filter: Value) {
    environment.add_filter(
        name,
        move |state: &State, args: Rest<Value>| -> Result<Value, Error> {
            for arg in args.iter() {
                charge(match arg.as_str() {
                    Some(text) => text.len(),
                    None => arg.len().unwrap_or(1).saturating_mul(size_of::<Value>()),
                })?;
                // They make as many lists, or fill one up to that.
                if matches!(name, "batch" | "slice") {
                    let many = i64::try_from(arg.clone()).unwrap_or(0);
                    let many = usize::try_from(many).unwrap_or(0);
                    charge(many.saturating_mul(size_of::<Value>()))?;
                }
            }
            filter.call(state, &args)
        },
    );
}

fn add_filters(environment: &mut Environment<'static>) {
    for (name, filter) in [
        ("sort", Value::from_function(filters::sort)),
        ("list", Value::from_function(filters::list)),
        ("dictsort", Value::from_function(filters::dictsort)),
        ("unique", Value::from_function(filters::unique)),
        ("reverse", Value::from_function(filters::reverse)),
        ("batch", Value::from_function(filters::batch)),
        ("slice", Value::from_function(filters::slice)),
        ("map", Value::from_function(filters::map)),
        ("select", Value::from_function(filters::select)),
        ("reject", Value::from_function(filters::reject)),
        ("selectattr", Value::from_function(filters::selectattr)),
        ("rejectattr", Value::from_function(filters::rejectattr)),
        ("groupby", Value::from_function(filters::groupby)),
        ("items", Value::from_function(filters::items)),
        ("sum", Value::from_function(filters::sum)),
        ("min", Value::from_function(filters::min)),
        ("max", Value::from_function(filters::max)),
        ("escape", Value::from_function(filters::escape)),
        ("e", Value::from_function(filters::escape)),
        ("title", Value::from_function(filters::title)),
    ] {
        charged(environment, name, filter);
    }
    environment.add_filter("tojson", tojson);
    environment.add_filter("join", join);
    environment.add_filter("indent", indent);
    environment.add_filter("length", length);
    environment.add_filter("count", length);
    environment.add_filter("int", int);
    environment.add_filter("float", float);
    environment.add_filter("round", round);
    environment.add_filter("format", |value: Value, args: Rest<Value>| {
        operators::formatted(FormatStyle::Printf, &text_of(&value)?, &args)
    });
    environment.add_filter("string", |value: Value| text_of(&value));
    environment.add_filter("upper", |value: Value| {
        text_of(&value).map(|text| text.to_uppercase())
    });
    environment.add_filter("lower", |value: Value| {
        text_of(&value).map(|text| text.to_lowercase())
    });
    environment.add_filter("capitalize", |value: Value| {
        text_of(&value).map(|text| methods::capitalize(&text))
    });
    environment.add_filter("trim", |value: Value, chars: Option<Value>| {
        let chars = chars.filter(|chars| !chars.is_none());
        let chars = chars.as_ref().and_then(Value::as_str);
        text_of(&value).map(|text| methods::strip(&text, chars, true, true))
    });
    environment.add_filter(
        "replace",
        |value: Value, old: Value, new: Value, count: Option<i64>| {
            methods::replace(
                &text_of(&value)?,
                &text_of(&old)?,
                &text_of(&new)?,
                count.unwrap_or(-1),
            )
        },
    );
    for name in ["pprint", "zip", "chain", "lines", "split", "bool"] {
        environment.remove_filter(name); // not Jinja's
    }
}

fn add_tests(environment: &mut Environment<'static>) {
    environment.add_test("sequence", |value: Value| {
        is_list(&value)
            || matches!(
                value.kind(),
                ValueKind::String | ValueKind::Map | ValueKind::Undefined
            )
    });
    environment.add_test("iterable", |value: Value| {
        !value.is_none() && value.try_iter().is_ok()
    });
    environment.add_test("number", |value: Value| {
        matches!(value.kind(), ValueKind::Number | ValueKind::Bool)
    });
    environment.add_test("callable", |value: Value| value.kind() == ValueKind::Plain);
}

fn namespace(args: Rest<Value>) -> Result<Value, Error> {
    let (_, kwargs): (Option<Value>, Kwargs) = from_args(&args)?;
    if kwargs.args().any(|name| name.starts_with('_')) {
        return Err(wrong("namespace: a name begins with an underscore"));
    }
    minijinja::functions::namespace(args.first().cloned())
}

/// The environment with a template, and whether that has `{% generation %}`.
pub fn of(
    text: &str,
    limits: &TkcChatLimits,
    told: bool,
) -> Result<(Environment<'static>, bool), Error> {
    let made = source::rewritten(text, told)?;
    let mut environment = Environment::new();
    environment.set_trim_blocks(true);
    environment.set_lstrip_blocks(true);
    environment.set_undefined_behavior(UndefinedBehavior::Lenient);
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.set_recursion_limit(limits.recursion);
    environment.set_fuel(Some(limits.steps));
    environment.set_unknown_method_callback(methods::call);
    environment.set_formatter(|out, _, value| {
        match value.as_str() {
            Some(text) => {
                charge(text.len())?;
                out.write_str(text)?;
            }
            None => out.write_str(&text_of(value)?)?,
        }
        Ok(())
    });
    add_filters(&mut environment);
    add_tests(&mut environment);
    environment.add_function("raise_exception", raise);
    environment.add_function("strftime_now", strftime_now);
    environment.add_function("namespace", namespace);
    environment.add_function("__concat", operators::concat);
    environment.add_function("__add", operators::add);
    environment.add_function("__mul", operators::mul);
    environment.add_function("__rem", operators::rem);
    environment.add_function("__generation", generation);
    environment.add_global("__raw", Value::from(made.raw));
    environment.remove_global("debug");
    environment.add_template_owned("chat", made.source)?;
    Ok((environment, made.generates))
}

/// Takes so many bytes and no more.
struct Bounded {
    text: Vec<u8>,
    most: usize,
}

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.text.len() + bytes.len() > self.most {
            return Err(io::Error::other(Exceeded));
        }
        self.text.extend_from_slice(bytes);
        WRITTEN.set(self.text.len());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The text, and where it holds what `{% generation %}` wrote.
pub fn render(
    environment: &Environment<'static>,
    context: Value,
    now: TkcTime,
    most: usize,
) -> Result<(String, Vec<u32>), Error> {
    NOW.set(Some(now));
    WRITTEN.set(0);
    GENERATED.take();
    let mut out = Bounded {
        text: Vec::new(),
        most,
    };
    let rendered = environment
        .get_template("chat")?
        .render_captured_to(context, &mut out);
    if let Err(error) = rendered {
        if error.kind() == ErrorKind::WriteFailure {
            return Err(
                wrong(format!("it makes a text of more than {most} bytes")).with_source(Exceeded)
            );
        }
        return Err(error);
    }
    let text = String::from_utf8(out.text).map_err(|_| wrong("the text is not UTF-8"))?;
    Ok((text, GENERATED.take()))
}

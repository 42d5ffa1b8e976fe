//! Chat templates, rendered as Hugging Face's environment renders them; the C
//! calls are at the end, tokenizers_c.h is their documentation.

mod budget;
mod clock;
mod environment;
mod methods;
mod operators;
mod python;
mod source;

use std::error::Error as _;
use std::ffi::c_char;
use std::thread;

use minijinja::{Environment, Error, ErrorKind, Value};

use crate::{bytes, guarded, panic_text, prepare, Fallible, TkcIds, TkcText};
use budget::{Exceeded, TkcChatLimits};
use clock::TkcTime;
use environment::Raised;

/// What a failed rendering is: 0 a template that does not work, 1 one that says
/// no, 2 one over a limit.
type Cause = i32;

pub struct TkcTemplate {
    environment: Environment<'static>,
    generates: bool,
    limits: TkcChatLimits,
}

/// Lists in lists in lists are dropped and compared by recursion, and each step
/// may make one deeper: so many bytes of stack a step.
const STACK_OF_STEP: u64 = 64;
const STACK: u64 = 16 << 20;

/// Runs `work` on a thread of its own with room for what `limits` allow.
fn apart<T: Send>(limits: &TkcChatLimits, work: impl FnOnce() -> T + Send) -> Fallible<T> {
    let stack = STACK + limits.steps * STACK_OF_STEP;
    thread::scope(|scope| {
        thread::Builder::new()
            .stack_size(stack as usize)
            .spawn_scoped(scope, || {
                budget::begin(limits);
                work()
            })
            .map_err(|error| format!("no thread to render on: {error}"))?
            .join()
            .map_err(|payload| panic_text(&*payload).into())
    })
}

/// In one line: what, and where.
fn words(error: &Error) -> (String, Cause) {
    let mut source = error.source();
    while let Some(inner) = source {
        if let Some(raised) = inner.downcast_ref::<Raised>() {
            return (raised.0.clone(), 1);
        }
        if inner.is::<Exceeded>() {
            return (error.detail().unwrap_or("over a limit").into(), 2);
        }
        if let Some(deeper) = inner.downcast_ref::<Error>() {
            let (text, cause) = words(deeper);
            if cause != 0 {
                return (text, cause);
            }
        }
        source = inner.source();
    }
    let limits = match error.kind() {
        ErrorKind::OutOfFuel => Some("it takes more steps than the limit"),
        _ if error
            .detail()
            .is_some_and(|detail| detail.contains("recursion limit")) =>
        {
            Some("it calls itself more often than the limit")
        }
        _ => None,
    };
    if let Some(text) = limits {
        return (text.into(), 2);
    }
    let line = error
        .line()
        .map_or_else(String::new, |line| format!(" in line {line}"));
    (
        format!(
            "{}{line}",
            error.detail().map_or_else(
                || error.kind().to_string(),
                |detail| format!("{}: {detail}", error.kind())
            )
        ),
        0,
    )
}

impl TkcTemplate {
    fn new(source: &[u8], limits: TkcChatLimits, told: bool) -> Fallible<Self> {
        if source.len() > limits.source_bytes {
            return Err(format!(
                "it has {} bytes, the limit is {}",
                source.len(),
                limits.source_bytes
            )
            .into());
        }
        let source = std::str::from_utf8(source).map_err(|_| "it is not UTF-8")?;
        let environment = apart(&limits, || environment::of(source, &limits, told))?;
        let (environment, generates) = environment.map_err(|error| words(&error).0)?;
        Ok(Self {
            environment,
            generates,
            limits,
        })
    }

    fn render(&self, context: &[u8], now: TkcTime) -> Result<(String, Vec<u32>), (String, Cause)> {
        let text = apart(&self.limits, || {
            let context: Value = serde_json::from_slice(context)
                .map_err(|error| (format!("the conversation is not JSON: {error}"), 1))?;
            environment::render(&self.environment, context, now, self.limits.text_bytes)
                .map_err(|error| words(&error))
        });
        text.unwrap_or_else(|error| Err((error.to_string(), 0)))
    }
}

/// # Safety
/// `source` holds `length` bytes; `out` is writable.
#[no_mangle]
pub unsafe extern "C" fn tkc_template_new(
    source: *const u8,
    length: usize,
    limits: TkcChatLimits,
    told: bool,
    out: *mut *mut TkcTemplate,
) -> *mut c_char {
    guarded(|| {
        prepare();
        let template = TkcTemplate::new(bytes(source, length), limits, told)?;
        *out = Box::into_raw(Box::new(template));
        Ok(())
    })
}

/// # Safety
/// `template` came from `tkc_template_new` and is not used again.
#[no_mangle]
pub unsafe extern "C" fn tkc_template_free(template: *mut TkcTemplate) {
    if !template.is_null() {
        crate::tkc_free_message(guarded(|| {
            drop(Box::from_raw(template));
            Ok(())
        }));
    }
}

/// # Safety
/// `template` is alive.
#[no_mangle]
pub unsafe extern "C" fn tkc_template_generates(template: *const TkcTemplate) -> bool {
    (*template).generates
}

/// # Safety
/// `template` is alive; `context` holds `length` bytes; `cause`, `out` and
/// `generated` are writable.
#[no_mangle]
pub unsafe extern "C" fn tkc_template_render(
    template: *const TkcTemplate,
    context: *const u8,
    length: usize,
    now: TkcTime,
    cause: *mut i32,
    out: *mut TkcText,
    generated: *mut TkcIds,
) -> *mut c_char {
    *cause = 0;
    guarded(|| {
        let made = (*template).render(bytes(context, length), now);
        let (text, places) = made.map_err(|(message, why)| {
            *cause = why;
            message
        })?;
        *out = TkcText::of(text);
        *generated = TkcIds::of(places);
        Ok(())
    })
}

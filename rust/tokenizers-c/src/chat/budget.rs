//! What rendering may cost beside the steps that minijinja counts: a text that is
//! doubled thirty times takes thirty steps and a gigabyte. Each rendering has a
//! thread of its own, so what it spent is the thread's.

use std::cell::Cell;
use std::time::{Duration, Instant};

use minijinja::Error;

use super::python::wrong;

/// As in tokenizers_c.h.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct TkcChatLimits {
    pub source_bytes: usize,
    pub text_bytes: usize,
    pub work_bytes: usize,
    pub steps: u64,
    pub recursion: usize,
    pub seconds: f64,
}

thread_local! {
    static LEFT: Cell<usize> = const { Cell::new(0) };
    static END: Cell<Option<Instant>> = const { Cell::new(None) };
}

pub fn begin(limits: &TkcChatLimits) {
    LEFT.set(limits.work_bytes);
    END.set(Some(
        Instant::now() + Duration::from_secs_f64(limits.seconds),
    ));
}

/// Takes the bytes that an operation reads or writes from what is left.
pub fn charge(bytes: usize) -> Result<(), Error> {
    let left = LEFT.get().checked_sub(bytes);
    LEFT.set(left.unwrap_or(0));
    if left.is_none() {
        return Err(wrong("it makes more text than the limit").with_source(Exceeded));
    }
    if END.get().is_some_and(|end| Instant::now() > end) {
        return Err(wrong("it takes longer than the limit").with_source(Exceeded));
    }
    Ok(())
}

/// The source of an error that a limit is behind.
#[derive(Debug)]
pub struct Exceeded;

impl std::fmt::Display for Exceeded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("over a limit")
    }
}

impl std::error::Error for Exceeded {}

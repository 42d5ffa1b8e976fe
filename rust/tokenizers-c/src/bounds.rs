//! What a tokenizer.json may ask for. Its steps multiply: a text that each of
//! thirty steps doubles is a billion times as long. So before the crate builds
//! one, its steps are counted and how much longer they can make a text is bounded;
//! and what its regular expressions may take of time is watched.

use std::panic::{catch_unwind, resume_unwind, AssertUnwindSafe};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{channel, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use crate::{panic_text, Fallible};

/// As in tokenizers_c.h.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct TkcLimits {
    pub vocabulary: usize,
    pub steps: usize,
    pub pattern_bytes: usize,
    pub text_bytes: usize,
    pub seconds: f64,
}

/// What one regex search may retry, tenths of a second's worth. Oniguruma bounds a
/// match at one position, but a search tries every position of the text.
const RETRIES_IN_SEARCH: std::ffi::c_ulong = 20_000_000;

/// Shorter texts end soon by the bound on each search.
const UNWATCHED_BYTES: usize = 32;

#[derive(Deserialize)]
struct Token {
    #[serde(default)]
    content: String,
}

/// The parts of tokenizer.json that this file looks at; the vocabulary, which is
/// nearly all of it, is passed over.
#[derive(Deserialize)]
struct Steps {
    #[serde(default)]
    added_tokens: Vec<Token>,
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(default)]
    post_processor: Value,
    #[serde(default)]
    decoder: Value,
}

/// Bytes of a text behind some steps: at most factor * bytes + plus.
#[derive(Clone, Copy)]
pub struct Growth {
    factor: f64,
    plus: f64,
}

impl Growth {
    const NONE: Growth = Growth {
        factor: 1.0,
        plus: 0.0,
    };

    fn then(self, factor: f64, plus: f64) -> Growth {
        Growth {
            factor: self.factor * factor,
            plus: self.plus * factor + plus,
        }
    }

    pub fn check(&self, bytes: usize, limits: &TkcLimits) -> Fallible<()> {
        let most = self.factor * bytes as f64 + self.plus;
        if most <= limits.text_bytes as f64 {
            return Ok(());
        }
        Err(format!(
            "its steps can make {most:.3e} bytes of these {bytes}, the limit is {}",
            limits.text_bytes
        )
        .into())
    }
}

/// How much longer a text and the text of ids can become.
pub struct Bounds {
    pub limits: TkcLimits,
    pub encoding: Growth,
    pub decoding: Growth,
    regexes: bool,
}

struct Counter<'a> {
    limits: &'a TkcLimits,
    steps: usize,
    regexes: bool,
}

fn text<'a>(step: &'a Value, field: &str) -> &'a str {
    step[field].as_str().unwrap_or("")
}

/// Of the blob in a charsmap: the size of its trie must be that of a part of it, or
/// the crate reserves what it says; and its longest replacement.
fn charsmap_growth(base64: &str) -> Fallible<f64> {
    let mut bytes = Vec::new();
    let (mut bits, mut held) = (0u32, 0);
    for c in base64.bytes() {
        let value = match c {
            b'A'..=b'Z' => c - b'A',
            b'a'..=b'z' => c - b'a' + 26,
            b'0'..=b'9' => c - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            b'=' => break,
            _ => return Err("precompiled_charsmap is not base64".into()),
        };
        bits = (bits << 6) | u32::from(value);
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held) as u8);
        }
    }
    let Some((size, rest)) = bytes.split_first_chunk::<4>() else {
        return Err("precompiled_charsmap is cut off".into());
    };
    let size = u32::from_le_bytes(*size) as usize;
    if size > rest.len() {
        return Err(format!(
            "precompiled_charsmap says that its trie has {size} bytes, it has {} in all",
            rest.len()
        )
        .into());
    }
    let longest = rest[size..].split(|&byte| byte == 0).map(<[u8]>::len).max();
    Ok(longest.unwrap_or(0).max(1) as f64)
}

impl Counter<'_> {
    /// A regular expression or a string to look for.
    fn pattern(&mut self, step: &Value) -> Fallible<()> {
        let pattern = &step["pattern"];
        self.regexes |= pattern.get("Regex").is_some();
        for kind in ["Regex", "String"] {
            let bytes = text(pattern, kind).len();
            if bytes > self.limits.pattern_bytes {
                return Err(format!(
                    "a pattern has {bytes} bytes, the limit is {}",
                    self.limits.pattern_bytes
                )
                .into());
            }
        }
        Ok(())
    }

    fn template(&self, step: &Value) -> Fallible<()> {
        let mut lists = vec![&step["single"], &step["pair"]];
        if let Some(tokens) = step["special_tokens"].as_object() {
            lists.extend(tokens.values().map(|token| &token["ids"]));
        }
        for list in lists {
            let pieces = list.as_array().map_or(0, Vec::len);
            if pieces > self.limits.steps {
                return Err(format!(
                    "a template has {pieces} pieces, the limit is {}",
                    self.limits.steps
                )
                .into());
            }
        }
        Ok(())
    }

    /// The growth of a text by one step, or by those of a sequence.
    fn behind(&mut self, growth: Growth, step: &Value, decodes: bool) -> Fallible<Growth> {
        self.steps += 1;
        if self.steps > self.limits.steps {
            return Err(format!("it has more than {} steps", self.limits.steps).into());
        }
        // What is set before every piece of a text may be set before every byte.
        let growth = match text(step, "type") {
            "Sequence" => {
                let mut growth = growth;
                for list in ["normalizers", "pretokenizers", "processors", "decoders"] {
                    for inner in step[list].as_array().into_iter().flatten() {
                        growth = self.behind(growth, inner, decodes)?;
                    }
                }
                growth
            }
            "Replace" => {
                self.pattern(step)?;
                let content = text(step, "content").len() as f64;
                match text(&step["pattern"], "String").len() {
                    0 => growth.then(1.0 + content, content),
                    bytes => growth.then((content / bytes as f64).max(1.0), 0.0),
                }
            }
            "Split" => {
                self.pattern(step)?;
                growth
            }
            "Prepend" => {
                let bytes = text(step, "prepend").len() as f64;
                growth.then(1.0 + bytes, bytes)
            }
            "Metaspace" => growth.then(8.0, 4.0),
            "ByteLevel" => growth.then(4.0, 2.0),
            "NFD" | "NFC" | "Lowercase" | "WordPiece" => growth.then(4.0, 0.0),
            "NFKD" | "NFKC" => growth.then(12.0, 0.0),
            "BertNormalizer" => growth.then(16.0, 0.0),
            "Precompiled" => growth.then(charsmap_growth(text(step, "precompiled_charsmap"))?, 0.0),
            "BPEDecoder" if decodes => growth.then(2.0, 0.0),
            "ByteFallback" => growth.then(3.0, 0.0),
            "TemplateProcessing" => {
                self.template(step)?;
                growth
            }
            _ => growth, // takes away, cuts, or the crate does not know it
        };
        Ok(growth)
    }
}

impl Bounds {
    pub fn of(json: &[u8], limits: TkcLimits) -> Fallible<Bounds> {
        let steps: Steps = serde_json::from_slice(json)?;
        let mut counter = Counter {
            limits: &limits,
            steps: 0,
            regexes: false,
        };
        let normalized = counter.behind(Growth::NONE, &steps.normalizer, false)?;
        let encoding = counter.behind(normalized, &steps.pre_tokenizer, false)?;
        counter.behind(Growth::NONE, &steps.post_processor, false)?;
        let decoding = counter.behind(Growth::NONE, &steps.decoder, true)?;
        let regexes = counter.regexes;
        // The crate normalises these when it reads them.
        let added = steps.added_tokens.iter().map(|t| t.content.len());
        normalized.check(added.sum(), &limits)?;
        encoding.check(1, &limits)?;
        decoding.check(1, &limits)?;
        Ok(Bounds {
            limits,
            encoding,
            decoding,
            regexes,
        })
    }

    /// Runs `work`, whose searches fail once it has taken too long.
    pub fn watched<T>(&self, bytes: usize, work: impl FnOnce() -> Fallible<T>) -> Fallible<T> {
        let work = || match catch_unwind(AssertUnwindSafe(work)) {
            Ok(result) => result,
            Err(panic) if panic_text(&*panic).contains("retry-limit") => {
                Err("its regular expressions take too long over this text".into())
            }
            Err(panic) => resume_unwind(panic),
        };
        if !self.regexes || bytes <= UNWATCHED_BYTES {
            return work();
        }
        let limit = Duration::from_secs_f64(self.limits.seconds);
        thread::scope(|scope| {
            let (done, over) = channel::<()>();
            // Without a thread to be had each search is bounded still.
            let _ = thread::Builder::new().spawn_scoped(scope, move || {
                if over.recv_timeout(limit) != Err(RecvTimeoutError::Timeout) {
                    return;
                }
                hurry(1);
                let _ = over.recv();
                hurry(-1);
            });
            let result = work();
            drop(done);
            result
        })
    }
}

/// Oniguruma's limit is the process's: while one text is over its time, searches
/// for others are cut short as well.
fn hurry(change: isize) {
    static LATE: AtomicUsize = AtomicUsize::new(0);
    let late = LATE.fetch_add(change as usize, Ordering::SeqCst);
    let retries = if late.wrapping_add(change as usize) > 0 {
        1
    } else {
        RETRIES_IN_SEARCH
    };
    // SAFETY: sets one number, which a search reads once, when it begins.
    unsafe { onig_sys::onig_set_retry_limit_in_search(retries) };
}

pub fn prepare() {
    hurry(0);
}

//! A C ABI over the `tokenizers` and `minijinja` crates; tokenizers_c.h is its documentation.
//! No panic leaves this library: each entry that might panic catches it and
//! reports an error.

mod bounds;
mod chat;
mod controls;

use std::any::Any;
use std::ffi::{c_char, CString};
use std::panic::{catch_unwind, set_hook, AssertUnwindSafe};
use std::slice;
use std::sync::{Once, OnceLock};

use bounds::{Bounds, TkcLimits};
use controls::Controls;
use serde_json::Value;
use tokenizers::models::bpe::BPE;
use tokenizers::{
    AddedToken, DecoderWrapper, Encoding, NormalizerWrapper, PostProcessorWrapper,
    PreTokenizerWrapper, Token, Tokenizer, TokenizerImpl,
};

type Fallible<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

#[derive(Clone, Default)]
struct Entry {
    text: Option<Box<str>>,
    added: bool,
    special: bool,
}

pub struct TkcTokenizer {
    /// Reads special tokens in a text as themselves.
    parsing: Tokenizer,
    /// Reads them as plain text; made when first asked for.
    plain: OnceLock<Tokenizer>,
    controls: Controls,
    vocabulary: Vec<Entry>,
    decoder: String,
    bounds: Bounds,
}

#[repr(C)]
pub struct TkcTokenInfo {
    text: *const u8,
    length: usize,
    added: bool,
    special: bool,
}

#[repr(C)]
pub struct TkcIds {
    data: *mut u32,
    length: usize,
}

impl TkcIds {
    /// Owned by the caller.
    fn of(ids: Vec<u32>) -> Self {
        let ids = ids.into_boxed_slice();
        TkcIds {
            length: ids.len(),
            data: Box::into_raw(ids).cast(),
        }
    }
}

#[repr(C)]
pub struct TkcText {
    data: *mut u8,
    length: usize,
}

impl TkcText {
    /// Owned by the caller.
    fn of(text: String) -> Self {
        let text = text.into_bytes().into_boxed_slice();
        TkcText {
            length: text.len(),
            data: Box::into_raw(text).cast(),
        }
    }
}

type BpeTokenizer = TokenizerImpl<
    BPE,
    NormalizerWrapper,
    PreTokenizerWrapper,
    PostProcessorWrapper,
    DecoderWrapper,
>;

/// Nearly every tokenizer is a BPE. Read as one, its vocabulary does not pass
/// through the generic values that the crate needs to tell models apart, which
/// halves the time.
fn parse(json: &[u8]) -> Fallible<Tokenizer> {
    match serde_json::from_slice::<BpeTokenizer>(json) {
        Ok(bpe) => Ok(bpe.into()),
        Err(_) => Tokenizer::from_bytes(json),
    }
}

/// A step of a tokenizer without what it puts in front of a text; null where
/// nothing is left of it.
fn without_prefix(mut step: Value) -> Value {
    match step["type"].as_str() {
        Some("Prepend") => return Value::Null,
        Some("Metaspace") => step["prepend_scheme"] = "never".into(),
        Some("ByteLevel") => step["add_prefix_space"] = false.into(),
        _ => {}
    }
    for list in ["normalizers", "pretokenizers"] {
        if let Some(steps) = step.get_mut(list).and_then(Value::as_array_mut) {
            *steps = steps.drain(..).map(without_prefix).collect();
            steps.retain(|step| !step.is_null());
        }
    }
    step
}

/// The tokenizer for what stands behind a byte that is no text. None: itself.
fn inner(tokenizer: &Tokenizer) -> Fallible<Option<Tokenizer>> {
    let normalizer = serde_json::to_value(tokenizer.get_normalizer())?;
    let pre_tokenizer = serde_json::to_value(tokenizer.get_pre_tokenizer())?;
    let bare = (
        without_prefix(normalizer.clone()),
        without_prefix(pre_tokenizer.clone()),
    );
    if bare == (normalizer, pre_tokenizer) {
        return Ok(None);
    }
    let normalizer: Option<NormalizerWrapper> = serde_json::from_value(bare.0)?;
    let pre_tokenizer: Option<PreTokenizerWrapper> = serde_json::from_value(bare.1)?;
    let mut tokenizer = tokenizer.clone();
    tokenizer.with_normalizer(normalizer)?;
    tokenizer.with_pre_tokenizer(pre_tokenizer);
    Ok(Some(tokenizer))
}

impl TkcTokenizer {
    fn new(json: &[u8], added: &[u8], limits: TkcLimits) -> Fallible<Self> {
        let bounds = Bounds::of(json, limits)?;
        let mut parsing = parse(json)?;
        // A prompt is never cut or padded silently.
        parsing.with_truncation(None)?;
        parsing.with_padding(None);
        parsing.set_encode_special_tokens(false);
        if !added.is_empty() {
            for token in serde_json::from_slice::<Vec<AddedToken>>(added)? {
                if token.special {
                    parsing.add_special_tokens([token])?;
                } else {
                    parsing.add_tokens([token])?;
                }
            }
        }

        let mut vocabulary = Vec::new();
        for (text, id) in parsing.get_vocab(true) {
            let id = id as usize;
            if id >= limits.vocabulary {
                return Err(format!(
                    "token {text:?} has the id {id}, the limit is {}",
                    limits.vocabulary.saturating_sub(1)
                )
                .into());
            }
            if id >= vocabulary.len() {
                vocabulary.resize(id + 1, Entry::default());
            }
            if let Some(other) = &vocabulary[id].text {
                return Err(format!("tokens {text:?} and {other:?} share the id {id}").into());
            }
            vocabulary[id].text = Some(text.into_boxed_str());
        }
        for (id, token) in parsing.get_added_tokens_decoder() {
            let entry = &mut vocabulary[id as usize];
            entry.text = Some(token.content.into_boxed_str());
            entry.added = true;
            entry.special = token.special;
        }
        let decoder = serde_json::to_string(&parsing.get_decoder())?;
        let controls = Controls::of(&parsing)?;
        Ok(Self {
            parsing,
            plain: OnceLock::new(),
            controls,
            vocabulary,
            decoder,
            bounds,
        })
    }

    /// Of all tokens together, as the vocabulary spells them.
    fn text_bytes(&self, ids: &[u32]) -> usize {
        let text = |&id: &u32| self.vocabulary.get(id as usize)?.text.as_ref();
        ids.iter().filter_map(text).map(|text| text.len() + 1).sum()
    }

    fn plain(&self) -> &Tokenizer {
        self.plain.get_or_init(|| {
            let mut tokenizer = self.parsing.clone();
            tokenizer.set_encode_special_tokens(true);
            tokenizer
        })
    }

    fn encode(
        &self,
        text: &[u8],
        parse_special: bool,
        add_special: bool,
        byte_ids: &[i32],
    ) -> Fallible<Vec<u32>> {
        let bounds = &self.bounds;
        bounds.encoding.check(text.len(), &bounds.limits)?;
        bounds.watched(text.len(), || {
            self.ids(text, parse_special, add_special, byte_ids)
        })
    }

    fn ids(
        &self,
        text: &[u8],
        parse_special: bool,
        add_special: bool,
        byte_ids: &[i32],
    ) -> Fallible<Vec<u32>> {
        let tokenizer = if parse_special {
            &self.parsing
        } else {
            self.plain()
        };
        if let Ok(text) = std::str::from_utf8(text) {
            return Ok(tokenizer.encode_fast(text, add_special)?.get_ids().to_vec());
        }
        let mut ids = Vec::new();
        let inner = inner(tokenizer)?;
        for (i, chunk) in text.utf8_chunks().enumerate() {
            let mut valid = chunk.valid();
            let mut tokenizer = tokenizer;
            if let Some(inner) = &inner {
                if i > 0 || valid.is_empty() {
                    tokenizer = inner;
                }
                if i == 0 && valid.is_empty() {
                    valid = " "; // what would stand before text
                }
            }
            if !valid.is_empty() {
                let encoding = tokenizer.encode_fast(valid, false)?;
                ids.extend_from_slice(encoding.get_ids());
            }
            for &byte in chunk.invalid() {
                let id = byte_ids.get(byte as usize).copied().unwrap_or(-1);
                ids.push(
                    u32::try_from(id).map_err(|_| format!("no token for the byte 0x{byte:02X}"))?,
                );
            }
        }
        if !add_special {
            return Ok(ids);
        }
        let tokens = ids
            .into_iter()
            .map(|id| Token::new(id, String::new(), (0, 0)))
            .collect();
        let encoding = Encoding::from_tokens(tokens, 0);
        let encoding = tokenizer.post_process(encoding, None, true)?;
        Ok(encoding.get_ids().to_vec())
    }
}

/// The bytes of a C argument; a null pointer is an empty one.
unsafe fn bytes<'a, T>(data: *const T, length: usize) -> &'a [T] {
    if data.is_null() {
        &[]
    } else {
        slice::from_raw_parts(data, length)
    }
}

fn panic_text(payload: &(dyn Any + Send)) -> String {
    let text = payload
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| payload.downcast_ref::<&str>().copied());
    format!("panic: {}", text.unwrap_or("without a message"))
}

/// Runs one entry; null is success, else the message, owned by the caller.
fn guarded(entry: impl FnOnce() -> Fallible<()>) -> *mut c_char {
    let message = match catch_unwind(AssertUnwindSafe(entry)) {
        Ok(Ok(())) => return std::ptr::null_mut(),
        Ok(Err(error)) => error.to_string(),
        Err(payload) => panic_text(&*payload),
    };
    let message = message.replace('\0', "\\0");
    CString::new(message).unwrap_or_default().into_raw()
}

fn prepare() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // The message travels in the error; stderr is not ours.
        set_hook(Box::new(|_| {}));
        bounds::prepare();
    });
}

/// # Safety
/// `json` holds `length` bytes, `added` `added_length`; `out` is writable.
#[no_mangle]
pub unsafe extern "C" fn tkc_new(
    json: *const u8,
    length: usize,
    added: *const u8,
    added_length: usize,
    limits: TkcLimits,
    out: *mut *mut TkcTokenizer,
) -> *mut c_char {
    guarded(|| {
        prepare();
        let tokenizer = TkcTokenizer::new(bytes(json, length), bytes(added, added_length), limits)?;
        *out = Box::into_raw(Box::new(tokenizer));
        Ok(())
    })
}

/// # Safety
/// `tokenizer` came from `tkc_new` and is not used again.
#[no_mangle]
pub unsafe extern "C" fn tkc_free(tokenizer: *mut TkcTokenizer) {
    if !tokenizer.is_null() {
        tkc_free_message(guarded(|| {
            drop(Box::from_raw(tokenizer));
            Ok(())
        }));
    }
}

/// # Safety
/// `tokenizer` is alive.
#[no_mangle]
pub unsafe extern "C" fn tkc_vocabulary_size(tokenizer: *const TkcTokenizer) -> usize {
    (*tokenizer).vocabulary.len()
}

/// # Safety
/// `tokenizer` is alive; `out` is writable.
#[no_mangle]
pub unsafe extern "C" fn tkc_token(
    tokenizer: *const TkcTokenizer,
    id: usize,
    out: *mut TkcTokenInfo,
) -> bool {
    let vocabulary = &(*tokenizer).vocabulary;
    match vocabulary.get(id) {
        Some(Entry {
            text: Some(text),
            added,
            special,
        }) => {
            *out = TkcTokenInfo {
                text: text.as_ptr(),
                length: text.len(),
                added: *added,
                special: *special,
            };
            true
        }
        _ => false,
    }
}

/// # Safety
/// `tokenizer` is alive; `text` holds `length` bytes; `id` is writable.
#[no_mangle]
pub unsafe extern "C" fn tkc_token_id(
    tokenizer: *const TkcTokenizer,
    text: *const u8,
    length: usize,
    id: *mut i64,
) -> *mut c_char {
    guarded(|| {
        let found = std::str::from_utf8(bytes(text, length))
            .ok()
            .and_then(|text| (*tokenizer).parsing.token_to_id(text));
        *id = found.map_or(-1, i64::from);
        Ok(())
    })
}

/// # Safety
/// `tokenizer` is alive; `length` is writable.
#[no_mangle]
pub unsafe extern "C" fn tkc_decoder(
    tokenizer: *const TkcTokenizer,
    length: *mut usize,
) -> *const u8 {
    let decoder = &(*tokenizer).decoder;
    *length = decoder.len();
    decoder.as_ptr()
}

/// # Safety
/// `tokenizer` is alive; `text` holds `length` bytes; `byte_ids` is null or
/// holds 256 ids; `out` is writable.
#[no_mangle]
pub unsafe extern "C" fn tkc_encode(
    tokenizer: *const TkcTokenizer,
    text: *const u8,
    length: usize,
    parse_special: bool,
    add_special: bool,
    byte_ids: *const i32,
    out: *mut TkcIds,
) -> *mut c_char {
    guarded(|| {
        let ids = (*tokenizer).encode(
            bytes(text, length),
            parse_special,
            add_special,
            bytes(byte_ids, 256),
        )?;
        *out = TkcIds::of(ids);
        Ok(())
    })
}

/// # Safety
/// `tokenizer` is alive; `ids` holds `count` ids; `out` is writable.
#[no_mangle]
pub unsafe extern "C" fn tkc_decode(
    tokenizer: *const TkcTokenizer,
    ids: *const u32,
    count: usize,
    with_special: bool,
    out: *mut TkcText,
) -> *mut c_char {
    guarded(|| {
        let ids = bytes(ids, count);
        let tokenizer = &*tokenizer;
        let length = tokenizer.text_bytes(ids);
        let bounds = &tokenizer.bounds;
        bounds.decoding.check(length, &bounds.limits)?;
        let text = bounds.watched(length, || tokenizer.parsing.decode(ids, !with_special))?;
        *out = TkcText::of(text);
        Ok(())
    })
}

/// # Safety
/// `ids` came from `tkc_encode` and is not used again.
#[no_mangle]
pub unsafe extern "C" fn tkc_free_ids(ids: TkcIds) {
    if !ids.data.is_null() {
        drop(Box::from_raw(std::ptr::slice_from_raw_parts_mut(
            ids.data, ids.length,
        )));
    }
}

/// # Safety
/// `text` came from `tkc_decode` and is not used again.
#[no_mangle]
pub unsafe extern "C" fn tkc_free_text(text: TkcText) {
    if !text.data.is_null() {
        drop(Box::from_raw(std::ptr::slice_from_raw_parts_mut(
            text.data,
            text.length,
        )));
    }
}

/// # Safety
/// `message` came from this library and is not used again.
#[no_mangle]
pub unsafe extern "C" fn tkc_free_message(message: *mut c_char) {
    if !message.is_null() {
        drop(CString::from_raw(message));
    }
}

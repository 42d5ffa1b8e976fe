//! Control tokens that only some of a text may have. Where what a user typed looks
//! like one, each that the template wrote is replaced by a private character, a
//! second tokenizer reads those as control tokens and the names of the others as
//! text, and all else stays as it is: what the crate strips, splits and prefixes
//! around a token.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::OnceLock;

use daachorse::{DoubleArrayAhoCorasick, DoubleArrayAhoCorasickBuilder, MatchKind};
use tokenizers::{AddedToken, Tokenizer};

use crate::{bytes, guarded, Fallible, TkcIds, TkcTokenizer};

/// The first of the private characters, one for each control token.
const PRIVATE: u32 = 0x0010_0000;
const MOST: usize = 0xE000; // the rest of the plane is for marks in a text

pub struct Controls {
    /// In the order of their ids.
    tokens: Vec<(u32, AddedToken)>,
    finder: Option<DoubleArrayAhoCorasick<u32>>,
    masked: OnceLock<(Tokenizer, HashMap<u32, u32>)>,
}

/// An id and the bytes of the text that it stands for.
type Placed = (u32, Range<usize>);

/// A control token in a text: which of them, and where.
type Found = (usize, Range<usize>);

fn private(index: usize) -> Option<char> {
    char::from_u32(PRIVATE + index as u32)
}

impl Controls {
    pub fn of(tokenizer: &Tokenizer) -> Fallible<Controls> {
        let mut tokens: Vec<(u32, AddedToken)> = tokenizer
            .get_added_tokens_decoder()
            .into_iter()
            .filter(|(_, token)| token.special && !token.content.is_empty())
            .collect();
        tokens.sort_by_key(|(id, _)| *id);
        tokens.truncate(MOST);
        let finder = if tokens.is_empty() {
            None
        } else {
            let names = tokens
                .iter()
                .zip(0u32..)
                .map(|((_, token), index)| (&token.content, index));
            let builder =
                DoubleArrayAhoCorasickBuilder::new().match_kind(MatchKind::LeftmostLongest);
            Some(
                builder
                    .build_with_values(names)
                    .map_err(|error| error.to_string())?,
            )
        };
        Ok(Controls {
            tokens,
            finder,
            masked: OnceLock::new(),
        })
    }

    /// Those in one part of a text; whole words only where the token says so.
    fn find(&self, text: &str, part: Range<usize>, out: &mut Vec<Found>) {
        let word = |c: char| c.is_alphanumeric() || c == '_';
        let Some(finder) = &self.finder else { return };
        for found in finder.leftmost_find_iter(&text[part.clone()]) {
            let range = part.start + found.start()..part.start + found.end();
            let index = found.value() as usize;
            let inside = text[..range.start].ends_with(word) || text[range.end..].starts_with(word);
            if !(self.tokens[index].1.single_word && inside) {
                out.push((index, range));
            }
        }
    }

    fn masked(&self, plain: &Tokenizer) -> Fallible<&(Tokenizer, HashMap<u32, u32>)> {
        if let Some(masked) = self.masked.get() {
            return Ok(masked);
        }
        let mut tokenizer = plain.clone();
        let mut names = Vec::new();
        for (index, (_, token)) in self.tokens.iter().enumerate() {
            let name = private(index).ok_or("too many control tokens")?.to_string();
            let token = AddedToken {
                content: name,
                special: false,
                single_word: false,
                ..token.clone()
            };
            names.push(token);
        }
        tokenizer.add_tokens(names.clone())?;
        let mut ids = HashMap::new();
        for (name, (id, _)) in names.iter().zip(&self.tokens) {
            let new = tokenizer
                .token_to_id(&name.content)
                .ok_or("a control token is lost")?;
            ids.insert(new, *id);
        }
        Ok(self.masked.get_or_init(|| (tokenizer, ids)))
    }
}

fn placed(tokenizer: &Tokenizer, text: &str) -> Fallible<Vec<Placed>> {
    let encoding = tokenizer.encode(text, false)?;
    let offsets = encoding.get_offsets().iter();
    let ids = encoding.get_ids().iter();
    Ok(ids
        .zip(offsets)
        .map(|(&id, &(start, end))| (id, start..end))
        .collect())
}

impl TkcTokenizer {
    /// `data`: parts of the text, in order and apart, in which and across whose
    /// edges nothing is a control token.
    fn placed(&self, text: &str, data: &[Range<usize>]) -> Fallible<Vec<Placed>> {
        let controls = &self.controls;
        let mut all = Vec::new();
        controls.find(text, 0..text.len(), &mut all);
        let mut own = Vec::new();
        let mut at = 0;
        for part in data {
            controls.find(text, at..part.start, &mut own);
            at = part.end;
        }
        controls.find(text, at..text.len(), &mut own);
        if all == own {
            return placed(&self.parsing, text);
        }

        let private = private(0).unwrap_or_default()..=private(MOST - 1).unwrap_or_default();
        if let Some(at) = text.find(|c| private.contains(&c)) {
            return Err(format!(
                "the text names control tokens and has a private character (U+100000 to \
                 U+10DFFF) at byte {at}; take one of the two out"
            )
            .into());
        }
        let (tokenizer, ids) = controls.masked(self.plain())?;
        let mut masked = String::with_capacity(text.len());
        let mut joints = vec![(0, 0)]; // in the masked text, in the text
        let mut at = 0;
        for (index, range) in own {
            masked.push_str(&text[at..range.start]);
            joints.push((masked.len(), range.start));
            masked.extend(self::private(index));
            joints.push((masked.len(), range.end));
            at = range.end;
        }
        masked.push_str(&text[at..]);
        let back = |byte: usize| {
            let (from, to) = joints[joints.partition_point(|joint| joint.0 <= byte) - 1];
            to + (byte - from)
        };
        let tokens = placed(tokenizer, &masked)?.into_iter();
        let original = |id: u32| ids.get(&id).copied().unwrap_or(id);
        Ok(tokens
            .map(|(id, range)| (original(id), back(range.start)..back(range.end)))
            .collect())
    }
}

/// # Safety
/// `tokenizer` is alive; `text` holds `length` bytes; `out` is writable.
#[no_mangle]
pub unsafe extern "C" fn tkc_find_controls(
    tokenizer: *const TkcTokenizer,
    text: *const u8,
    length: usize,
    out: *mut TkcIds,
) -> *mut std::ffi::c_char {
    guarded(|| {
        let text = std::str::from_utf8(bytes(text, length))?;
        let mut found = Vec::new();
        (*tokenizer).controls.find(text, 0..text.len(), &mut found);
        let mut flat = Vec::with_capacity(2 * found.len());
        for (_, range) in found {
            flat.extend([u32::try_from(range.start)?, u32::try_from(range.end)?]);
        }
        *out = TkcIds::of(flat);
        Ok(())
    })
}

/// # Safety
/// `tokenizer` is alive; `text` holds `length` bytes, `data` two numbers for each
/// of `parts`; `out` is writable.
#[no_mangle]
pub unsafe extern "C" fn tkc_encode_placed(
    tokenizer: *const TkcTokenizer,
    text: *const u8,
    length: usize,
    data: *const usize,
    parts: usize,
    out: *mut TkcIds,
) -> *mut std::ffi::c_char {
    guarded(|| {
        let tokenizer = &*tokenizer;
        let text = std::str::from_utf8(bytes(text, length))?;
        let mut ranges = Vec::new();
        let mut at = 0;
        for pair in bytes(data, 2 * parts).chunks_exact(2) {
            let range = pair[0]..pair[1];
            if range.start < at
                || range.end < range.start
                || !text.is_char_boundary(range.start)
                || !text.is_char_boundary(range.end)
            {
                return Err("the parts of data are out of order".into());
            }
            at = range.end;
            ranges.push(range);
        }
        let bounds = &tokenizer.bounds;
        bounds.encoding.check(text.len(), &bounds.limits)?;
        let tokens = bounds.watched(text.len(), || tokenizer.placed(text, &ranges))?;
        let mut flat = Vec::with_capacity(3 * tokens.len());
        for (id, range) in tokens {
            flat.extend([id, u32::try_from(range.start)?, u32::try_from(range.end)?]);
        }
        *out = TkcIds::of(flat);
        Ok(())
    })
}

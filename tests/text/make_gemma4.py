"""Makes tests/text/fixtures/gemma4.gguf and what its ids are.

`tokenizer.ggml.model` "gemma4" is a BPE over characters whose spaces are
U+2581, with byte tokens for what it lacks. Two oracles have to agree: the
tokenizers crate on the tokenizer.json that Google publishes for Gemma 4 (a
Replace, a Split on spaces, which are gone by then, and merges over the whole
text), and llama.cpp's rules, written out below: runs of line breaks are words of
their own, one that is a token stays whole, BOS is always added.

    pip install tokenizers==0.23.3 gguf
    python tests/text/make_gemma4.py
"""

import json
import pathlib
import re

import gguf
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers
from tokenizers import pre_tokenizers, processors

FOLDER = pathlib.Path(__file__).parent / "fixtures"
SPACE = "\u2581"
KINDS = gguf.TokenType


def entries():
    """(text, type) of the pieces of gemma.gguf, best first behind the bytes, with
    line breaks and spaces in runs, as Gemma has them."""
    fields = gguf.GGUFReader(FOLDER / "gemma.gguf").fields
    texts = fields["tokenizer.ggml.tokens"].contents()
    kinds = fields["tokenizer.ggml.token_type"].contents()
    out = [(t, KINDS(k)) for t, k in zip(texts, kinds)]
    runs = ["\n" * n for n in range(1, 6)] + [SPACE * n for n in range(2, 5)]
    taken = {text for text, _ in out}
    return out + [(run, KINDS.NORMAL) for run in runs if run not in taken]


def merges_of(pieces):
    ranks = {text: i for i, (text, kind) in enumerate(pieces)
             if kind == KINDS.NORMAL}
    return [(text[:cut], text[cut:]) for text in ranks
            for cut in range(1, len(text))
            if text[:cut] in ranks and text[cut:] in ranks]


def published(pieces, merges):
    vocab = {text: i for i, (text, _) in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(
        vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", SPACE)
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence([
        decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens([
        AddedToken(s, special=True, normalized=False)
        for s in ("<unk>", "<s>", "</s>")])
    tokenizer.add_tokens([AddedToken("<|tool|>", normalized=False)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)])
    return tokenizer


def by_rules(pieces, merges, text):
    """Ids of a text without control tokens, as llama.cpp cuts and merges it."""
    vocab = {t: i for i, (t, _) in enumerate(pieces)}
    ranks = {pair: i for i, pair in reversed(list(enumerate(merges)))}
    ids = []
    for word in re.findall("[^\n]+|\n+", text.replace(" ", SPACE)):
        parts = list(word)
        if word[0] == "\n" and word in vocab:
            parts = [word]
        while True:
            found = [(ranks[pair], i) for i, pair in enumerate(zip(parts, parts[1:]))
                     if pair in ranks]
            if not found:
                break
            _, i = min(found)
            parts[i:i + 2] = [parts[i] + parts[i + 1]]
        for part in parts:
            if part in vocab:
                ids.append(vocab[part])
            else:
                ids += [vocab[f"<0x{b:02X}>"] for b in part.encode()]
    return ids


def write_gguf(pieces, merges):
    writer = gguf.GGUFWriter(FOLDER / "gemma4.gguf", "gemma4")
    writer.add_tokenizer_model("gemma4")
    writer.add_token_list([t for t, _ in pieces])
    writer.add_token_types([k for _, k in pieces])
    writer.add_token_scores([0.0] * len(pieces))
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(False)  # which llama.cpp does not ask
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


def main():
    pieces = entries()
    merges = merges_of(pieces)
    tokenizer = published(pieces, merges)
    strings = json.loads((FOLDER / "strings.json").read_text())
    ids, differ = [], []
    for text in strings:
        special = tokenizer.encode(text).ids
        tokenizer.encode_special_tokens = True
        plain = tokenizer.encode(text, add_special_tokens=False).ids
        tokenizer.encode_special_tokens = False
        ids.append([plain, special])
        if "<|tool|>" not in text and by_rules(pieces, merges, text) != plain:
            differ.append(text)
    assert not differ, differ
    (FOLDER / "gemma4.ids.json").write_text(
        json.dumps(ids, separators=(",", ":")) + "\n")
    write_gguf(pieces, merges)
    print(len(strings), "strings,", len(merges), "merges")


if __name__ == "__main__":
    main()

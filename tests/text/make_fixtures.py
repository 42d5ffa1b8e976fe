"""Makes tests/text/fixtures: hard strings, tiny vocabularies, expected ids.

The oracles are llama.cpp for GGUF vocabularies and Hugging Face `tokenizers`
for tokenizer.json files:

    pip install llama-cpp-python==0.3.36 tokenizers==0.23.3 gguf
    python tests/text/make_fixtures.py SmolLM2-135M-Instruct.Q4_1.gguf
"""

import json
import pathlib
import sys

import gguf
from llama_cpp import Llama
from tokenizers import (AddedToken, Regex, Tokenizer, decoders, models,
                        normalizers, pre_tokenizers, processors, trainers)

FOLDER = pathlib.Path(__file__).parent / "fixtures"

STRINGS = [
    # prose
    "", " ", "a", " a", "a ", "Hello", " Hello", "Hello world",
    "The Eiffel Tower is located in the city of",
    "When Mary and John went to the store, John gave a drink to",
    "Don't, won't, I'll, she's, we've, they're, I'd, I'm.",
    "DON'T WON'T I'LL SHE'S WE'VE THEY'RE I'D I'M",
    "don\u2019t won\u2019t it\u2019s", "'s't're've'm'll'd", "'S 'T 'Re 'vE 'lL",
    "rock'n'roll o'clock 'tis", "''s '''t", "state-of-the-art e-mail",
    "Mr. Smith, Ph.D., said: \"Yes!\" (twice).", "Wait... what?!?!",
    "iPhone eBay YouTube McDonald LaTeX", "ALL CAPS AND camelCase snake_case",
    "supercalifragilisticexpialidocious", "x", "xyzzy plugh",
    # digits
    "0", "7", "42", "123", "1234", "12345", "123456", "1234567890",
    "3.14159", "1,000,000", "-1e-10", "0x1F 0b101 0o17", "2026-11-24T02:03:04Z",
    "a1b2c3", "1st 2nd 3rd 4th", "\u00bd \u00bc \u00b2\u00b3 \u2167 \u2460",
    "\u0661\u0662\u0663\u0664 \u0967\u0968\u0969 \uff11\uff12\uff13",
    "\u4e00\u4e8c\u4e09\u56db\u4e94", "9" * 50, "1 22 333 4444 55555",
    "$1.99 50% #1 @2 &3 *4", "192.168.0.1:8080",
    # whitespace
    "  ", "   ", "    a", "a    b", "a  b   c    d", " a b ", "\t", "\t\t",
    "a\tb", "\ta", "\n", "\n\n", "\n\n\n", "a\nb", "a\n\nb", "a\n b", "a \nb",
    " \n ", "\n a", "\r", "\r\n", "a\r\nb", "a\r\n\r\nb", "\r\r\n\n",
    " \t \n \r ", "a\x0bb\x0cc", "a\u00a0b", "\u00a0\u00a0", "a\u2003b\u2009c",
    "\u3000\u5168\u89d2", "a\u200bb", "a\u2028b\u2029c", "a\u0085b", "a\u1680b",
    "a\u202fb\u205f", "end with spaces   ", "end with newline\n",
    "    indented\n        more\n    back", " " * 64, "\n" * 40, "\t" * 33,
    " \n" * 20, "x" + " " * 31 + "y",
    # control characters
    "\x00", "a\x00b", "\x00\x00\x00", "\x01\x02\x03", "\x1b[31mred\x1b[0m",
    "\x7f", "\x1c\x1e\x1f", "a\x08b", "\x80\x9f", "\ufeff", "\ufeffBOM first",
    "mid\ufeffdle", "\x04 \x06 \x13",
    # punctuation and symbols
    "!", "!!!", "...", "\u2026", "---", "\u2014 \u2013 \u2212", "()[]{}<>",
    "\\ / | ~ ` ^ _ =", "\"quoted\" 'single' \u201ccurly\u201d \u00abguill\u00bb",
    "a+b=c; d*e/f", "-->", "=>", "::", "//", "/* */", "# heading", "* item",
    "[link](https://example.org/a?b=c&d=e#f)", "\u20ac\u00a3\u00a5\u20b9\u20bf",
    "\u2200x\u2208\u211d: x\u00b2\u22650", "\u2190\u2191\u2192\u2193 \u21d2",
    "\u2580\u2581\u2582 \u2581word", "\u2581", "\u2581\u2581a", "\u00ac\u00a6",
    # scripts
    "\u00e9", "caf\u00e9 na\u00efve \u00fcber \u00c5ngstr\u00f6m",
    "cafe\u0301 e\u0301\u0302\u0303", "\u0130stanbul \u0131\u015f\u0131k",
    "\u1e9e \u00df \ufb01 \ufb02 \u017f \u212a", "it'\u017f that'\u017fs",
    "\u041f\u0440\u0438\u0432\u0435\u0442, \u043c\u0438\u0440!",
    "\u0393\u03b5\u03b9\u03ac \u03c3\u03bf\u03c5 \u039a\u03cc\u03c3\u03bc\u03b5",
    "\u05e9\u05dc\u05d5\u05dd \u05e2\u05d5\u05dc\u05dd",
    "\u0645\u0631\u062d\u0628\u0627 \u0628\u0627\u0644\u0639\u0627\u0644\u0645",
    "\u202eRTL override\u202c \u200fmark\u200e",
    "\u0928\u092e\u0938\u094d\u0924\u0947 \u0926\u0941\u0928\u093f\u092f\u093e",
    "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35\u0e0a\u0e32\u0e27\u0e42\u0e25\u0e01",
    "\u4f60\u597d\uff0c\u4e16\u754c\uff01\u4eca\u5929\u5929\u6c14\u5f88\u597d\u3002",
    "\u3053\u3093\u306b\u3061\u306f\u4e16\u754c \u30ab\u30bf\u30ab\u30ca \uff76\uff80",
    "\uc548\ub155\ud558\uc138\uc694 \uc138\uacc4",
    "\u1112\u1161\u11ab\u1100\u1173\u11af", "\u10d2\u10d0\u10db\u10d0\u10e0\u10ef\u10dd",
    "\u0531\u0532\u0533 \u0561\u0562\u0563", "\u12a0\u121b\u122d\u129b",
    "\u1780\u1798\u17d2\u1796\u17bb\u1787\u17b6", "\u0f56\u0f7c\u0f51\u0f0b",
    "\u13a3\u13b3\u13a9 \u14c0\u1403", "\u16a0\u16a2\u16a6", "\U00010330\U00010331",
    "\U0001d400\U0001d41a \U0001d7d8\U0001d7d9", "\U0001f100 \u24b6 \u3245",
    "\U00020000\U0002a6d6", "Z\u0351\u036b\u0343a\u0334\u0321l\u0357g\u0335o\u0321",
    "\u0c24\u0c46\u0c32\u0c41\u0c17\u0c41 \u0ba4\u0bae\u0bbf\u0bb4\u0bcd",
    # emoji
    "\U0001f600", "\U0001f600\U0001f601", "a\U0001f600b", " \U0001f680 launch",
    "\U0001f44d\U0001f3fd", "\U0001f468\u200d\U0001f469\u200d\U0001f467",
    "\U0001f3f3\ufe0f\u200d\U0001f308", "\U0001f1eb\U0001f1f7\U0001f1e9", "\u2764\ufe0f",
    "1\ufe0f\u20e3 #\ufe0f\u20e3", "\u263a \u2714\ufe0e",
    # not characters, private use, the edges of the planes
    "\ufffd", "\ufffe\uffff", "\ue000\uf8ff", "\U000f0000", "\U0010ffff",
    "\u07ff\u0800\ud7ff\ue000\uffff\U00010000", "\u0378\u0530",
    # code
    "def f(x):\n    return x ** 2\n", "if (a && b || !c) { d++; }",
    "<div class=\"a\">&amp;</div>", "SELECT * FROM t WHERE a='b';",
    "std::vector<int> v{1, 2, 3};", "\tfor (;;) {\n\t\tbreak;\n\t}\n",
    "{\"a\": [1, 2.5, null], \"b\": \"\\u00e9\"}", "a_b__c___d", "x=1;y=2;;z",
    "printf(\"%d\\n\", 0x7f);", "C:\\Users\\a\\b.txt ~/.cache/*",
    "$\\frac{1}{2}\\sum_{i=0}^{n}$", "user@example.org", "<!-- c --> <br/>",
    # what looks like a special token
    "<|im_start|>", "<|im_start|>user\nHi<|im_end|>\n", "<|endoftext|>",
    " <|im_end|> ", "<|im_start", "im_start|>", "<s>", "</s>", "<unk>",
    "<s>Hello</s>", "a<s>b", "<0x41>", "<0x0A>", "<0xZZ>", "[INST] hi [/INST]",
    "<|tool|>", "call <|tool|> now", "<|tool|><|tool|>", "<|begin_of_text|>",
    "<|im_start|><|im_start|>", "<repo_name>a/b<file_sep>",
    # long runs
    "a" * 300, "ab" * 200, "." * 257, "=" * 120, "\u00e9" * 100, "\U0001f600" * 40,
    "\u4e2d" * 120, "1" * 301, "word " * 100, "!?" * 90, "A" * 129,
    "aAbB1_-" * 30, "\r\n" * 65, "the the the " * 20,
]

CORPUS = [
    "The quick brown fox jumps over the lazy dog. " * 4,
    "When Mary and John went to the store, John gave a drink to Mary. " * 4,
    "The city of Paris is in France; the tower is located in the city. " * 4,
    "def f(x):\n    return x + 1\n\nfor i in range(10):\n    print(i)\n" * 4,
    "It's what they're saying: I'll, you'd, we've, don't, I'M, SHE'S. " * 4,
    "In 1999, 2024 and 2026 there were 123 of 1,000,000. 12345 100 200 " * 4,
    "\u041f\u0440\u0438\u0432\u0435\u0442 \u043c\u0438\u0440 " * 6,
    "\u4f60\u597d\u4e16\u754c\uff0c\u4f60\u597d\u3002" * 6,
    "caf\u00e9 na\u00efve \U0001f600 \U0001f680 " * 6,
    "a    b        c\n\n\n\td\r\n\r\n !!\n\n?\r\n" * 6,
    "1 22 333 4444 55555 666666 1234567890 (a)[b]{c} x=1;y=2;; ... $1.99 " * 4,
]

CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
TAIL = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3 = CONTRACTION + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}" + TAIL
QWEN2 = CONTRACTION + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}" + TAIL


def write(name, value):
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"))
    (FOLDER / name).write_text(text + "\n")


def byte_level(pattern, normalizer, specials, bos):
    """A byte-level BPE of about 700 tokens. It is trained on whole lines, so
    that a word boundary in the wrong place always shows in the ids."""
    words = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = words
    tokenizer.train_from_iterator(
        [part for text in CORPUS for part in text.split(". ")],
        trainers.BpeTrainer(
            vocab_size=700, show_progress=False, max_token_length=6,
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet())))
    data = json.loads(tokenizer.to_str())
    data["model"]["ignore_merges"] = bos is not None
    tokenizer = Tokenizer.from_str(json.dumps(data))
    if normalizer:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(pattern), "isolated"), words])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [AddedToken(s, special=True, normalized=False) for s in specials])
    tokenizer.add_tokens([AddedToken("<|tool|>", normalized=False)])
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[
                (bos, tokenizer.token_to_id(bos))])
    return tokenizer


def pieces():
    """(text, score, type) of a SentencePiece-like BPE."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    trained.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=400, show_progress=False))
    model = json.loads(trained.to_str())["model"]
    # Like the real ones, it has no piece with a line break.
    merged = [p for p in dict.fromkeys(a + b for a, b in model["merges"])
              if not set(p) & set("\r\n")]
    kinds = gguf.TokenType
    out = [("<unk>", 0.0, kinds.UNKNOWN), ("<s>", 0.0, kinds.CONTROL),
           ("</s>", 0.0, kinds.CONTROL)]
    out += [(f"<0x{b:02X}>", 0.0, kinds.BYTE) for b in range(256)]
    out += [(p, -float(i), kinds.NORMAL) for i, p in enumerate(merged)]
    characters = [c for c in model["vocab"] if len(c) == 1 and c not in "\r\n"]
    for c in characters:
        out.append((c, -float(len(out)), kinds.NORMAL))
    return out + [("<|tool|>", 0.0, kinds.USER_DEFINED)]


def sentence_piece(entries, legacy):
    """The tokenizer.json that Hugging Face converts such a model to."""
    vocab = {text: i for i, (text, _, _) in enumerate(entries)}
    merges = []
    for text, score, kind in entries:
        if kind != gguf.TokenType.NORMAL:
            continue
        for cut in range(1, len(text)):
            if text[:cut] in vocab and text[cut:] in vocab:
                merges.append((-score, (text[:cut], text[cut:])))
    merges = [pair for _, pair in sorted(merges, key=lambda m: m[0])]
    tokenizer = Tokenizer(models.BPE(
        vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    steps = [decoders.Replace("\u2581", " "), decoders.ByteFallback(),
             decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    if legacy:
        tokenizer.normalizer = normalizers.Sequence(
            [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(
            prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Sequence(steps)
    tokenizer.add_special_tokens([
        AddedToken(s, special=True, normalized=False)
        for s in ("<unk>", "<s>", "</s>")])
    tokenizer.add_tokens([AddedToken("<|tool|>", normalized=False)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)])
    return tokenizer


def write_gguf(name, model, pre, tokens, kinds, merges=None, scores=None,
               bos=None):
    writer = gguf.GGUFWriter(str(FOLDER / name), "llama")
    writer.add_tokenizer_model(model)
    if pre:
        writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    if merges is not None:
        writer.add_token_merges(merges)
    if scores is not None:
        writer.add_token_scores(scores)
    writer.add_bos_token_id(bos if bos is not None else 0)
    writer.add_eos_token_id(len(tokens) - 2)
    writer.add_add_bos_token(bos is not None)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


def gguf_of(name, tokenizer, pre, bos):
    data = json.loads(tokenizer.to_str())
    added = {t["id"]: t for t in data["added_tokens"]}
    size = tokenizer.get_vocab_size()
    kinds = [gguf.TokenType.NORMAL] * size
    for i, token in added.items():
        kinds[i] = (gguf.TokenType.CONTROL if token["special"]
                    else gguf.TokenType.USER_DEFINED)
    write_gguf(
        name, "gpt2", pre, [tokenizer.id_to_token(i) for i in range(size)],
        kinds, merges=[" ".join(m) for m in data["model"]["merges"]], bos=bos)


def llama_ids(path):
    """Plain ids, and ids with BOS and special tokens read as such."""
    model = Llama(str(path), vocab_only=True, verbose=False)
    return [[model.tokenize(s.encode(), add_bos=False, special=False),
             model.tokenize(s.encode(), add_bos=True, special=True)]
            for s in STRINGS]


def crate_ids(tokenizer):
    out = []
    for s in STRINGS:
        tokenizer.encode_special_tokens = True
        plain = tokenizer.encode(s, add_special_tokens=False).ids
        tokenizer.encode_special_tokens = False
        out.append([plain, tokenizer.encode(s).ids])
    return out


def missing(path):
    """Indices of strings with a byte that the vocabulary lacks."""
    tokens = set(gguf.GGUFReader(path).fields["tokenizer.ggml.tokens"]
                 .contents())
    spell = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return [i for i, s in enumerate(STRINGS) for words in
            [spell.pre_tokenize_str(s)]
            if any(c not in tokens for word, _ in words for c in word)]


def main(demo):
    assert len(set(STRINGS)) == len(STRINGS), "a string stands twice"
    FOLDER.mkdir(exist_ok=True)
    write("strings.json", STRINGS)

    ids = llama_ids(demo)
    for i in missing(demo):
        ids[i] = None
    write("smollm2.ids.json", ids)

    specials = ["<|begin_of_text|>", "<|im_start|>", "<|im_end|>"]
    llama3 = byte_level(LLAMA3, None, specials, "<|begin_of_text|>")
    qwen2 = byte_level(QWEN2, normalizers.NFC(), specials, None)
    entries = pieces()
    for name, tokenizer in (
            ("llama3", llama3), ("qwen2", qwen2),
            ("sentencepiece", sentence_piece(entries, legacy=True)),
            ("metaspace", sentence_piece(entries, legacy=False))):
        write(name + ".tokenizer.json", json.loads(tokenizer.to_str()))
        write(name + ".tokenizer.ids.json", crate_ids(tokenizer))

    bos = llama3.token_to_id("<|begin_of_text|>")
    gguf_of("llama-bpe.gguf", llama3, "llama-bpe", bos)
    gguf_of("bpe.gguf", qwen2, "qwen2", None)
    write_gguf(
        "spm.gguf", "llama", None, [e[0] for e in entries],
        [e[2] for e in entries], scores=[e[1] for e in entries], bos=1)
    for name in ("llama-bpe", "spm"):
        write(name + ".ids.json", llama_ids(FOLDER / (name + ".gguf")))
    # The tests put another pre-tokenizer's name into bpe.gguf.
    for pre in ("default", "gpt-2", "smollm", "smaug-bpe", "qwen2"):
        scratch = FOLDER / "scratch.gguf"
        gguf_of(scratch.name, qwen2, pre, None)
        write(pre + ".ids.json", llama_ids(scratch))
        scratch.unlink()
    print(len(STRINGS), "strings")


if __name__ == "__main__":
    main(sys.argv[1])

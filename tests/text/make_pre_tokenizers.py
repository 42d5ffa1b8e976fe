"""Makes fixtures/pre_tokenizers.json: what llama.cpp makes of strings.json, and of
some more, under each name of a pre-tokenizer, by the vocabulary of pre.gguf. That
was trained on them whole, with no words: its tokens show where one ends.

    npm install @node-llama-cpp/linux-x64@3.22.1   # llama.cpp, built
    pip install gguf==0.19.0 tokenizers==0.23.3
    python make_pre_tokenizers.py node_modules/@node-llama-cpp/linux-x64/bins/linux-x64

llama.cpp takes marks for no letters and knows the case of ASCII alone where words end
by case (gpt-4o, tekken); there the vocabulary's own pattern decides, and must agree
with llama.cpp on what holds neither. Of a string only what differs from `qwen2` is kept, of names that are alike one.
"""

import json
import pathlib
import subprocess
import sys
import tempfile
import unicodedata

import gguf
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

FOLDER = pathlib.Path(__file__).parent / "fixtures"
NAMES = (
    "qwen2 default gpt-2 smollm dbrx glm4 hunyuan qwen35 gpt-4o llama4 minimax-m2 tekken "
    "falcon deepseek-llm deepseek-coder deepseek-v3 hunyuan-dense joyai-llm bloom "
    "gpt3-finnish poro-chat viking seed-coder bailingmoe llada-moe gigachat mellum "
    "trillion solar-open grok-2"
).split()
# Of tiktoken's o200k_base, and of Mistral's tekken.json.
BY_CASE = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+%s|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*%s|"
    r"\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SHORT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
OWN = {"tekken": BY_CASE % ("", "", "")} | dict.fromkeys(
    ("gpt-4o", "llama4", "minimax-m2"), BY_CASE % (SHORT, SHORT, "{1,3}")
)

MORE = [
    "helloWorld HTTPServer fooBarBaz getURLFor2Items",
    "\u00c9cole\u00c9tat stra\u00dfeNord \u041c\u043e\u0441\u043a\u0432\u0430\u0413\u043e\u0440\u043e\u0434",
    "\u0928\u092e\u0938\u094d\u0924\u0947 \u0915\u094d\u092f\u093e",
    "e\u0301a\u0300 n\u0303o",
    "a/b//c\n/\n d/",
    "x = y!\n\n\n  z?\r\n\r\n",
    "   \n  \n\n   end   ",
    "#include <a.h>\nint f(void){return 12345;}",
    "12 345 6789 1234567890",
    "\u4e2d\u6587abc\u65e5\u672c\u8a9e\u30ab\u30ca \ud55c\uad6d\uc5b4",
    "He'll've DON'T it\u2019s they'RE",
    "(a.b|c,d)!? \u3002\uff0c\u3001 \u0964\u06d4\u060c \u2026",
    "\uff01\uff0f\uff1a\uff5e \u2018q\u201f \u3000\u3001",
    "$5+<6>=^~|`7`",
]
SCRIPT = """
const [addon, strings, out, ...files] = process.argv.slice(1);
const llama = require(addon + "/llama-addon.node");
llama.loadBackends(addon);
(async () => {
  await llama.init();
  const texts = JSON.parse(require("fs").readFileSync(strings));
  const all = [];
  for (const file of files) {
    const model = new llama.AddonModel(file, {vocabOnly: true});
    await model.init();
    all.push(texts.map(text => text ? Array.from(model.tokenize(text, false)) : []));
  }
  require("fs").writeFileSync(out, JSON.stringify(all));
  process.exit(0);
})();
"""


def write(path, name, tokens, merges):
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(name)
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.NORMAL] * len(tokens))
    writer.add_token_merges(merges)
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_add_bos_token(False)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


def vocabulary(texts):
    whole = Tokenizer(models.BPE())
    whole.pre_tokenizer = pre_tokenizers.ByteLevel(False, use_regex=False)
    trainer = trainers.BpeTrainer(
        vocab_size=2000,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    whole.train_from_iterator(texts * 2, trainer)
    tokens = [whole.id_to_token(i) for i in range(whole.get_vocab_size())]
    model = json.loads(whole.to_str())["model"]
    return tokens, [" ".join(merge) for merge in model["merges"]]


# What llama.cpp takes for what it is.
KNOWN = ("Lo", "Nd", "Nl", "No", "Po", "Ps", "Pe", "Pi", "Pf", "Sm", "So", "Zs")


def own_ids(pattern, tokens, merges, texts):
    pairs = [tuple(merge.split(" ")) for merge in merges]
    tokenizer = Tokenizer(models.BPE({t: i for i, t in enumerate(tokens)}, pairs))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(False, use_regex=False),
        ]
    )
    return [tokenizer.encode(text).ids for text in texts]


def main():
    addon = str(pathlib.Path(sys.argv[1]).resolve())
    texts = json.loads((FOLDER / "strings.json").read_text()) + MORE
    tokens, merges = vocabulary(texts)
    write(FOLDER / "pre.gguf", "qwen2", tokens, merges)
    with tempfile.TemporaryDirectory() as folder:
        files = [f"{folder}/{name}.gguf" for name in NAMES]
        for name, path in zip(NAMES, files):
            write(path, name, tokens, merges)
        strings = f"{folder}/strings.json"
        pathlib.Path(strings).write_text(json.dumps(texts))
        out = pathlib.Path(folder) / "ids.json"
        subprocess.run(
            ["node", "-e", SCRIPT, addon, strings, str(out), *files],
            check=True,
            stderr=subprocess.DEVNULL,
        )
        all_ids = dict(zip(NAMES, json.loads(out.read_text())))
    for name, pattern in OWN.items():
        own = own_ids(pattern, tokens, merges, texts)
        for text, ids, theirs in zip(texts, own, all_ids[name]):
            plain = all(c.isascii() or unicodedata.category(c) in KNOWN for c in text)
            assert ids == theirs or not plain, (name, text)
        all_ids[name] = own
    kept = {"more": MORE, "qwen2": all_ids["qwen2"]}
    seen = {}
    for name, many in all_ids.items():
        alike = seen.setdefault(json.dumps(many), name)
        if alike != name:
            kept[name] = alike
        elif name != "qwen2":
            usual = enumerate(zip(many, all_ids["qwen2"]))
            kept[name] = {str(i): ids for i, (ids, other) in usual if ids != other}
    text = json.dumps(kept, separators=(",", ":"))
    (FOLDER / "pre_tokenizers.json").write_text(text + "\n")
    for name, differs in kept.items():
        print(name, differs if isinstance(differs, str) else len(differs))


if __name__ == "__main__":
    main()

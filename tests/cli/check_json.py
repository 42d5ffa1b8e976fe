"""usage: check_json.py BINARY DOCS MODEL TOKENIZER_MODEL: runs every verb with
--json and holds its answer against the shapes that DOCS (docs/json.md) gives.

Fails where a field is missing, is not documented or is of another kind, where
a verb has no shape or a shape no verb, and where a flat list is not as long as
its axes say. MODEL has no tokenizer, TOKENIZER_MODEL has one.
"""

import json
import math
import os
import re
import subprocess
import sys
import tempfile

TOKEN = re.compile(r"\s*([A-Za-z_][\w-]*|[\[\]{}:,|=?*])")
KINDS = {
    "text": lambda v: isinstance(v, str),
    "bool": lambda v: isinstance(v, bool),
    "null": lambda v: v is None,
    "number": lambda v: isinstance(v, (int, float)) and not isinstance(v, bool),
    "int": lambda v: isinstance(v, int) and not isinstance(v, bool),
}


class Parser:
    """The blocks ```shape ... ``` of a page: {name: shape}."""

    def __init__(self, text):
        self.words, at = [], 0
        while text[at:].strip():
            found = TOKEN.match(text, at)
            assert found, f"no shape: {text[at:at + 40]!r}"
            self.words.append(found[1])
            at = found.end()

    def take(self, *wanted):
        word = self.words.pop(0)
        assert not wanted or word in wanted, f"{word!r} instead of {wanted}"
        return word

    def definitions(self):
        out = {}
        while self.words:
            name = self.take()
            self.take("=")
            assert name not in out, f"{name} twice"
            out[name] = self.shape()
        return out

    def shape(self):
        any_of = [self.one()]
        while self.words and self.words[0] == "|":
            self.take("|")
            any_of.append(self.one())
        return ("any", any_of)

    def one(self):
        word = self.take()
        if word == "[":
            inner = self.shape()
            self.take("]")
            return ("list", inner)
        if word != "{":
            return ("name", word)
        fields = {}
        while True:
            key = self.take()
            optional = self.words[0] == "?" and bool(self.take("?"))
            self.take(":")
            fields[key] = (self.shape(), optional)
            if self.take(",", "}") == "}":
                return ("object", fields)


def wrong(value, shape, known, where):
    """What of `value` is not of that shape; nothing where all is."""
    kind, inner = shape
    if kind == "any":
        answers = [wrong(value, one, known, where) for one in inner]
        return [] if [] in answers else answers[-1 if value is not None else 0]
    if kind == "name":
        if inner in KINDS:
            return [] if KINDS[inner](value) else [f"{where} is no {inner}"]
        return wrong(value, known[inner], known, where)
    if kind == "list":
        if not isinstance(value, list):
            return [f"{where} is no list"]
        return [e for i, v in enumerate(value)
                for e in wrong(v, inner, known, f"{where}[{i}]")]
    if not isinstance(value, dict):
        return [f"{where} is no object"]
    if "*" in inner:
        return [e for k, v in value.items()
                for e in wrong(v, inner["*"][0], known, f"{where}.{k}")]
    out = [f"{where}.{k} is not documented" for k in value if k not in inner]
    for key, (one, optional) in inner.items():
        if key in value:
            out += wrong(value[key], one, known, f"{where}.{key}")
        elif not optional:
            out.append(f"{where}.{key} is missing")
    return out


def lengths(value, where):
    """What of a sweep's lists does not have the length of its axes."""
    if isinstance(value, list):
        return [e for i, v in enumerate(value) for e in lengths(v, f"{where}[{i}]")]
    if not isinstance(value, dict):
        return []
    out = [e for k, v in value.items() for e in lengths(v, f"{where}.{k}")]
    if "axes" in value:
        if [len(axis["values"]) for axis in value["axes"]] != value["shape"]:
            out.append(f"{where}.shape is not that of its axes")
        cells = math.prod(value["shape"])
        for key in ("effect", "spread"):
            if len(value[key]) != cells:
                out.append(f"{where}.{key} is not {cells} long")
        if value["cells"] != cells or not 0 <= value["computed"]:
            out.append(f"{where}.cells is not {cells}")
    return out


def runs(model, worded, family, folder):
    """(shape, arguments) of each verb, with its options that add fields."""
    pair = ["--clean-ids", "3,4,5,6,7", "--corrupt-ids", "3,9,5,6,8"]
    by_id = ["--metric", "logit_diff(id:5,id:9)"]
    data = os.path.join(folder, "data.txt")
    with open(data, "w") as file:
        file.write("one two three four\nfive six seven eight nine ten\n" * 40)
    task = os.path.join(folder, "task.json")
    with open(task, "w") as file:
        json.dump({"pairs": [{"clean": "a b c", "corrupt": "a d c",
                              "answers": [5], "foils": [{"id": 9}]}]}, file)
    lens = os.path.join(folder, "lens")
    probe = os.path.join(folder, "probe.safetensors")
    jlens = os.path.join(folder, "jlens.safetensors")
    ridge = os.path.join(folder, "ridge.safetensors")
    labelled, numbers = (os.path.join(folder, it) for it in ("l.jsonl", "n.jsonl"))
    with open(labelled, "w") as words, open(numbers, "w") as scores:
        for i in range(12):
            words.write(json.dumps({"text": f"{i} it", "label": i % 2 == 0}) + "\n")
            scores.write(json.dumps({"text": f"{i} it", "label": i / 3}) + "\n")
    tensors = os.path.join(folder, "out.safetensors")
    pairs = os.path.join(folder, "pairs.jsonl")
    with open(pairs, "w") as file:
        for word in ("one", "two", "three"):
            json.dump({"positive": f"{word} four five", "negative": f"{word} six"},
                      file)
            file.write("\n")
    vector = os.path.join(folder, "vector.safetensors")
    ablates = os.path.join(folder, "ablates.safetensors")
    control = os.path.join(folder, "vector.gguf")
    again = os.path.join(folder, "again.safetensors")
    saes = os.path.join(os.path.dirname(__file__), "../sae/fixtures")
    edit = ["--edit", "layers.0.mlp_out=scale(0.5)"]
    sae = ["--sae", os.path.join(os.path.dirname(__file__), "../sae/fixtures/eval"),
           "--no-sae-check"]
    return [
        ("info", ["info", model]),
        ("info", ["info", worded]),
        ("sites", ["sites", model]),
        ("sites", ["sites", model, "layers.1.attn.*"]),
        ("families", ["families"]),
        ("tokens-verb", ["tokens", worded, "one two", "<|begin_of_text|>", ""]),
        ("trace", ["trace", model, "--ids", "3,4,5", "--track", "id:7",
                   "--metric", "prob(id:7)", "--save", "layers.*.attn.scores",
                   "-o", tensors, *edit]),
        ("trace", ["trace", worded, "one two"]),
        ("generate", ["generate", model, "--ids", "3,4,5", "--max-tokens", "4",
                      "--save", "layers.*.attn.pattern", "-o",
                      os.path.join(folder, "generated.safetensors"), *edit,
                      "--when", "steps:1..2"]),
        ("generate", ["generate", worded, "one two", "one", "--max-tokens", "3",
                      "--temperature", "0.8", "--top-k", "5", "--stop", "zz"]),
        ("lens", ["lens", model, "--ids", "3,4,5", "--embed"]),
        ("lens", ["lens", worded, "one two", "--track", "id:7", *edit]),
        ("attention", ["attention", model, "--ids", "3,4,5"]),
        ("attention", ["attention", worded, "one two", "--layer", "-1",
                       "--head", "2", *edit]),
        ("patch", ["patch", model, *pair, *by_id, "--compare-cost"]),
        ("patch", ["patch", worded, "--task", "induction", "--n", "2", "--by",
                   "layer,head", "--site", "z", "--raw"]),
        ("ablate", ["ablate", worded, "one two three", "--data", data,
                    "--metric", "prob(id:5)"]),
        ("ablate", ["ablate", model, "--ids", "3,4,5", "--how", "zero",
                    "--by", "neuron", "--site", "mlp_out", *by_id]),
        ("causal-trace", ["causal-trace", worded, "one two three four",
                          "--subject", "two", "--samples", "2"]),
        ("path-patch", ["path-patch", worded, "--clean", "a b c",
                        "--corrupt", "a d c", *by_id,
                        "--receiver", "2.1.q", "--raw"]),
        ("attribute", ["attribute", model, *pair, *by_id, "--site",
                       "z,resid_pre", "--by", "layer,pos", "--exact"]),
        ("attribute", ["attribute", model, *pair, *by_id, "--site", "q,z",
                       "--by", "layer", "--method", "atp-star", "--exact"]),
        ("attribute", ["attribute", model, *pair, *by_id, "--rule", "frozen"]),
        ("edges", ["edges", model, *pair, *by_id, "--compare-cost", "--sample", "0.3"]),
        ("edges", ["edges", model, *pair, *by_id, "--method", "exact"]),
        ("edges", ["edges", worded, "--clean", "a b c", "--method", "ifr"]),
        ("edges", ["edges", worded, "--task", task, "--method", "eap-ig",
                   "--by-position", "-o", os.path.join(folder, "edges.safetensors")]),
        ("path-patch", ["path-patch", worded, "--task", task]),
        ("ablate", ["ablate", worded, "--task", "induction", "--n", "2"]),
        ("causal-trace", ["causal-trace", worded, "--task", "induction",
                          "--samples", "2"]),
        ("dla", ["dla", worded, "--task", "induction", "--n", "2"]),
        ("heads", ["heads", worded, "--task", "induction", "--n", "2"]),
        ("tasks", ["tasks", worded, task]),
        ("dla", ["dla", model, "--ids", "3,4,5", *by_id, "--unit", "head"]),
        ("tuned-lens-train", ["tuned-lens", "train", worded, "--text", data,
                              "--steps", "2", "--length", "16", "-o", lens,
                              "--eval", data, "--eval-length", "32"]),
        ("tuned-lens-eval", ["tuned-lens", "eval", worded, "--text", data,
                             "--lens", lens, "--eval-length", "32"]),
        ("jlens", ["jlens", "fit", worded, "--text", data, "--length", "8",
                   "--skip", "2", "--prompts", "2", "-o", jlens]),
        ("lens", ["lens", worded, "one two", "--jacobian", jlens]),
        ("jlens-local", ["jlens", "local", worded, "one two", "--tokens", "id:3",
                         "--jacobian", jlens]),
        ("jlens-local", ["jlens", "local", worded, "one two", "--tokens", "id:3", "id:4"]),
        ("jlens-space", ["jlens", "space", worded, "one two", "--jacobian", jlens,
                         "--k", "3"]),
        ("jlens-space", ["jlens", "space", worded, "one two", "--jacobian", jlens,
                         "--k", "2", "--method", "nnls", "--controls", "0"]),
        ("jlens-directions", ["jlens", "directions", worded, "--text", data,
                              "--length", "8", "--skip", "2", "--prompts", "2",
                              "--tokens", "id:3", "id:4", "-o", jlens, "--force"]),
        ("collect", ["collect", worded, "--text", data, "--save", "embed,ln_final",
                     "--length", "16", "--store-dtype", "float16", *edit,
                     "-o", os.path.join(folder, "store")]),
        ("probe-train", ["probe", "train", worded, "--data", labelled, "--site",
                         "layers.*.resid_post", "--folds", "2", "-o", probe]),
        ("probe-train", ["probe", "train", worded, "--data", numbers, "--site",
                         "layers.1.resid_post", "--kind", "ridge", "--folds", "0",
                         "--k", "2", "-o", ridge]),
        ("probe-apply", ["probe", "apply", worded, probe, "one two", *edit]),
        ("generate", ["generate", worded, "one two", "--max-tokens", "3",
                      "--probe", probe, "--probe", ridge]),
        ("generate", ["generate", worded, "one", "two three", "--max-tokens", "2",
                      "--probe", probe]),
        ("steer-train", ["steer", "train", worded, "--pairs", pairs,
                         "-o", vector, "--positions", "-2,-1"]),
        ("steer-train", ["steer", "train", worded, "--pairs", pairs, "-o", ablates,
                         "--operation", "project_out"]),
        ("steer-sweep", ["steer", "sweep", worded, "one two", "two three four",
                         "--vector", vector, *by_id, "--random", "2"]),
        ("steer-sweep", ["steer", "sweep", worded, "one two", "--vector", vector,
                         *by_id, "--random", "0", "--no-neutral"]),
        ("steer-apply", ["steer", "apply", worded, "one two", "--vector", vector,
                         "--strength", "0.5", "--max-tokens", "3", *edit]),
        ("steer-apply", ["steer", "apply", worded, "one two", "three",
                         "--vector", ablates, "--operation", "ablate",
                         "--max-tokens", "3", "--when", "generated"]),
        ("steer-export", ["steer", "export", vector, control]),
        ("steer-import", ["steer", "import", worded, control, "-o", again]),
        ("sae-info", ["sae", "info", os.path.join(saes, "saelens_jumprelu")]),
        ("sae-info", ["sae", "info", os.path.join(saes, "circuit_tracer_clt")]),
        ("sae-encode", ["sae", "encode", "--sae", os.path.join(saes, "openai_topk"),
                        "--input", os.path.join(saes, "x.safetensors"), "-o",
                        os.path.join(folder, "acts.safetensors")]),
        ("sae-encode", ["sae", "encode", "--sae",
                        os.path.join(saes, "saelens_transcoder"), "--input",
                        os.path.join(saes, "x.safetensors"), "-o",
                        os.path.join(folder, "transcoded.safetensors")]),
        ("sae-convert", ["sae", "convert", os.path.join(saes, "dl_gated/trainer_0"),
                         "-o", os.path.join(folder, "saelens")]),
        ("sae-convert", ["sae", "convert", os.path.join(saes, "circuit_tracer_topk"),
                         "-o", os.path.join(folder, "tracer"), "--to",
                         "circuit-tracer"]),
        ("sae-train", ["sae", "train", worded, "--text", data, "--layer", "1",
                       "--features", "48", "--k", "4", "--batch", "16", "--tokens",
                       "64", "--length", "8", "--recipe", "batch_topk",
                       "--baseline", "-o", os.path.join(folder, "trained")]),
        ("sae-train", ["sae", "train", worded, "--text", data, "--layers", "0..1",
                       "--features", "16", "--batch", "16", "--tokens", "64",
                       "--length", "8", "-o", os.path.join(folder, "across")]),
        ("heads", ["heads", model, "--ids", "3,4,5", "--circuits"]),
        ("heads", ["heads", worded, "--period", "8", "--sequences", "2",
                   "--ablate", "1", "--draws", "1"]),
        ("tasks", ["tasks", worded, "induction", "--n", "2"]),
        ("sae-eval", ["sae", "eval", worded, *sae, "--text", data, "--length", "16",
                      "--tokens", "64"]),
        ("sae-dashboards", ["sae", "dashboards", worded, *sae, "--text", data,
                            "--length", "16", "--features", "3,7..9", "--top", "2",
                            "-o", os.path.join(folder, "pages"), "--neuronpedia",
                            os.path.join(folder, "exports"),
                            "--neuronpedia-model", "tiny"]),
        ("sae-dashboards", ["sae", "dashboards", worded, *sae, "--text", data,
                            "--tokens", "32", "--features", "random:2",
                            *edit]),
        ("features", ["features", worded, "one two three", *sae, "--text", data,
                      "--length", "16", "--top", "2"]),
        ("features", ["features", model, "--ids", "3,4,5", "--sae",
                      f"layers.1.mlp_out={sae[1]}", "--feature", "3,7..9",
                      "--edit", "layers.1.mlp_out.sae.acts=on_neurons(3, zero_out)"]),
        ("verify", ["verify", family, "--ids", "3,4,5"]),
    ]


def with_sae(binary, arguments, known, name, attached):
    """The same with an SAE, where the verb takes one: what is wrong of it."""
    verb = [word for word in arguments[:2] if re.fullmatch("[a-z-]+", word)]
    helped = subprocess.run([binary, *verb, "--help"], capture_output=True, text=True)
    if not re.search(r"^  --sae ", helped.stdout, re.M):
        return []
    sae = os.path.join(os.path.dirname(__file__), "../sae/fixtures/eval")
    force = ["--force"] if "--force" in helped.stdout else []
    ran = subprocess.run(
        [binary, *arguments, "--sae", sae, "--no-sae-check", *force, "--json"],
        capture_output=True, text=True)
    where = f"{' '.join(verb)} --sae"
    if ran.returncode != 0:
        refused = re.search("attached|SAE|ask to resume", ran.stderr)
        return [] if refused else [f"{where}: exit {ran.returncode}: {ran.stderr}"]
    answer = json.loads(ran.stdout)
    attached.add(name)
    if answer.get("saes") != [sae]:
        return [f"{where}: saes is {answer.get('saes')}"]
    return [f"{where}: {error}" for error in wrong(answer, known[name], known, name)]


def main():
    binary, docs, model, worded = sys.argv[1:]
    family = os.path.join(os.path.dirname(__file__), "../parity/families/llama-gqa")
    with open(docs, encoding="utf-8") as file:
        blocks = re.findall(r"^```shape\n(.*?)^```", file.read(), re.S | re.M)
    known = Parser("\n".join(blocks)).definitions()
    helped = subprocess.run(
        [binary, "--help"], capture_output=True, text=True, check=True).stdout
    listed = helped.split("Subcommands:\n")[1].split("\n\n")[0]
    verbs = set(re.findall(r"^  ([a-z-]+)", listed, re.M))
    failed, seen, attached = [], set(), set()
    with tempfile.TemporaryDirectory() as folder:
        for name, arguments in runs(model, worded, family, folder):
            ran = subprocess.run(
                [binary, *arguments, "--json"], capture_output=True, text=True)
            where = " ".join(arguments[:2])
            if ran.returncode != 0:
                failed.append(f"{where}: exit {ran.returncode}: {ran.stderr}")
                continue
            answer = json.loads(ran.stdout)
            seen.add(name)
            failed += [f"{where}: {error}" for error in
                       wrong(answer, known[name], known, name)
                       + lengths(answer, name)]
            if "saes" not in answer and {model, worded} & set(arguments):
                failed += with_sae(binary, arguments, known, name, attached)
    if len(attached) < 12:
        failed.append(f"only {sorted(attached)} ran with an SAE")
    missing = {v for v in verbs if not any(s == v or s.startswith(v + "-") for s in seen)}
    if missing or len(verbs) < 16:
        failed.append(f"of the verbs {sorted(verbs)} these did not run: {sorted(missing)}")
    print("\n".join(failed[:40]) if failed else f"{len(verbs)} verbs as documented")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

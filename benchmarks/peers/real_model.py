"""SmolLM2 from every kind of file, against mlx-lm: exit status 1 where one is off.

usage: real_model.py [--mlxterp build/bin/mlxterp]

MLXTERP_PEERS names the Python that has mlx-lm, gguf, safetensors and
transformers; it runs this, whatever started it. Of the demo model it makes a
float32 folder, and of that what mlx-lm quantises to 4 and 8 bits, in build/peers.
All logits of two prompts are compared, in float32 on a CPU.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))
from against_mlx_lm import MODEL, demo_file, folder_of_demo  # noqa: E402

PROMPTS = {
    "The Eiffel Tower is located in the city of":
        [504, 414, 46682, 18669, 314, 3807, 281, 260, 2240, 282],
    "64 tokens": [(7919 * i) % 40000 + 100 for i in range(64)],
}
SAME = 1e-4  # one program, two files
PEER = 1e-3


def quantised(folder, bits):
    """The folder as mlx-lm packs it, in groups of 64."""
    from mlx_lm import utils

    out = folder.with_name(f"{MODEL}-{bits}bit")
    if not (out / "config.json").exists():
        model, config = utils.load_model(folder)
        model, config = utils.quantize_model(model, dict(config), 64, bits)
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        utils.save_model(out, model)
        utils.save_config(dict(config), config_path=out / "config.json")
    return out


def of_peer(folder):
    import mlx.core as mx
    import numpy as np
    from mlx_lm import utils

    model, _ = utils.load_model(folder)
    model.set_dtype(mx.float32)
    return [np.array(model(mx.array([ids]))[0]) for ids in PROMPTS.values()]


def of_ours(program, path):
    from safetensors.numpy import load_file

    logits = []
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "logits.safetensors"
        for ids in PROMPTS.values():
            subprocess.run(
                [program, "trace", path, "--ids", ",".join(map(str, ids)),
                 "--save", "logits", "-o", out, "--force"],
                check=True, stdout=subprocess.DEVNULL)
            logits.append(load_file(out)["logits"].reshape(len(ids), -1))
    return logits


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--mlxterp", default=ROOT / "build/bin/mlxterp")
    options = parser.parse_args()
    peers = os.environ.get("MLXTERP_PEERS")
    if not peers:
        sys.exit("real_model: MLXTERP_PEERS names no Python with mlx-lm")
    if not os.environ.get("MLXTERP_PEERS_RUNS"):
        os.environ["MLXTERP_PEERS_RUNS"] = "1"
        os.execv(peers, [peers, *sys.argv])

    import mlx.core as mx
    import numpy as np

    mx.set_default_device(mx.cpu)
    folder = folder_of_demo(peers)
    ours = of_ours(options.mlxterp, folder)
    rows = [
        ("GGUF, as the folder", of_ours(options.mlxterp, demo_file()), ours,
         SAME),
        ("float32 folder, as mlx-lm", ours, of_peer(folder), PEER),
    ]
    for bits in (4, 8):
        packed = quantised(folder, bits)
        rows.append((f"{bits} bits, as mlx-lm",
                     of_ours(options.mlxterp, packed), of_peer(packed), PEER))

    wrong = 0
    print(f"{MODEL}, {sum(map(len, PROMPTS.values()))} positions, every logit")
    print(f"{'':<28}{'largest error':>14}{'at most':>10}{'largest logit':>15}")
    for what, got, wanted, bound in rows:
        error = max(np.abs(a - b).max() for a, b in zip(got, wanted))
        largest = max(np.abs(b).max() for b in wanted)
        right = bool(error <= bound)  # not so with a NaN
        wrong += not right
        print(f"{what:<28}{error:>14.1e}{bound:>10.0e}{largest:>15.1f}"
              f"   {'right' if right else 'WRONG'}", flush=True)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()

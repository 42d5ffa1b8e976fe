"""transformers' half of generate_bench.py.

usage: transformers_worker.py FOLDER cpu|gpu; asked "decode BATCH LENGTH TOKENS" on stdin.
"""

import sys
import time

import torch
from transformers import AutoModelForCausalLM
from transformers.generation.streamers import BaseStreamer


class Clock(BaseStreamer):
    """When each token came; the first is the prompt."""

    def __init__(self):
        self.ends = []

    def put(self, value):
        self.ends.append(time.perf_counter())

    def end(self):
        pass


@torch.no_grad()
def main():
    gpu = sys.argv[2:] == ["gpu"]
    model = AutoModelForCausalLM.from_pretrained(sys.argv[1]).eval()
    model = model.to("cuda" if gpu else "cpu")
    print("ready torch", flush=True)
    for line in sys.stdin:
        _, _, length, tokens, *_ = line.split()
        row = [(7919 * i) % 40000 + 100 for i in range(int(length))]
        ids = torch.tensor([row], device=model.device)
        clock = Clock()
        begin = time.perf_counter()
        made = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=int(tokens),
            do_sample=False, eos_token_id=None, pad_token_id=0, streamer=clock)
        print(clock.ends[1] - begin, clock.ends[-1] - clock.ends[1],
              *made[0, len(row):].tolist(), flush=True)


if __name__ == "__main__":
    main()

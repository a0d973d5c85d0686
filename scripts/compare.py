"""The measuring half of scripts/compare: one request, this program beside the reference's own model code."""
import json
import statistics
import subprocess
import sys

from compare_loading import REFERENCE, SHAPES, measured, table, texts

ROUNDS = 3
REPEATS = 5
TEXT = "a red mug"
IMAGE = "testdata/demo/mug.jpg"
DEVICES = ["flex", "ndarray"]

# As ModelScope's pipeline scores an answer: one encoder pass, then for each answer a decoder pass whose logits
# cover the whole vocabulary.
FORWARD = REFERENCE.split("config, file, make")[0] + r"""
import statistics
from PIL import Image
import numpy
torch.set_grad_enabled(False)
folder, ids, answers, repeats = sys.argv[1], json.loads(sys.argv[2]), json.loads(sys.argv[3]), int(sys.argv[4])
model = OFAModel(OFAConfig(**json.load(open(f"{folder}/config.json")))).eval()
model.load_state_dict(torch.load(f"{folder}/pytorch_model.bin", map_location="cpu", weights_only=True))
seconds, source = [], torch.tensor([ids])
for _ in range(repeats):
    begun = time.perf_counter()
    image = Image.open(sys.argv[5]).convert("RGB").resize((480, 480), Image.BICUBIC)
    pixels = torch.from_numpy((numpy.asarray(image, dtype=numpy.float32) / 255 - 0.5) / 0.5).permute(2, 0, 1)[None]
    encoded = model.encoder(input_ids=source, patch_images=pixels, patch_masks=torch.tensor([True]))
    scores = []
    for answer in answers:
        prompt = torch.tensor([ids[:-1] + [answer]])
        logits = model(decoder_input_ids=prompt, encoder_outputs=encoded).logits
        scores.append(logits[0, len(ids) - 2, answer].item())
    seconds.append(time.perf_counter() - begun)
probabilities = torch.softmax(torch.tensor(scores), 0).tolist()
print(json.dumps({"milliseconds": statistics.median(seconds) * 1e3, "probabilities": probabilities}))
"""


def encode(text, vocabulary, merges):
    """Byte-level BPE, for texts of letters, blanks and quotes."""
    ids = []
    for word in text.replace(" ", " \u0120").split(" ")[1:] if text.startswith(" ") else text.split(" "):
        symbols = list(word)
        for left, right in merges:
            at = 0
            while at + 1 < len(symbols):
                if (symbols[at], symbols[at + 1]) == (left, right):
                    symbols[at : at + 2] = [left + right]
                at += 1
        ids += [vocabulary[symbol] for symbol in symbols]
    return ids


def row(program, size, folder):
    config = json.loads((SHAPES / f"config_{size}.json").read_text())
    published, models = folder / "published", folder / "models"
    published.mkdir()
    texts(published, config)
    quiet = {"stderr": subprocess.DEVNULL}
    checkpoint = published / "pytorch_model.bin"
    measured([sys.executable, "-W", "ignore", "-c", REFERENCE, published / "config.json", checkpoint, "make"], **quiet)
    measured([program, "models", "import", published, "--as", "v", "--models-dir", models], **quiet)
    vocabulary = json.loads((published / "vocab.json").read_text())
    merges = [tuple(line.split()) for line in (published / "merges.txt").read_text().splitlines()[1:]]
    ids = [0, *encode(f' does the image describe " {TEXT} "?', vocabulary, merges), 2]
    answers = [vocabulary["\u0120" + answer] for answer in ("yes", "maybe", "no")]
    arguments = [published, json.dumps(ids), json.dumps(answers), str(REPEATS), IMAGE]
    theirs, ours = [], {device: [] for device in DEVICES}
    for _ in range(ROUNDS):
        output, _, _ = measured([sys.executable, "-W", "ignore", "-c", FORWARD, *arguments])
        theirs.append(json.loads(output))
        for device in DEVICES:
            command = [program, "predict", "--image", IMAGE, "--text", TEXT, "--models-dir", models, "--version", "v"]
            output, _, _ = measured([*command, "--device", device, "--repeat", str(REPEATS), "--json"])
            ours[device].append(json.loads(output))
    reference = statistics.median(result["milliseconds"] for result in theirs)
    cells = [size, str(len(ids)), f"{reference:.0f} ms"]
    for device in DEVICES:
        latency = statistics.median(result["latency_ms"] for result in ours[device])
        scores = ours[device][0]["scores"]
        off = max(abs(scores[label] - p) for label, p in zip(("yes", "maybe", "no"), theirs[0]["probabilities"]))
        if off > 0.01:
            sys.exit(f"{size}: {device} gives {scores}, the reference {theirs[0]['probabilities']}")
        cells += [f"{latency:.0f} ms", f"{reference / latency:.2f}", f"{off:.0e}"]
    return cells


def main():
    program, *sizes = sys.argv[1:]
    head = ["size", "tokens", "reference"]
    for device in DEVICES:
        head += [device, f"reference / {device}", f"{device}: furthest probability"]
    how = f"medians of {ROUNDS} interleaved rounds of {REPEATS}"
    table(head, how, sizes, lambda size, folder: row(program, size, folder))


main()

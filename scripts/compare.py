"""The measuring half of scripts/compare: one request, this program beside its peers."""
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile

from compare_loading import SHAPES, introduction, measured, texts

ROUNDS = 3
REPEATS = 5
TEXT = "a red mug"
IMAGE = "testdata/demo/mug.jpg"
SIDE = 480
STAGES = ["decode", "resize", "resnet", "encoder", "decoder", "total"]


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


def peer(name, folder, ids, answers, image=IMAGE):
    """What a peer says of itself, from a process of its own."""
    command = [sys.executable, "-W", "ignore", "scripts/peers.py", name, folder, image, json.dumps(ids)]
    output, _, _ = measured([*command, json.dumps(answers), str(REPEATS)], stderr=subprocess.DEVNULL)
    return json.loads(output.splitlines()[-1])


def ours(program, models, device, image=IMAGE):
    command = [program, "predict", "--image", image, "--text", TEXT, "--models-dir", models, "--version", "v"]
    device, *precision = device.split()
    options = ["--device", device, "--precision", *(precision or ["f32"])]
    output, _, peak = measured([*command, *options, "--repeat", str(REPEATS), "--json"])
    result = json.loads(output)
    scores = [result["scores"][label] for label in ("yes", "maybe", "no")]
    stages = {**result["stages_ms"], "total": result["latency_ms"]}
    load = result["load_seconds"]
    return {"milliseconds": stages, "load_seconds": load, "peak_mb": peak, "probabilities": scores}


def encoder_operations(config, tokens):
    """Floating point operations of the encoder, image projection included."""
    width, layers = config["d_model"], config["encoder_layers"]
    patches = (SIDE // 16) ** 2
    sequence = patches + tokens
    layer = 2 * sequence * width * (4 * width + 2 * config["encoder_ffn_dim"]) + 4 * sequence**2 * width
    return layers * layer + 2 * patches * 1024 * width


def compare(program, size, folder, devices):
    config = json.loads((SHAPES / f"config_{size}.json").read_text())
    published, models = folder / "published", folder / "models"
    published.mkdir()
    texts(published, config)
    vocabulary = json.loads((published / "vocab.json").read_text())
    merges = [tuple(line.split()) for line in (published / "merges.txt").read_text().splitlines()[1:]]
    ids = [0, *encode(f' does the image describe " {TEXT} "?', vocabulary, merges), 2]
    answers = [vocabulary["\u0120" + answer] for answer in ("yes", "maybe", "no")]
    for step in ("make", "export"):
        peer(step, published, ids, answers)
    importing = [program, "models", "import", published, "--as", "v", "--models-dir", models]
    measured(importing, stderr=subprocess.DEVNULL)
    # A CPU without dot products of 8 bits refuses to load a version so.
    trial = [program, "predict", "--image", IMAGE, "--text", TEXT, "--models-dir", models, "--version", "v", "--precision", "int8"]
    if subprocess.run(trial, capture_output=True).returncode:
        devices = [device for device in devices if "int8" not in device]
    results = {"ModelScope": [], "ONNX Runtime": [], "ONNX Runtime int8": [], **{device: [] for device in devices}}
    rates = []
    for _ in range(ROUNDS):
        rates.append(max(peer("rate", published, ids, answers)["gflops"].values()))
        results["ModelScope"].append(peer("pipeline", published, ids, answers))
        results["ONNX Runtime"].append(peer("onnxruntime", published, ids, answers))
        results["ONNX Runtime int8"].append(peer("onnxruntime8", published, ids, answers))
        for device in devices:
            results[device].append(ours(program, models, device))
    expected = results["ModelScope"][0]["probabilities"]
    weights = (models / "v" / "weights.safetensors").stat().st_size / 1e6
    print(f"\n{size}, {len(ids)} tokens, weights of {weights:.0f} MB, products at {statistics.median(rates):.0f} GFLOP/s:\n")
    head = ["", *STAGES[:-1], "whole request", "flex is faster by", "encoder, share of the rate", "load", "peak memory", "furthest probability"]
    print("| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    median = lambda name, key: statistics.median(result[key] for result in results[name])
    stage = lambda name, key: statistics.median(result["milliseconds"].get(key, 0) for result in results[name])
    for name, rounds in results.items():
        off = max(abs(a - b) for a, b in zip(rounds[0]["probabilities"], expected))
        if off > (0.02 if "int8" in name else 0.01):
            sys.exit(f"{size}: {name} gives {rounds[0]['probabilities']}, ModelScope {expected}")
        # Each against flex of the same round: the machine's own rate changes from minute to minute.
        pairs = zip(rounds, results["flex"])
        ratio = statistics.median(a["milliseconds"]["total"] / b["milliseconds"]["total"] for a, b in pairs)
        operations = encoder_operations(config, len(ids)) / 1e9
        shares = [operations / result["milliseconds"]["encoder"] * 1e3 / rate for result, rate in zip(rounds, rates)]
        cells = [name, *(f"{stage(name, key):.1f} ms" for key in STAGES)]
        # The machine's rate is that of single precision.
        share = "" if "int8" in name else f"{statistics.median(shares) * 100:.0f} %"
        cells += [f"{ratio:.2f}", share, f"{median(name, 'load_seconds'):.2f} s"]
        cells += [f"{median(name, 'peak_mb'):.0f} MB", f"{off:.0e}"]
        print("| " + " | ".join(cells) + " |", flush=True)


def decoding(program, models, folder):
    """A JPEG of twelve megapixels."""
    photo = folder / "photo.jpg"
    subprocess.run([sys.executable, "scripts/peers.py", "photo", "-", photo, "-", "-", "-"], check=True)
    theirs, own = [], []
    for _ in range(ROUNDS):
        theirs.append(peer("pillow", folder, [], [], photo)["milliseconds"])
        own.append(ours(program, models, "flex", photo)["milliseconds"])
    print(f"\nA JPEG of 4000x3000, {photo.stat().st_size / 1e6:.1f} MB, to {SIDE}x{SIDE}:\n")
    print("| | decode | resize | both |\n|---|---|---|---|")
    for name, rounds in (("Pillow", theirs), ("ofa-stream", own)):
        decode, resize = (statistics.median(round[stage] for round in rounds) for stage in ("decode", "resize"))
        print(f"| {name} | {decode:.0f} ms | {resize:.0f} ms | {decode + resize:.0f} ms |", flush=True)


def main():
    program, *sizes = sys.argv[1:]
    devices = ["flex", "flex int8", "ndarray", *(["wgpu"] if "--wgpu" in sizes else [])]
    print(introduction(f"medians of {ROUNDS} interleaved rounds of {REPEATS} requests each"))
    for index, size in enumerate([size for size in sizes if size != "--wgpu"] or ["tiny", "base"]):
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            compare(program, size, folder, devices)
            if index == 0:
                decoding(program, folder / "models", folder)


main()

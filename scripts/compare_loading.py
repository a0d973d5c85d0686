"""The measuring half of scripts/compare-loading."""
import datetime
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

SHAPES = pathlib.Path("testdata/golden/real_shapes")
ROUNDS = 3

REFERENCE = r"""
import json, resource, sys, time
sys.path.insert(0, "scripts")
from peers import Absent
sys.meta_path.insert(0, Absent())
import torch
from modelscope.models.multi_modal.ofa.configuration_ofa import OFAConfig
from modelscope.models.multi_modal.ofa.modeling_ofa import OFAModel
torch.set_num_threads(2)
config, file, make = json.load(open(sys.argv[1])), sys.argv[2], sys.argv[3] == "make"
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
begun = time.perf_counter()
model = OFAModel(OFAConfig(**config))
built = time.perf_counter()
if make:
    torch.save(model.state_dict(), file)
else:
    state = torch.load(file, map_location="cpu", weights_only=True)
    model.load_state_dict(state)
    loaded = time.perf_counter()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"seconds": loaded - begun, "torch_load": loaded - built, "peak": peak, "imports": before}))
"""


def measured(command, **options):
    """Output, seconds and peak memory (MB) of a command."""
    begun = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.PIPE, **options)
    output = child.stdout.read().decode()
    _, status, usage = os.wait4(child.pid, 0)
    if status:
        sys.exit(f"{command} ended with {status}")
    return output, time.perf_counter() - begun, usage.ru_maxrss / 1024


def byte_characters():
    """GPT-2's printable character for every byte."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + index) for index in range(len(others))]


def texts(folder, config):
    """The text files of a version: a vocabulary of the published size whose answers are one token each."""
    merges = ["Ġ y", "Ġy e", "Ġye s", "Ġ n", "Ġn o", "Ġ m", "Ġm a", "Ġma y", "Ġmay b", "Ġmayb e"]
    tokens = ["<s>", "<pad>", "</s>", "<unk>", *byte_characters(), *(merge.replace(" ", "") for merge in merges)]
    tokens += [f"madeupword{index}" for index in range(50264 - len(tokens))] + ["<mask>"]
    (folder / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    (folder / "config.json").write_text(json.dumps(config))


def row(program, size, folder):
    config = json.loads((SHAPES / f"config_{size}.json").read_text())
    published, models = folder / "published", folder / "models"
    published.mkdir()
    texts(published, config)
    checkpoint = published / "pytorch_model.bin"
    reference = [sys.executable, "-W", "ignore", "-c", REFERENCE, published / "config.json", checkpoint]
    quiet = {"stderr": subprocess.DEVNULL}
    measured([*reference, "make"], **quiet)
    settings = folder / "pipeline.toml"
    settings.write_text(
        f'[model_versions]\ndirectory = "{models}"\ndefault = "v"\n[model_versions.versions.v]\nbatch_size = 1\n'
    )
    _, import_seconds, import_peak = measured(
        [program, "models", "import", published, "--as", "v", "--models-dir", models], **quiet
    )
    _, verify_seconds, _ = measured([program, "models", "verify", "--models-dir", models])
    ours, unverified, theirs = [], [], []
    def warm():
        # Both sides read from the page cache, which this machine may have given to something else by now.
        for file in (checkpoint, models / "v" / "weights.safetensors"):
            with open(file, "rb") as opened:
                while opened.read(1 << 24):
                    pass

    for _ in range(ROUNDS):
        warm()
        check = [program, "check", "--json", "--config", settings]
        output, _, peak = measured(check)
        ours.append({**json.loads(output)["versions"][0], "peak": peak})
        output, _, _ = measured([*check, "--skip-verify"])
        unverified.append(json.loads(output)["versions"][0])
        warm()
        output, _, _ = measured([*reference, "load"], **quiet)
        theirs.append(json.loads(output))
    median = lambda rows, key: statistics.median(row[key] for row in rows)
    peak = median(theirs, "peak") / 1024
    load, skipped, them = median(ours, "loading_seconds"), median(unverified, "loading_seconds"), median(theirs, "seconds")
    return [
        size,
        f"{checkpoint.stat().st_size / 1e6:.0f} MB",
        f"{import_seconds:.1f} s, {import_peak:.0f} MB",
        f"{verify_seconds:.2f} s",
        f"{load:.2f} s",
        f"{skipped:.2f} s",
        f"{them:.2f} s ({median(theirs, 'torch_load'):.2f} s)",
        f"{them / load:.1f}",
        f"{median(ours, 'first_request_seconds'):.2f} s",
        f"{median(ours, 'peak'):.0f} MB",
        f"{peak:.0f} MB",
    ]


def introduction(how):
    """Date, machine and how it was measured."""
    said = {}
    for line in open("/proc/cpuinfo"):
        name, _, value = line.partition(":")
        said.setdefault(name.strip(), value.strip())
    vectors = "AVX-512" if "avx512f" in said["flags"].split() else "AVX2" if "avx2" in said["flags"].split() else "SSE"
    return f"{datetime.date.today()}, {said['model name']} with {vectors}, {os.cpu_count()} cores; {how}"


def table(head, how, sizes, row):
    """Prints a row for every size, each made in a folder of its own."""
    print(introduction(how) + "\n")
    print("| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    for size in sizes or ["tiny", "base", "large"]:
        with tempfile.TemporaryDirectory() as folder:
            print("| " + " | ".join(row(size, pathlib.Path(folder))) + " |", flush=True)


def main():
    program, *sizes = sys.argv[1:]
    head = [
        "size",
        "checkpoint",
        "import: time, peak memory",
        "verify",
        "load, verified",
        "load, sizes only",
        "reference: construct and load (the latter alone)",
        "reference / verified",
        "first request",
        "peak memory with the first request",
        "reference's peak memory, loaded only",
    ]
    table(head, f"medians of {ROUNDS} interleaved rounds", sizes, lambda size, folder: row(program, size, folder))


if __name__ == "__main__":
    main()

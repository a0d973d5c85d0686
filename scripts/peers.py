"""The peers of scripts/compare, each run in a process of its own, so that its peak memory is its own.

    peers.py NAME FOLDER IMAGE IDS ANSWERS REPEATS      prints one JSON object

IDS are the source ids, ANSWERS the three answer ids, both JSON. `export` must have run before `onnxruntime` and
`onnxruntime8`.
"""
import functools
import importlib.abc
import importlib.machinery
import json
import os
import pathlib
import resource
import statistics
import sys
import tempfile
import time
import types

CORES = os.cpu_count()
SIDE = 480


class Absent(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Stands in for what ModelScope imports for its other models: fairseq, speech, data sets, training."""

    names = (
        "datasets oss2 pandas pyarrow torchaudio decord timm fairseq librosa soundfile unicodedata2 zhconv rapidfuzz"
        " modelscope.msdatasets modelscope.trainers modelscope.pipelines.cv.cmdssl_video_embedding_pipeline"
        " modelscope.models.multi_modal.ofa.modeling_mmspeech"
    ).split()

    def find_spec(self, name, path, target=None):
        if any(f"{name}.".startswith(f"{absent}.") for absent in self.names):
            return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec):
        module = types.ModuleType(spec.name)
        module.__getattr__ = lambda name: self.attribute(name)
        return module

    def attribute(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})

    def exec_module(self, module):
        pass


def peak():
    """Peak memory of this process so far, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def medians(rounds):
    """Medians in ms of the stages that every round timed in seconds."""
    return {name: statistics.median(round[name] for round in rounds) * 1e3 for name in rounds[0]}


class Clock:
    """Seconds of each stage of one request."""

    def __init__(self):
        self.stages = {}

    def timed(self, name, function):
        def wrapped(*args, **options):
            begun = time.perf_counter()
            result = function(*args, **options)
            self.stages[name] = self.stages.get(name, 0) + time.perf_counter() - begun
            return result

        return wrapped

    def take(self):
        stages, self.stages = self.stages, {}
        return stages


def softmax(scores):
    import numpy

    powers = numpy.exp(numpy.asarray(scores, dtype=numpy.float64) - max(scores))
    return (powers / powers.sum()).tolist()


def pipeline(folder, image, ids, answers, repeats):
    """ModelScope's own pipeline object, its stages timed from outside."""
    sys.meta_path.insert(0, Absent())
    import torch
    from modelscope.utils import import_utils

    # Asked for by its package's metadata, which a stand-in lacks.
    import_utils._timm_available = True
    import modelscope.pipelines.multi_modal.visual_entailment_pipeline  # noqa: F401, so that loading is not the import
    from modelscope.models.multi_modal.ofa.tokenization_ofa import OFATokenizer
    from modelscope.pipelines import pipeline as build

    torch.set_num_threads(CORES)
    tokenizer = OFATokenizer.from_pretrained(folder)
    before, after = ' does the image describe " ', ' "?'
    text = tokenizer.decode(ids[1:-1], clean_up_tokenization_spaces=False).removeprefix(before).removesuffix(after)
    labels = [tokenizer.decode([answer]).strip() for answer in answers]
    imports = peak()
    with tempfile.TemporaryDirectory() as models:
        models = pathlib.Path(models)
        for name in ("config.json", "vocab.json", "merges.txt", "pytorch_model.bin"):
            (models / name).symlink_to((folder / name).resolve())
        (models / "answers.json").write_text(json.dumps({label: index for index, label in enumerate(labels)}))
        model = {"type": "ofa", "gen_type": "traverse", "prompt_type": "prev_output", "answer2label": "answers.json"}
        settings = {"framework": "pytorch", "task": "visual-entailment", "pipeline": {"type": "visual-entailment"}}
        (models / "configuration.json").write_text(json.dumps({**settings, "model": model}))
        begun = time.perf_counter()
        ours = build("visual-entailment", model=str(models), device="cpu")
        load = time.perf_counter() - begun

    clock, kept = Clock(), {"source": None, "scores": []}
    task, preprocess = ours.model, ours.preprocessor.preprocess
    network = task.model
    # Opening a picture turns it by its EXIF tag, which decodes it.
    preprocess.get_img_pil = clock.timed("decode", preprocess.get_img_pil)
    preprocess.patch_resize_transform = clock.timed("resize", preprocess.patch_resize_transform)
    network.encoder.embed_images.forward = clock.timed("resnet", network.encoder.embed_images.forward)
    network.encoder.forward = clock.timed("encoder", network.encoder.forward)
    task._traverse_inference = clock.timed("decoder", task._traverse_inference)
    task.task_inference_mapping[task.cfg.task] = task._traverse_inference
    normalized, tokenized = network.get_normalized_probs, preprocess.tokenize_text

    def keep_scores(*args, **options):
        result = normalized(*args, **options)
        kept["scores"].append(result[0, len(ids) - 2])
        return result

    def keep_source(*args, **options):
        kept["source"] = tokenized(*args, **options)
        return kept["source"]

    network.get_normalized_probs, preprocess.tokenize_text = keep_scores, keep_source
    rounds = []
    for index in range(repeats + 1):
        kept["scores"].clear()
        begun = time.perf_counter()
        answered = ours({"image": str(image), "text": text})
        stages = {**clock.take(), "total": time.perf_counter() - begun}
        stages["decoder"] -= stages["encoder"]
        stages["encoder"] -= stages["resnet"]
        if index:
            rounds.append(stages)
        else:
            first = peak()
    if kept["source"].tolist() != ids:
        sys.exit(f"the pipeline's ids are {kept['source'].tolist()}, not {ids}")
    scores = [row[answer].item() for row, answer in zip(kept["scores"], answers)]
    probabilities = softmax(scores)
    if abs(max(probabilities) - answered["scores"]) > 1e-5 or labels[scores.index(max(scores))] != answered["labels"]:
        sys.exit(f"the pipeline answers {answered}, not {probabilities}")
    return {
        "load_seconds": load,
        "imports_mb": imports,
        "peak_mb": first,
        "milliseconds": medians(rounds),
        "probabilities": probabilities,
    }


def network(folder):
    """The reference's model on the folder's weights."""
    sys.meta_path.insert(0, Absent())
    import torch
    from modelscope.models.multi_modal.ofa.configuration_ofa import OFAConfig
    from modelscope.models.multi_modal.ofa.modeling_ofa import OFAModel

    model = OFAModel(OFAConfig(**json.loads((folder / "config.json").read_text()))).eval()
    model.load_state_dict(torch.load(folder / "pytorch_model.bin", map_location="cpu", weights_only=True))
    return model


def make(folder, *_):
    """Writes random weights in which every tensor matters: fresh norms, biases, gains and position tables do nothing."""
    sys.meta_path.insert(0, Absent())
    import torch
    from modelscope.models.multi_modal.ofa.configuration_ofa import OFAConfig
    from modelscope.models.multi_modal.ofa.modeling_ofa import OFAModel

    torch.manual_seed(3)
    model = OFAModel(OFAConfig(**json.loads((folder / "config.json").read_text())))
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if tensor.is_floating_point() and tensor.ndim == 1:
                tensor += torch.rand_like(tensor) * 0.3
            if "rel_pos_table" in name:
                tensor += torch.randn_like(tensor) * 0.5
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    return {}


def export(folder, image, ids, answers, repeats):
    """Writes the lean network for ONNX Runtime: whole, and cut into its three stages."""
    import torch
    from onnxruntime.quantization import QuantType, quantize_dynamic

    torch.set_grad_enabled(False)
    model = network(folder).requires_grad_(False)
    encoder, decoder = model.encoder, model.decoder
    source, prompt, pixels = torch.tensor([ids]), torch.tensor([ids[:-1]]), torch.zeros(1, 3, SIDE, SIDE)

    # The position biases depend on the weights alone: those of one pass are the constants of all.
    kept = {encoder: [], decoder: []}
    for part, seen in kept.items():
        for layer in part.layers:
            layer.register_forward_pre_hook(lambda _, __, given, seen=seen: seen.append(given), with_kwargs=True)
    encoded = encoder(input_ids=source, patch_images=pixels, patch_masks=torch.tensor([True]))
    decoder(
        prompt,
        encoder_hidden_states=encoded["last_hidden_state"],
        src_pos_embed=encoded["position_embedding"],
    )
    constants = lambda tensors: torch.nn.ParameterList(torch.nn.Parameter(tensor, False) for tensor in tensors)
    biases = constants(given["attn_bias"] for given in kept[encoder])
    own_biases = constants(given["self_attn_bias"] + given["attention_mask"][0] for given in kept[decoder])
    cross_bias = kept[decoder][0]["cross_attn_bias"]
    for part in kept:
        for layer in part.layers:
            layer._forward_pre_hooks.clear()
    # The heads' gains go into the projection that follows them.
    for attention in [module for module in model.modules() if hasattr(module, "c_attn")]:
        attention.out_proj.weight *= attention.c_attn.repeat_interleave(attention.head_dim)
        attention.c_attn = None

    class Encoder(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.network, self.biases = encoder, biases

        def forward(self, features, source):
            x, _ = encoder.forward_embedding(source, image_embed=features.flatten(2).transpose(1, 2))
            for layer, bias in zip(encoder.layers, self.biases):
                x = layer(x, None, attn_bias=bias)[0]
            return encoder.layer_norm(x)

    class Decoder(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.network, self.own_biases = decoder, own_biases
            self.cross_bias = torch.nn.Parameter(cross_bias, False)
            self.rows = torch.nn.Parameter(decoder.embed_tokens.weight[answers], False)

        def forward(self, encoded, prompt):
            x = decoder.layernorm_embedding(decoder.embed_tokens(prompt))
            for layer, own in zip(decoder.layers, self.own_biases):
                x = layer(x, encoder_hidden_states=encoded, self_attn_bias=own, cross_attn_bias=self.cross_bias)[0]
            return torch.nn.functional.linear(decoder.layer_norm(x[0, -1]), self.rows)

    class Whole(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.resnet, self.encoder, self.decoder = encoder.embed_images, Encoder(), Decoder()

        def forward(self, pixels, source, prompt):
            return self.decoder(self.encoder(self.resnet(pixels), source), prompt)

    whole = Whole().eval()
    parts = {
        "whole": (whole, {"pixels": pixels, "source": source, "prompt": prompt}),
        "resnet": (whole.resnet, {"pixels": pixels}),
        "encoder": (whole.encoder, {"features": whole.resnet(pixels), "source": source}),
        "decoder": (whole.decoder, {"encoded": encoded["last_hidden_state"], "prompt": prompt}),
    }
    for name, (module, given) in parts.items():
        # Beside the result: past 2 GB the weights are files of their own.
        with tempfile.TemporaryDirectory(dir=folder) as raw:
            raw, rounded = f"{raw}/{name}.onnx", f"{raw}/{name}-8.onnx"
            torch.onnx.export(module, tuple(given.values()), raw, input_names=list(given), opset_version=17)
            optimize(raw, folder / "onnx", name)
            # Its own way for transformers: products rounded as they come, convolutions left as they are.
            quantize_dynamic(raw, rounded, per_channel=True, weight_type=QuantType.QInt8, op_types_to_quantize=["MatMul", "Gemm"])
            optimize(rounded, folder / "onnx8", name)
    return {}


def optimize(raw, target, name):
    """Writes a network as ONNX Runtime makes it for this very machine."""
    import onnxruntime

    target.mkdir(exist_ok=True)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.optimized_model_filepath = str(target / f"{name}.onnx")
    options.add_session_config_entry("session.optimized_model_external_initializers_file_name", f"{name}.bin")
    options.add_session_config_entry("session.optimized_model_external_initializers_min_size_in_bytes", "1024")
    onnxruntime.InferenceSession(raw, options, providers=["CPUExecutionProvider"])


def opened(image):
    from PIL import Image

    return Image.open(image).convert("RGB")


def resized(image):
    from PIL import Image

    return image.resize((SIDE, SIDE), Image.BICUBIC)


def normalized(image):
    import numpy

    pixels = numpy.asarray(image, dtype=numpy.float32) / 127.5 - 1
    return numpy.ascontiguousarray(pixels.transpose(2, 0, 1)[None])


def session(file):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = CORES
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


def onnx_runtime(folder, image, ids, answers, repeats, precision=""):
    """The lean network in ONNX Runtime, from the files that `export` wrote."""
    import numpy
    import onnxruntime  # noqa: F401, so that loading is not the import

    models = folder / f"onnx{precision}"
    source, prompt = numpy.array([ids]), numpy.array([ids[:-1]])
    imports, begun = peak(), time.perf_counter()
    whole = session(models / "whole.onnx")
    load = time.perf_counter() - begun
    clock, rounds = Clock(), []
    for index in range(repeats + 1):
        begun = time.perf_counter()
        decoded = clock.timed("decode", opened)(image)
        pixels = clock.timed("resize", lambda: normalized(resized(decoded)))()
        scores = clock.timed("forward", whole.run)(None, {"pixels": pixels, "source": source, "prompt": prompt})[0]
        stages = {**clock.take(), "total": time.perf_counter() - begun}
        if index:
            rounds.append(stages)
        else:
            first = peak()
    del whole
    given = {"pixels": pixels}
    stages = [{} for _ in range(repeats)]
    for name, more in (("resnet", {"source": source}), ("encoder", {"prompt": prompt}), ("decoder", {})):
        part = session(models / f"{name}.onnx")
        part.run(None, given)
        for stage in stages:
            begun = time.perf_counter()
            result = part.run(None, given)[0]
            stage[name] = time.perf_counter() - begun
        given = {{"resnet": "features", "encoder": "encoded", "decoder": "scores"}[name]: result, **more}
    # Cut, ranges are rounded elsewhere.
    if abs(given["scores"] - scores).max() > (0.2 if precision else 1e-4):
        sys.exit(f"the three parts give {given['scores']}, the whole {scores}")
    return {
        "load_seconds": load,
        "imports_mb": imports,
        "peak_mb": first,
        "milliseconds": {**medians(rounds), **medians(stages)},
        "probabilities": softmax(scores.tolist()),
    }


def rate(*_):
    """PyTorch's best rate of two float32 products, GFLOP/s."""
    import torch

    torch.set_num_threads(CORES)
    rates = {}
    for rows, inner, columns in ((950, 768, 3072), (950, 256, 1024)):
        left, right, out = torch.rand(rows, inner), torch.rand(inner, columns), torch.empty(rows, columns)
        best, until = float("inf"), time.perf_counter() + 2
        while time.perf_counter() < until:
            begun = time.perf_counter()
            torch.mm(left, right, out=out)
            best = min(best, time.perf_counter() - begun)
        rates[f"{rows}x{inner}x{columns}"] = 2 * rows * inner * columns / best / 1e9
    return {"gflops": rates}


def pillow(folder, image, ids, answers, repeats):
    """Decoding and resizing one picture."""
    clock, rounds = Clock(), []
    for _ in range(repeats + 1):
        decoded = clock.timed("decode", opened)(image)
        clock.timed("resize", resized)(decoded)
        rounds.append(clock.take())
    return {"size": decoded.size, "milliseconds": medians(rounds[1:])}


def photo(file):
    """Writes a JPEG of 12 megapixels, 4:2:0: gradients, shapes and noise."""
    import numpy
    from PIL import Image

    width, height = 4000, 3000
    random = numpy.random.default_rng(1)
    y, x = numpy.mgrid[0:height, 0:width].astype(numpy.float32)
    picture = numpy.stack([90 + 60 * y / height, 120 + 50 * x / width, 170 - 70 * y / height], axis=-1)
    picture += (18 * numpy.sin(x / 61 + 2 * numpy.sin(y / 173)) * numpy.cos(y / 47))[..., None]
    for _ in range(60):
        across, down, radius = random.uniform(0, width), random.uniform(0, height), random.uniform(40, 400)
        inside = abs(x - across) ** 2 + abs(y - down) ** 2 * random.uniform(0.4, 2) < radius**2
        picture[inside] = 0.3 * picture[inside] + 0.7 * random.uniform(20, 235, 3)
    picture += random.normal(0, 6, (height, width, 1)).astype(numpy.float32)
    pixels = picture.clip(0, 255).astype(numpy.uint8)
    Image.fromarray(pixels).save(file, quality=90, subsampling="4:2:0")


def main():
    peer, folder, image, ids, answers, repeats = sys.argv[1:]
    if peer == "photo":
        return photo(image)
    peers = {"make": make, "export": export, "onnxruntime": onnx_runtime, "onnxruntime8": functools.partial(onnx_runtime, precision="8"), "pipeline": pipeline, "pillow": pillow, "rate": rate}
    arguments = [pathlib.Path(folder), image, json.loads(ids), json.loads(answers), int(repeats)]
    print(json.dumps({"peer": peer, **peers[peer](*arguments)}))


if __name__ == "__main__":
    main()

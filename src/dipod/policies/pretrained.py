"""Load and save masked models: LLaDA, Dream, the small transformer and any masked language model of transformers."""

from __future__ import annotations

import os
from collections import defaultdict
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn

from dipod.errors import UserError, require
from dipod.extras import load_extra
from dipod.files import make_folder, write_json
from dipod.policies.dream import Dream, DreamConfig
from dipod.policies.hf_masked import HFMasked
from dipod.policies.hub import (
    CONFIG_FILE,
    HUB_NAME,
    fetch,
    first_few,
    locate_weights,
    read_json,
    save_weights,
)
from dipod.policies.layers import block_linears
from dipod.policies.llada import LLaDA, LLaDAConfig
from dipod.policies.tokenizers import Tokenizer
from dipod.policies.transformer import MaskedTransformer, TransformerConfig

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}
SHARD_BYTES = 5_000_000_000


def load_pretrained(
    name: str | Path, dtype: str = "float32", device_map: str = "cpu", revision: str | None = None
) -> nn.Module:
    """A masked model from a folder or the hub; what it is, ``config.json`` says. Nothing in the folder is executed.

    LLaDA and Dream are built without memory and filled file by file, so that there are never two copies. The network
    comes in evaluation mode.

    Args:
        name: a folder, or a name on the hub such as GSAI-ML/LLaDA-8B-Instruct.
        dtype: of all weights: float32, bfloat16, float16 or float64.
        device_map: ``cpu``, ``cuda``, ``cuda:N``, or ``auto``: the CUDA device of this process (``LOCAL_RANK``) if
            there is one, otherwise the CPU. A model lives on one device.
        revision: branch, tag or commit on the hub.

    Raises:
        UserError: not found, not one of the models above, or weights that do not fit the configuration.
    """
    require(dtype in DTYPES, "dtype", dtype, f"choose from {', '.join(DTYPES)}")
    device = choose_device(device_map)
    folder = fetch(name, revision)
    settings = read_json(folder / CONFIG_FILE, "model")
    kind = str(settings.get("model_type", "")).lower()
    if kind == "llada":
        network: nn.Module = _filled(folder, LLaDA, LLaDAConfig.from_hub(settings), DTYPES[dtype], device)
    elif kind == "dream":
        network = _filled(folder, Dream, DreamConfig.from_hub(settings), DTYPES[dtype], device)
    elif "axes" in settings:
        network = MaskedTransformer.from_pretrained(folder).to(device, DTYPES[dtype])
    else:
        network = HFMasked.from_pretrained(folder, kind, DTYPES[dtype]).to(device)
    network.name_or_path = str(name)  # type: ignore[assignment]
    return network.eval()


def meta_network(name: str | Path, revision: str | None = None) -> nn.Module:
    """The network that ``config.json`` describes, without weights and without memory (on the meta device).

    Raises:
        UserError: not found, or not one of the models of `load_pretrained`.
    """
    folder = fetch(name, revision, weights=False)
    network = _described(folder)
    network.name_or_path = str(name)  # type: ignore[assignment]
    return network


def _described(folder: Path) -> nn.Module:
    settings = read_json(folder / CONFIG_FILE, "model")
    kind = str(settings.get("model_type", "")).lower()
    with torch.device("meta"):
        if kind == "llada":
            return LLaDA(LLaDAConfig.from_hub(settings))
        if kind == "dream":
            return Dream(DreamConfig.from_hub(settings))
        if "axes" in settings:
            return MaskedTransformer(TransformerConfig.read(settings, folder))
    return HFMasked.described(folder, kind)


def logit_count(network: nn.Module) -> int:
    """The number of logits of a network of `load_pretrained`, which may exceed its tokenizer's ids."""
    if isinstance(network, LLaDA):
        return network.config.rows
    if isinstance(network, HFMasked):
        return network.vocabulary
    config: DreamConfig | TransformerConfig = network.config  # type: ignore[assignment]
    return config.vocab_size


def longest_sequence(network: nn.Module) -> tuple[int | None, str]:
    """Tokens that a network of `load_pretrained` was made for at once (None: any number), and who says so."""
    if isinstance(network, LLaDA):
        return network.config.max_sequence_length, "max_sequence_length"
    if isinstance(network, Dream):
        return network.config.max_position_embeddings, "max_position_embeddings"
    if isinstance(network, HFMasked):
        return network.longest, "max_position_embeddings"
    config: TransformerConfig = network.config  # type: ignore[assignment]
    return prod(config.axes), "axes"


def choose_device(device_map: str) -> torch.device:
    """The one device that ``device_map`` names; see `load_pretrained`."""
    count = torch.cuda.device_count()
    if device_map == "auto":
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % count) if count else torch.device("cpu")
    kind, _, index = device_map.partition(":")
    known = device_map == "cpu" or (kind == "cuda" and (index.isdigit() or device_map == "cuda"))
    require(known, "device_map", device_map, "choose from cpu, cuda, cuda:N and auto")
    present = kind == "cpu" or int(index or "0") < count
    require(present, "device_map", device_map, f"this machine has {count} CUDA devices; choose cpu or auto")
    return torch.device(device_map)


def _filled(
    folder: Path,
    network_class: type[LLaDA] | type[Dream],
    config: Any,
    dtype: torch.dtype,
    device: torch.device,
) -> nn.Module:
    """A network with the weights of ``folder``; names and shapes are compared before anything is read."""
    with torch.device("meta"):
        network = network_class(config)
    for path, tensors in _checked(folder, network).items():
        with safe_open(path, framework="pt", device=str(device)) as file:
            shard = {tensor: file.get_tensor(tensor).to(dtype) for tensor in tensors}
        network.load_state_dict(shard, strict=False, assign=True)
    return network


def check_pretrained(name: str | Path, revision: str | None = None) -> nn.Module:
    """See that a model can be loaded, from its settings and, in a folder, from what its files say they hold.

    Returns:
        `meta_network`.

    Raises:
        UserError: as `load_pretrained`.
    """
    network, folder = meta_network(name, revision), Path(name)
    if not folder.is_dir():
        return network
    if isinstance(network, LLaDA | Dream):
        _checked(folder, network)
    else:  # transformers alone knows which names its weights have in a file
        load_pretrained(folder)
    return network


def _checked(folder: Path, network: nn.Module) -> dict[Path, list[str]]:
    """The tensors of each file of a folder; their names and shapes are those of ``network``."""
    wanted, files = network.state_dict(), locate_weights(folder)
    missing, unexpected = sorted(wanted.keys() - files.keys()), sorted(files.keys() - wanted.keys())
    if missing or unexpected:
        kinds = {"missing": missing, "not expected": unexpected}
        said = "; ".join(f"{len(names)} {kind}: {first_few(names)}" for kind, names in kinds.items() if names)
        raise UserError("model", str(folder), f"the weights are not those of {type(network).__name__} ({said})")
    by_file: dict[Path, list[str]] = defaultdict(list)
    for tensor, path in files.items():
        by_file[path].append(tensor)
    for path, tensors in by_file.items():
        with safe_open(path, framework="pt") as file:
            for tensor in tensors:
                _check_shape(path, tensor, list(file.get_slice(tensor).get_shape()), list(wanted[tensor].shape))
    return by_file


def _check_shape(path: Path, tensor: str, found: list[int], wanted: list[int]) -> None:
    outside = not any(part.isdigit() for part in tensor.split("."))
    vocabulary = outside and len(found) == len(wanted) == 2 and found[1] == wanted[1]
    what = "another vocabulary than" if vocabulary else "other sizes than"
    mend = f"{tensor} has shape {found}, {what} {CONFIG_FILE} says ({wanted})"
    require(found == wanted, "model", str(path), mend)


def save_pretrained(
    network: nn.Module, folder: str | Path, tokenizer: Tokenizer | None = None, shard_bytes: int = SHARD_BYTES
) -> None:
    """Write a model folder that `load_pretrained` and the hub's own code read.

    Args:
        network: what `load_pretrained` gives; adapters merged (`dipod.policies.lora.merge_adapter`).
        folder: made if need be; a model in it is replaced.
        tokenizer: written beside it.
        shard_bytes: weights above this size are split over files with an index.

    Raises:
        UserError: a folder that cannot be written, or a network of another kind.
    """
    folder = make_folder(Path(folder))
    require(not getattr(network, "is_loaded_in_4bit", False), "network", "4-bit", "save the adapter, not the base")
    if isinstance(network, LLaDA | Dream):
        repository = network.name_or_path
        settings = network.config.to_hub(repository if HUB_NAME.fullmatch(repository) else None)
        dtype = str(next(network.parameters()).dtype).removeprefix("torch.")
        write_json(folder / CONFIG_FILE, {**settings, "torch_dtype": dtype})
        save_weights(folder, network.state_dict(), shard_bytes)
    elif isinstance(network, MaskedTransformer | HFMasked):
        network.save_pretrained(folder)
    else:
        kind = type(network).__name__
        raise UserError("network", kind, "give LLaDA, Dream, MaskedTransformer or HFMasked; merge adapters first")
    if tokenizer is not None:
        tokenizer.save(folder)


def quantise_4bit(network: nn.Module) -> nn.Module:
    """Replace the linear layers inside the blocks by 4-bit ones (NF4, double quantisation, bfloat16 arithmetic).

    The network is changed in place and moves to the current CUDA device layer by layer. Its base is frozen; adapters
    may be added.

    Raises:
        UserError: there is no CUDA device, or bitsandbytes is not installed.
    """
    require(torch.cuda.is_available(), "quantise", "4bit", "needs a CUDA device; load in bfloat16 instead")
    layers = load_extra("bitsandbytes", "4bit").nn
    for name, linear in [item for item in block_linears(network) if type(item[1]) is nn.Linear]:
        small = layers.Linear4bit(
            linear.in_features,
            linear.out_features,
            bias=linear.bias is not None,
            compute_dtype=torch.bfloat16,
            compress_statistics=True,
            quant_type="nf4",
            device="meta",
        )
        small.weight = layers.Params4bit(
            linear.weight.data, requires_grad=False, compress_statistics=True, quant_type="nf4"
        )
        small.bias = linear.bias
        network.set_submodule(name, small.to("cuda"))
    network.requires_grad_(False)
    network.is_loaded_in_4bit = True  # type: ignore[assignment]
    return network.to("cuda")

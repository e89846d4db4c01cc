"""Tiny random checkpoints exactly as the hub's folders are: settings, weights and tokenizer files, written by hand."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from dipod.policies.plain_tokenizers import ByteTokenizer, byte_letters

DREAM_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|beginoftext|>", "<|mask|>")
DREAM_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def llada_settings(**changed: Any) -> dict[str, Any]:
    """``config.json`` with every field of LLaDA-8B-Instruct's, at a tiny size."""
    settings = {
        "activation_type": "silu",
        "alibi": False,
        "alibi_bias_max": 8.0,
        "architectures": ["LLaDAModelLM"],
        "attention_dropout": 0.0,
        "attention_layer_norm": False,
        "attention_layer_norm_with_affine": True,
        "auto_map": {
            "AutoConfig": "configuration_llada.LLaDAConfig",
            "AutoModel": "modeling_llada.LLaDAModelLM",
            "AutoModelForCausalLM": "modeling_llada.LLaDAModelLM",
        },
        "bias_for_layer_norm": False,
        "block_group_size": 1,
        "block_type": "llama",
        "d_model": 32,
        "embedding_dropout": 0.0,
        "embedding_size": 264,
        "eos_token_id": 257,
        "flash_attention": False,
        "include_bias": False,
        "include_qkv_bias": False,
        "init_cutoff_factor": None,
        "init_device": "meta",
        "init_fn": "mitchell",
        "init_std": 0.02,
        "input_emb_norm": False,
        "layer_norm_type": "rms",
        "layer_norm_with_affine": True,
        "mask_token_id": 261,
        "max_sequence_length": 4096,
        "mlp_hidden_size": 48,
        "mlp_ratio": 4,
        "model_type": "llada",
        "multi_query_attention": None,
        "n_heads": 4,
        "n_kv_heads": 4,
        "n_layers": 2,
        "pad_token_id": 257,
        "precision": "amp_bf16",
        "residual_dropout": 0.0,
        "rms_norm_eps": 1e-05,
        "rope": True,
        "rope_full_precision": True,
        "rope_theta": 500000.0,
        "scale_logits": False,
        "torch_dtype": "float32",
        "transformers_version": "4.46.3",
        "use_cache": False,
        "vocab_size": 264,
        "weight_tying": False,
    }
    return settings | changed


def dream_settings(**changed: Any) -> dict[str, Any]:
    """``config.json`` with every field of Dream-v0-Instruct-7B's, at a tiny size."""
    settings = {
        "architectures": ["DreamModel"],
        "attention_dropout": 0.0,
        "auto_map": {"AutoConfig": "configuration_dream.DreamConfig", "AutoModel": "modeling_dream.DreamModel"},
        "bos_token_id": 256,
        "eos_token_id": 256,
        "hidden_act": "silu",
        "hidden_size": 32,
        "initializer_range": 0.02,
        "intermediate_size": 48,
        "mask_token_id": 260,
        "max_position_embeddings": 131072,
        "max_window_layers": 28,
        "model_type": "Dream",
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "num_key_value_heads": 2,
        "pad_token_id": 256,
        "rms_norm_eps": 1e-06,
        "rope_scaling": None,
        "rope_theta": 1000000.0,
        "sliding_window": None,
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
        "transformers_version": "4.46.2",
        "use_cache": True,
        "use_mrope": False,
        "use_sliding_window": False,
        "vocab_size": 264,
    }
    return settings | changed


def llada_shapes(settings: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of a LLaDA checkpoint."""
    width, inner, rows = settings["d_model"], settings["mlp_hidden_size"], settings["embedding_size"]
    narrow = width // settings["n_heads"] * settings["n_kv_heads"]
    shapes: dict[str, tuple[int, ...]] = {"model.transformer.wte.weight": (rows, width)}
    for block in range(settings["n_layers"]):
        matrices = {
            "q_proj": (width, width),
            "k_proj": (narrow, width),
            "v_proj": (narrow, width),
            "attn_out": (width, width),
            "ff_proj": (inner, width),
            "up_proj": (inner, width),
            "ff_out": (width, inner),
        }
        parts = matrices | {"attn_norm": (width,), "ff_norm": (width,)}
        shapes |= {f"model.transformer.blocks.{block}.{part}.weight": shape for part, shape in parts.items()}
    return shapes | {"model.transformer.ln_f.weight": (width,), "model.transformer.ff_out.weight": (rows, width)}


def dream_shapes(settings: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of a Dream checkpoint."""
    width, inner, rows = settings["hidden_size"], settings["intermediate_size"], settings["vocab_size"]
    narrow = width // settings["num_attention_heads"] * settings["num_key_value_heads"]
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (rows, width)}
    for layer in range(settings["num_hidden_layers"]):
        parts: dict[str, tuple[int, ...]] = {
            "self_attn.q_proj.weight": (width, width),
            "self_attn.q_proj.bias": (width,),
            "self_attn.k_proj.weight": (narrow, width),
            "self_attn.k_proj.bias": (narrow,),
            "self_attn.v_proj.weight": (narrow, width),
            "self_attn.v_proj.bias": (narrow,),
            "self_attn.o_proj.weight": (width, width),
            "mlp.gate_proj.weight": (inner, width),
            "mlp.up_proj.weight": (inner, width),
            "mlp.down_proj.weight": (width, inner),
            "input_layernorm.weight": (width,),
            "post_attention_layernorm.weight": (width,),
        }
        shapes |= {f"model.layers.{layer}.{part}": shape for part, shape in parts.items()}
    return shapes | {"model.norm.weight": (width,), "lm_head.weight": (rows, width)}


def random_weights(shapes: Mapping[str, tuple[int, ...]], seed: int) -> dict[str, Tensor]:
    """Weights of a size at which every part of a network matters; norms and biases are not trivial either."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in shapes.items():
        drawn = torch.randn(shape, generator=generator)
        weights[name] = drawn * 1.5 * shape[-1] ** -0.5 if len(shape) > 1 else drawn * 0.3 + ("norm" in name)
    return weights


def write_weights(folder: Path, weights: Mapping[str, Tensor], shards: int) -> None:
    """``model.safetensors``, or that many shards and their index."""
    if shards == 1:
        save_file(dict(weights), folder / "model.safetensors", metadata={"format": "pt"})
        return
    where = {name: f"model-{i % shards + 1:05}-of-{shards:05}.safetensors" for i, name in enumerate(weights)}
    for file in set(where.values()):
        part = {name: tensor for name, tensor in weights.items() if where[name] == file}
        save_file(part, folder / file, metadata={"format": "pt"})
    index = {"metadata": {"total_size": sum(tensor.nbytes for tensor in weights.values())}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def write_tiny_llada(folder: Path, shards: int = 1, seed: int = 0, **changed: Any) -> dict[str, Tensor]:
    """A LLaDA checkpoint with a byte tokenizer; ``changed`` settings go into ``config.json``. Returns the weights."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = llada_settings(**changed)
    weights = random_weights(llada_shapes(settings), seed)
    (folder / "config.json").write_text(json.dumps(settings))
    write_weights(folder, weights, shards)
    ByteTokenizer().save_for_hub(folder, mask_token=False)
    return weights


def write_tiny_dream(folder: Path, shards: int = 1, seed: int = 0, **changed: Any) -> dict[str, Tensor]:
    """A Dream checkpoint with a byte tokenizer; ``changed`` settings go into ``config.json``. Returns the weights."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = dream_settings(**changed)
    weights = random_weights(dream_shapes(settings), seed)
    (folder / "config.json").write_text(json.dumps(settings))
    write_weights(folder, weights, shards)
    plain = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    tokenizer = {
        "add_bos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": {str(256 + i): {"content": token, **plain} for i, token in enumerate(DREAM_SPECIAL)},
        "additional_special_tokens": ["<|beginoftext|>", "<|mask|>"],
        "auto_map": {"AutoTokenizer": ["tokenization_dream.DreamTokenizer", None]},
        "bos_token": "<|endoftext|>",
        "chat_template": DREAM_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|endoftext|>",
        "errors": "replace",
        "mask_token": "<|mask|>",
        "model_max_length": 131072,
        "pad_token": "<|endoftext|>",
        "split_special_tokens": False,
        "tokenizer_class": "DreamTokenizer",
        "unk_token": None,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    (folder / "vocab.json").write_text(json.dumps({letter: byte for byte, letter in enumerate(byte_letters())}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return weights

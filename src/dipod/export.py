"""From a run to a model that others can load: adapters merged or alone, tokenizer, model card; uploaded on demand."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from dipod import runs
from dipod.config import RunConfig
from dipod.errors import UserError, require
from dipod.extras import load_extra
from dipod.files import make_folder, write_text
from dipod.model_card import Exported, What, model_card
from dipod.policies.hub import HUB_NAME
from dipod.policies.lora import ADAPTER_CONFIG, ADAPTER_WEIGHTS, load_adapter, merge_adapter
from dipod.policies.pretrained import load_pretrained, save_pretrained
from dipod.recipes import build_policy, build_task, language
from dipod.tasks.text.config import TextConfig

CARD = "README.md"


@dataclass(frozen=True)
class Source:
    """What is exported: the last checkpoint of a run.

    Attributes:
        run: the run folder.
        config: its settings.
        checkpoint: ``checkpoints/step-N``.
        step: N, updates done.
    """

    run: Path
    config: RunConfig
    checkpoint: Path
    step: int


def locate(run: Path) -> Source:
    """The last checkpoint of a run.

    Raises:
        UserError: not a run folder, or a run without a checkpoint.
    """
    config, checkpoint = language(runs.read_config(run)), runs.last_checkpoint(run)
    return Source(run, config, checkpoint, int(checkpoint.name[5:]))


def export(source: Source, out: Path, adapter_only: bool = False) -> Exported:
    """Write ``out``: a model folder that `dipod.policies.pretrained.load_pretrained` reads, or adapters alone.

    The merged model gives the log-probabilities of the adapted one up to the rounding of its weights. The folder is
    written aside and renamed, so it is whole or absent.

    Args:
        source: what is exported.
        out: does not exist, or is empty.
        adapter_only: leave the base out; the adapters stay as they were trained.

    Raises:
        UserError: a folder with something in it, no adapters where these are asked for, adapters over a 4-bit base
            that are to be merged, or adapters that do not fit the base.
    """
    model = source.config.model
    adapted = model.adapted
    mend = "this run trained every weight; leave the flag out"
    require(adapted or not adapter_only, "adapter-only", str(source.run), mend)
    mend = "the recipe made the base of these adapters, nobody else has it; leave the flag out"
    require(not adapter_only or bool(model.path), "adapter-only", str(source.run), mend)
    mend = "adapters over a 4-bit base fit no other weights; write them alone with --adapter-only"
    require(adapter_only or not model.load_in_4bit, "model.load_in_4bit", True, mend)
    empty = not out.exists() or (out.is_dir() and not any(out.iterdir()))
    require(empty, "out", str(out), "it is not empty; choose another folder")
    parent = make_folder(out.absolute().parent)
    aside = Path(tempfile.mkdtemp(dir=parent, prefix=f".{out.name}."))
    try:
        what: What = "adapters" if adapter_only else "merged" if adapted else "whole"
        if adapter_only:
            _copy_adapters(source.checkpoint, aside)
        else:
            _write_model(source, aside)
        exported = Exported(what, source.step, source.run.absolute().name)
        write_text(aside / CARD, model_card(exported, source.config, runs.read_metrics(source.run)))
        for path in aside.iterdir():
            path.chmod(0o644)
        aside.chmod(0o755)
        if out.exists():
            out.rmdir()
        os.replace(aside, out)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return exported


def _copy_adapters(checkpoint: Path, folder: Path) -> None:
    for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
        require((checkpoint / name).is_file(), "checkpoint", str(checkpoint), f"{name} is missing; it cannot be read")
        shutil.copyfile(checkpoint / name, folder / name)


def _write_model(source: Source, folder: Path) -> None:
    network = merged(source) if source.config.model.adapted else _whole(source)
    text = isinstance(source.config.task, TextConfig)
    tokenizer = getattr(build_task(source.config), "tokenizer", None) if text else None
    save_pretrained(network, folder, tokenizer)


def merged(source: Source) -> nn.Module:
    """The base of a run with the run's adapters added into its weights, on the CPU.

    Raises:
        UserError: the base cannot be had, or the adapters are of another.
    """
    model = source.config.model
    if model.path:
        base = load_pretrained(model.path, model.dtype, revision=model.revision or None)
    else:
        plain = replace(source.config, model=replace(model, lora_rank=0, adapter=""))
        base = build_policy(plain, build_task(plain)).network
    return merge_adapter(load_adapter(base, source.checkpoint))


def _whole(source: Source) -> nn.Module:
    """The network of a run that trained every weight."""
    model = source.config.model
    network = load_pretrained(source.checkpoint, model.dtype if model.path else "float32")
    network.name_or_path = model.path  # type: ignore[assignment]
    return network


def check_upload(repository: str) -> None:
    """See that an upload can be tried, before anything is written.

    Raises:
        UserError: not a name on the hub, or nobody is logged in there.
    """
    require(bool(HUB_NAME.fullmatch(repository)), "push", repository, "give a name on the hub: OWNER/NAME")
    token = load_extra("huggingface_hub").get_token()
    require(bool(token), "push", repository, "log in first: `hf auth login`, or set HF_TOKEN")


def upload(folder: Path, repository: str) -> str:
    """Put a folder on the hub as a new private repository; returns its address.

    Raises:
        UserError: the hub cannot be reached or refuses, or has a repository of this name already.
    """
    check_upload(repository)
    api = load_extra("huggingface_hub").HfApi()
    try:
        url = api.create_repo(repository, private=True)
        api.upload_folder(repo_id=repository, folder_path=folder)
    except Exception as error:  # those of the transport have nothing in common that has kept its name
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError("push", repository, f"not uploaded ({reason}); the model is complete in {folder}") from error
    return str(url)

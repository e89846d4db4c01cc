"""``dipod merge``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from dipod.export import check_upload, export, locate, upload

NAME = "merge"
HELP = "make a model of a run: adapters merged, tokenizer, model card; upload it if asked to"
DESCRIPTION = """Write the model of a run's last checkpoint as a folder that others can load.

  dipod merge runs/spg --out my-model                  adapters are added into the base
  dipod merge runs/spg --out my-adapters --adapter-only
  dipod merge runs/spg --out my-model --push OWNER/NAME

Nothing leaves this machine without --push, which makes a new private repository on the Hugging Face hub.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of this command."""
    parser.add_argument("folder", type=Path, metavar="RUN", help="a run folder")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where to; new or empty")
    parser.add_argument("--adapter-only", action="store_true", help="write the adapters without the base")
    parser.add_argument("--push", metavar="OWNER/NAME", help="upload the folder as a new private repository")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> None:
    """Write the folder; upload it."""
    if arguments.push is not None:
        check_upload(arguments.push)
    source = locate(arguments.folder)
    exported = export(source, arguments.out, arguments.adapter_only)
    url = None if arguments.push is None else upload(arguments.out, arguments.push)
    if arguments.json:
        result = {"model": str(arguments.out), "run": str(arguments.folder), "step": source.step}
        print(json.dumps({**result, "weights": exported.what, "url": url}))
        return
    words = {"merged": "base with adapters", "adapters": "adapters", "whole": "model"}
    print(f"{arguments.folder} after {source.step} updates: {words[exported.what]} in {arguments.out}")
    if url is not None:
        print(f"uploaded, private: {url}")

"""``dipod train``."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from dipod import runs
from dipod.cli import terminal
from dipod.cli.progress import Display, facts
from dipod.control.config import ControlConfig
from dipod.errors import UserError, require
from dipod.files import file_error, resume_command
from dipod.guard import NotFinite
from dipod.launch import HELP as MORE
from dipod.launch import said_count
from dipod.parallel import by_first, first
from dipod.recipes import AnyConfig, blamed, load, overlay, settle, to_yaml
from dipod.report import write_report
from dipod.report.labels import flat, path_of
from dipod.report.live import Live
from dipod.resuming import STEPS, extend
from dipod.rewinding import RATES, advice, retune, rewind
from dipod.stopping import Interrupted

NAME = "train"
HELP = "train a recipe, from nothing to a report; or resume a run"
LATEST, AUTO = "latest", "auto"
SEEN_SECONDS = 60.0
"""How long a folder that the first process has made may take to be seen by the others (network file systems)."""
DESCRIPTION = """Train a recipe: make the base model, improve it by reinforcement learning, measure the drift, report.

  dipod train sudoku
  dipod train sudoku --algorithm fpo --seed 1 --out runs/fpo
  dipod train sudoku --beta 0.2 --steps 200 --task.blanks 6-10
  dipod train gsm8k-llada-spg --dry-run          (what it would do: prompt, memory, steps)
  dipod train sudoku --out runs/a --resume auto          (go on where the folder holds this run, else begin)
  dipod train --resume runs/fpo --trainer.steps 900          (more updates for a run that has ended)
  dipod train --resume runs/fpo          (or, for the last run of the default name: dipod train sudoku --resume)

Every setting is a flag, --field value or --group.field value; `dipod recipes --fields` lists them with their meaning.
Ctrl-C (SIGTERM, a closed terminal) saves the exact state, and pressed again stops at once; a resumed run ends with the
same parameters as one never interrupted.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of this command; other flags are settings."""
    parser.add_argument("recipe", nargs="?", help="a name from `dipod recipes`, or the path of a YAML file")
    parser.add_argument("--out", type=Path, metavar="DIR", help="the run folder (default: runs/RECIPE-ALGORITHM-seedN)")
    parser.add_argument(
        "--resume", nargs="?", const=LATEST, metavar="RUN", help="go on where a run stopped; auto: or begin it"
    )
    parser.add_argument(
        "--from",
        dest="start",
        type=int,
        metavar="N",
        help="with --resume: go on from the checkpoint of update N (0: from the base); what came after is kept aside",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="print settings, a prompt, memory and steps; train nothing"
    )
    parser.add_argument("--json", action="store_true", help="print the last metrics as one JSON object")


def run(arguments: argparse.Namespace) -> None:
    """Start or resume a run and bring it to its report; or say what it would do."""
    if arguments.dry_run:
        _plan(arguments)
        return
    console = terminal.console(stderr=arguments.json, quiet=not first())
    require(
        arguments.start is None or arguments.resume not in (None, AUTO),
        "--from",
        arguments.start,
        "it goes with --resume RUN",
    )
    if arguments.resume == AUTO:
        folder, begun = _begun_or_resumed(arguments)
    else:
        folder, begun = (_resumed(arguments), False) if arguments.resume else (_started(arguments), True)
    _see(folder)
    config = runs.read_config(folder)
    console.print(f"{config.algorithm} on {config.recipe}, seed {config.seed}: {folder}{said_count()}", soft_wrap=True)
    with Display(console) as display:
        try:
            runs.train(folder, Live(folder, display) if first() else display)
        except (Exception, KeyboardInterrupt) as error:
            told = _told(error, folder, config, begun)
            if told is error:
                raise
            raise told from error
    if not first():
        return
    report = write_report([folder], folder)
    last = runs.read_metrics(folder)[-1]
    if arguments.json:
        print(json.dumps({"run": str(folder), "report": str(report), **last}))
    else:
        console.print(f"done: {facts(last, evaluation=True)}\nreport: {report}", soft_wrap=True)


def _told(error: BaseException, folder: Path, config: AnyConfig, begun: bool) -> BaseException:
    """What ended a run, with how to go on.

    Args:
        error: that ended it.
        folder: its folder.
        config: its settings.
        begun: it began with this command; where nothing was reached, the folder is free again.
    """
    if isinstance(error, NotFinite):
        return NotFinite(error.field, error.value, advice(folder, config, error))
    if isinstance(error, Interrupted):
        return Interrupted(f"saved; go on with `{resume_command(folder)}`")
    if isinstance(error, KeyboardInterrupt):
        return Interrupted(f"stopped at once; {runs.kept(folder)}; go on with `{resume_command(folder)}`")
    if begun and first():
        runs.discard_start(folder)
    if isinstance(error, OSError):
        mend = f"{runs.kept(folder)}; mend that, then go on with `{resume_command(folder)}`" if folder.exists() else ""
        return file_error(error, "run", str(folder), mend)
    return error


def _plan(arguments: argparse.Namespace) -> None:
    """Print what a run would do."""
    from dipod.control.plan import as_text as control_text
    from dipod.control.plan import plan as control_plan
    from dipod.dry_run import as_json, as_text, plan

    if arguments.recipe is None:
        raise UserError("recipe", None, "name one (`dipod recipes` lists them)")
    config = overlay(load(arguments.recipe), arguments.settings)
    if isinstance(config, ControlConfig):
        counts = control_plan(config)
        print(json.dumps(counts) if arguments.json else control_text(counts, to_yaml(config)))
        return
    found = plan(config)
    print(json.dumps(as_json(found, config)) if arguments.json else as_text(found, to_yaml(config)))


def _started(arguments: argparse.Namespace) -> Path:
    if arguments.recipe is None:
        raise UserError("recipe", None, "name one (`dipod recipes` lists them), or give --resume RUN")
    config = overlay(load(arguments.recipe), arguments.settings)

    def create() -> Path:
        folder: Path = arguments.out or _default_folders(config)[-1]
        _create(folder, config, arguments)
        return folder

    return by_first(create)


def _create(folder: Path, config: AnyConfig, arguments: argparse.Namespace) -> None:
    try:
        runs.create(folder, config)
    except UserError as error:
        raise blamed(error, arguments.recipe, arguments.settings) from error


def _begun_or_resumed(arguments: argparse.Namespace) -> tuple[Path, bool]:
    """The run folder, and whether the run begins: as the first process finds it, for all."""
    if arguments.recipe is None:
        raise UserError("recipe", None, "--resume auto begins where there is no run yet: name the recipe")
    config = settle(overlay(load(arguments.recipe), arguments.settings))

    def decide() -> tuple[Path, bool]:
        folder: Path = arguments.out or (_default_folders(config)[:-1] or _default_folders(config))[-1]
        new = not (folder / runs.CONFIG).exists()
        if new:
            _create(folder, config, arguments)
        else:
            _go_on(folder, config)
        return folder, new

    return by_first(decide)


def _go_on(folder: Path, config: AnyConfig) -> None:
    """See that the run in a folder has these settings, or has only fewer updates and is given as many.

    Raises:
        UserError: another setting.
    """
    held, wanted = flat(runs.read_config(folder)), flat(config)
    longer = wanted[STEPS] > held[STEPS]
    changed = [field for field in wanted if wanted[field] != held.get(field) and not (longer and field == STEPS)]
    if changed:
        mend = f"the run in {folder} has {held.get(changed[0])!r}; give another --out, or the setting that it has"
        raise UserError(changed[0], wanted[changed[0]], mend)
    note = extend(folder, {STEPS: wanted[STEPS]}) if longer else ""
    if note:
        print(f"dipod: note: {note}", file=sys.stderr)


def _see(folder: Path) -> None:
    """Wait until this process sees the run folder that the first process has.

    Raises:
        UserError: it does not.
    """
    deadline = time.monotonic() + SEEN_SECONDS
    while not first() and not (folder / runs.CONFIG).is_file():
        if time.monotonic() > deadline:
            mend = f"this process does not see it; all need the same file system ({MORE})"
            raise UserError("run", str(folder), mend)
        time.sleep(0.2)


def _resumed(arguments: argparse.Namespace) -> Path:
    if arguments.resume != LATEST:
        folder = Path(arguments.resume)
        if arguments.recipe is not None or arguments.out is not None:
            raise UserError("--resume", arguments.resume, "the run folder says everything; leave out recipe and --out")
    elif arguments.recipe is None and arguments.out is None:
        raise UserError("--resume", "", "name the run folder: dipod train --resume RUN")
    else:
        if arguments.out is None:  # then the other settings say which run is meant
            config = overlay(load(arguments.recipe), arguments.settings)
            started = _last_default_folder(config)
            kept = (STEPS, *RATES)
            own = {name: value for name, value in arguments.settings.items() if path_of(name, config) in kept}
            arguments.settings = own
        folder = arguments.out or started
    if arguments.start is not None:
        aside = by_first(lambda: rewind(folder, arguments.start))
        if aside is not None and first():
            print(f"dipod: note: what came after update {arguments.start} is in {aside}", file=sys.stderr)
    if arguments.settings:
        arguments.settings = by_first(lambda: retune(folder, arguments.settings))
    if arguments.settings:
        note = by_first(lambda: extend(folder, arguments.settings))
        if note and first():
            print(f"dipod: note: {note}", file=sys.stderr)
    return folder


def _default_folders(config: AnyConfig) -> list[Path]:
    """The run folders of the default name that exist, then the first that does not."""
    name = Path("runs") / f"{Path(config.recipe).stem}-{config.algorithm}-seed{config.seed}"
    folders = [name]
    while folders[-1].exists():
        folders.append(name.with_name(f"{name.name}-{len(folders) + 1}"))
    return folders


def _last_default_folder(config: AnyConfig) -> Path:
    *existing, following = _default_folders(config)
    if not existing:
        raise UserError("--resume", str(following), "there is no such run; start it without --resume")
    return existing[-1]

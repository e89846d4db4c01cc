"""The HTML page: what drift is, the verdict, the curves, the numbers, samples, and the settings; one file, offline."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from dipod.config import RunConfig
from dipod.files import make_folder, write_text
from dipod.recipes import to_yaml
from dipod.report.bound import FACTOR, TIGHT
from dipod.report.data import Run, labelled, number, read_runs, sentence
from dipod.report.labels import Label
from dipod.report.metrics import EVALUATED, LOOPED, SECTIONS
from dipod.report.palette import Look, looks, sweep_looks
from dipod.report.panels import Panel, cost_panels, panels, sweep_panels
from dipod.report.samples import examples
from dipod.report.svg import element
from dipod.report.tables import differences, finals
from dipod.report.verdict import Verdict, judge
from dipod.visible import escape

REPORT = "report.html"
LIVE_SECONDS = 15
STYLE = Path(__file__).with_name("page.css").read_text(encoding="utf-8")
SCRIPT = Path(__file__).with_name("page.js").read_text(encoding="utf-8")
DRIFT = (
    "A diffusion or flow policy cannot cheaply say how likely its own action is, so training puts a lower bound, the "
    "ELBO, in the place of the log-likelihood log π. Reinforcement learning moves the policy and nothing in it keeps "
    "that bound tight, so the gap, log π − ELBO, can grow: this is the first drift. The update then follows the bound "
    "instead of the likelihood and turns away from the true policy gradient: this is the second drift, and a cosine of "
    "1 between the two gradients means that there is none."
)
ANGLES = (
    "Cosines on this page compare a gradient with the policy gradient Σ A·∇log π, on the same rollouts and before a "
    "step's update. The estimator's leaves β out: what the bound does to the estimator. The update's, as made, has "
    "β·∇ELBO in it, which closes the gap and may turn the step either way."
)
BADGES = {
    "grew": "▲ gap grew",
    "held": "■ gap held",
    "fell": "▼ gap fell",
    "swung": "◆ gap swung",
    "unmeasured": "gap not measured",
}
NAMED = 4
"""Labels that fit into a title."""
WARNINGS = 3
"""Of a label's warnings, so many are shown at once."""


def write_report(folders: Sequence[Path], out: Path) -> Path:
    """Write ``report.html`` and ``figures/*.png`` for some runs into ``out``; returns the page's path.

    Args:
        folders: run folders, or folders of comparisons.
        out: made if need be.

    Raises:
        UserError: a folder without a run, or ``out`` cannot be written.
    """
    from dipod.report.figures import cost, curves, overview, save, sweep

    found = read_runs(folders)
    make_folder(out)
    groups = labelled(found)
    drawn, swept, costed = panels(groups), sweep_panels(groups), cost_panels(groups)
    styles = looks(list(groups))
    pictures = {
        **curves(drawn, styles),
        **overview(drawn, styles),
        **sweep(swept, sweep_looks(list(groups))),
        **cost(costed, styles),
    }
    save(pictures, out / "figures")
    write_text(out / REPORT, page(found))
    return out / REPORT


def write_live(folder: Path) -> Path:
    """Write the page of a run that is still going, without files of figures; it looks for a newer one by itself.

    Raises:
        UserError: no run there, or it has no metrics yet.
    """
    write_text(folder / REPORT, page(read_runs([folder]), refresh=LIVE_SECONDS))
    return folder / REPORT


def page(found: Sequence[Run], refresh: int = 0) -> str:
    """The HTML of some runs.

    Args:
        found: at least one.
        refresh: seconds after which the page loads itself again; 0 for never.
    """
    groups = labelled(found)
    named = {label.text: group for label, group in groups.items()}
    styles = looks(list(groups))
    title = _title(groups, found[0].config.recipe)
    hues = sweep_looks(list(groups))
    sections = [
        f'<header><h1>{escape(title)}</h1><button id="theme" class="needs-script">light / dark</button></header>',
        f'<p class="lead">{escape(sentence(found))}</p>',
        f"<h2>What drift is</h2><p>{escape(DRIFT)}</p>{_angles(found)}",
        _verdicts(named),
        _sweep(sweep_panels(groups), hues),
        _curves({**panels(groups), **cost_panels(groups)}, styles, list(named)),
        f"<h2>At the end</h2>{finals(named)}",
        examples(named),
        _settings(named),
        _dialog(),
    ]
    body = "\n".join(part for part in sections if part)
    attributes = f' data-refresh="{refresh}"' if refresh else ""
    head = _head(title, styles, hues, refresh)
    return f'<!doctype html>\n<html lang="en"{attributes}><head>{head}</head>\n<body>\n{body}\n</body></html>\n'


def _head(title: str, styles: Sequence[Look], hues: Sequence[Look], refresh: int) -> str:
    """Everything that the page needs, and a policy that lets it run its own script and load nothing."""
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; img-src data:"
    again = f'<noscript><meta http-equiv="refresh" content="{refresh}"></noscript>' if refresh else ""
    sets = {
        theme: "".join(
            f"--{name}{i}:{getattr(look, theme)};"
            for name, all_ in (("c", styles), ("a", hues))
            for i, look in enumerate(all_)
        )
        for theme in ("light", "dark")
    }
    colours = (
        f":root{{{sets['light']}}}@media screen{{:root[data-theme=dark]{{{sets['dark']}}}}}"
        f"@media screen and (prefers-color-scheme:dark){{:root:not([data-theme=light]){{{sets['dark']}}}}}"
    )
    return (
        f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{escape(policy)}">{again}'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><title>{escape(title)}</title>'
        f"<style>{STYLE}{colours}</style>"
    )


def _title(groups: Mapping[Label, Sequence[Run]], recipe: str) -> str:
    names = [label.text for label in groups]
    if len(names) > NAMED:
        algorithms = list(dict.fromkeys(label.algorithm for label in groups))
        varied = list(dict.fromkeys(name for label in groups for name, _ in label.settings))
        shown = ", ".join(algorithms) if len(algorithms) <= NAMED else f"{len(algorithms)} algorithms"
        names = [f"{shown} over {', '.join(varied)}" if varied else shown]
    return f"{' · '.join(names)} on {recipe}"


def _angles(found: Sequence[Run]) -> str:
    """What the cosines of a page are, where it has any."""
    if not any(run.curve(key)[0] for run in found for key in (*EVALUATED, *LOOPED)):
        return ""
    config = found[0].config
    looped, evaluated = (any(run.curve(key)[0] for run in found for key in keys) for keys in (LOOPED, EVALUATED))
    text = ANGLES
    if evaluated and isinstance(config, RunConfig):
        text += f" At evaluations they are taken on {config.trainer.cosine_rollouts} rollouts of a step."
    if looped:
        what = "rollouts" if isinstance(config, RunConfig) else "transitions"
        text += f" In the loop the monitor takes them at its looks, on {config.monitor.aligned} {what} of a step."
    if looped and evaluated:
        text += " So few scatter, and the two differ"
        text += "; neither is of held-out problems." if isinstance(config, RunConfig) else "."
    return f"<p>{escape(text)}</p>"


def _verdicts(named: Mapping[str, Sequence[Run]]) -> str:
    cards = [_card(judge(name, group), i) for i, (name, group) in enumerate(named.items())]
    note = (
        f"A gap is called held if every look at every run found it within a factor of {FACTOR:g} of where it began, or "
        f"below {TIGHT:g} nats. All sentences are made from the runs' numbers alone."
    )
    return f'<h2>Verdict</h2><div class="verdicts">{"".join(cards)}</div><p class="soft">{note}</p>'


def _card(verdict: Verdict, place: int) -> str:
    told = "".join(f"<p>{escape(text)}</p>" for text in verdict.sentences)
    raised = [
        f'<p class="warning">Warning at update {step}, seed {seed}: {escape(text)}</p>'
        for seed, step, text in verdict.warnings
    ]
    first, rest = raised[-WARNINGS:], raised[:-WARNINGS]
    more = f"<details><summary>{len(rest)} earlier warnings</summary>{''.join(rest)}</details>" if rest else ""
    end = "" if verdict.movement == "unmeasured" else f", {number(verdict.gap)} nats {verdict.when}"
    badge = f'<span class="badge {verdict.movement}">{BADGES[verdict.movement]}{end}</span>'
    head = f"<h3>{escape(verdict.label)} {badge}</h3>"
    return f'<article class="verdict" style="--c:var(--c{place})">{head}{told}{"".join(first)}{more}</article>'


def _sweep(drawn: Mapping[str, Panel], hues: Sequence[Look]) -> str:
    if not drawn:
        return ""
    first = next(iter(drawn.values()))
    names = [series.label for series in first.series]
    legend = _legend(names, hues, "a") if len(names) > 1 else ""
    figures = "".join(_figure(panel, hues, "a") for panel in drawn.values())
    note = "Points are runs, one a seed; the line joins their medians."
    head = f"<h2>Final values over {escape(first.across.partition(',')[0])}</h2>"
    return f'{head}<p class="soft">{note}</p>{legend}<div class="curves">{figures}</div>'


def _curves(drawn: Mapping[str, Panel], styles: Sequence[Look], names: Sequence[str]) -> str:
    if not drawn:
        return "<h2>Curves</h2><p>Nothing has been measured twice yet.</p>"
    note = (
        "Thick lines are medians over seeds; bands reach from the least seed to the greatest, from five seeds on "
        "between the quartiles; thin lines are single runs."
    )
    reach = ' <span class="needs-script">Point at a figure for its values, click it to enlarge.</span>'
    legend = _legend(names, styles, "c") if len(names) > 1 else ""
    parts = []
    for title, keys in SECTIONS.items():
        figures = "".join(_figure(drawn[key], styles, "c") for key in keys if key in drawn)
        parts += [f'<h3>{title}</h3><div class="curves">{figures}</div>'] if figures else []
    return f'<section><h2>Curves</h2><p class="soft">{note}{reach}</p>{legend}{"".join(parts)}</section>'


def _legend(names: Sequence[str], styles: Sequence[Look], colours: str) -> str:
    entries = []
    for i, name in enumerate(names):
        dash = f' stroke-dasharray="{styles[i].dash}"' if styles[i].dash else ""
        line = f'<path d="M0 5H30" stroke="var(--{colours}{i})" stroke-width="3"{dash}/>'
        swatch = f'<svg viewBox="0 0 30 10" aria-hidden="true">{line}</svg>{escape(name)}'
        button = f'<button data-name="{colours}{i}" aria-pressed="true">{swatch}</button>'
        entries.append(button if colours == "c" else f"<span>{swatch}</span>")
    return f'<div class="legend{"" if colours == "c" else " still"}">{"".join(entries)}</div>'


def _figure(panel: Panel, styles: Sequence[Look], colours: str) -> str:
    name = f"{panel.title} ({panel.unit})"
    note = f'<p class="note soft">{escape(panel.note)}</p>' if panel.note else ""
    return (
        f'<figure class="chart"><figcaption data-name="{escape(name)}"><b>{escape(panel.title)}</b>'
        f'<span class="unit">{escape(panel.unit)}</span>'
        f'<button class="enlarge needs-script" aria-label="Enlarge: {escape(panel.title)}">⤢</button></figcaption>'
        f'<div class="plot">{element(panel, styles, colours)}</div>{note}</figure>'
    )


def _settings(named: Mapping[str, Sequence[Run]]) -> str:
    """The settings that differ between labels, and all of the first run's."""
    name, (first, *_) = next(iter(named.items()))
    summary = f"All settings of {escape(name)}, seed {first.config.seed}"
    whole = f"<details><summary>{summary}</summary><pre>{escape(to_yaml(first.config))}</pre></details>"
    return f"<h2>Settings</h2>{differences(named)}{whole}"


def _dialog() -> str:
    """What an enlarged figure stands in, what values are shown in, and the script that does both."""
    buttons = "".join(
        f'<button data-action="{action}" aria-label="{words}">{sign}</button>'
        for action, words, sign in (
            ("in", "Zoom in", "+"),
            ("out", "Zoom out", "−"),
            ("whole", "Whole figure", "⟲"),
            ("close", "Close", "✕"),
        )
    )
    box = (
        f'<dialog aria-label="Enlarged figure"><div class="bar"><b></b>{buttons}</div><div class="plot"></div></dialog>'
    )
    return f'{box}<div id="tip" role="status" hidden></div><script>{SCRIPT}</script>'

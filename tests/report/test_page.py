"""The page: whole in one file, true to the numbers, safe with any text."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import pytest

from dipod.report import Run, write_live, write_report
from dipod.report.live import Live
from dipod.report.page import SCRIPT, page
from dipod.runs import Silent, create, train
from tests.report.building import build_run, long_run
from tests.test_trainer import tiny


class Reader(HTMLParser):
    """Tags with their attributes, and the text of table cells with their keys."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.depth: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "br", "input"):
            self.depth.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.depth.pop() == tag


@pytest.fixture(scope="module")
def twenty() -> list[Run]:
    names = ("fpo", "fpo+dipod", "spg", "spg+dipod", "d1", "wd1", "espo")
    return [long_run(name, seed) for name in names for seed in range(3)][:20]


def test_twenty_runs_make_one_file_that_needs_nothing_else(twenty: list[Run]) -> None:
    html = page(twenty)
    assert len(html.encode()) < 3_000_000
    found = Reader(html)
    assert found.depth == []
    assert "http:" not in html
    assert "https:" not in html
    assert not [tag for tag, attributes in found.tags if {"src", "href", "srcset"} & attributes.keys()]
    assert not re.search(r"@import|url\(|fetch\(|XMLHttpRequest|import\(", html)


def test_only_the_pages_own_script_may_run_and_nothing_may_be_loaded() -> None:
    html = page([build_run()])
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    policy = next(a["content"] for tag, a in Reader(html).tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert "default-src 'none'" in policy
    assert f"script-src 'sha256-{digest}'" in policy
    assert f"<script>{SCRIPT}</script>" in html
    assert len(SCRIPT.splitlines()) < 200


def test_the_last_numbers_of_every_run_stand_in_the_table_with_numeric_keys(twenty: list[Run]) -> None:
    html = page(twenty)
    rows = re.findall(r"<tr><th scope=\"row\" data-key=\"([^\"]+)\">.*?</th>(.*?)</tr>", html)
    keys = {name: re.findall(r'<td data-key="([^"]*)">', cells) for name, cells in rows}
    for run in twenty:
        cells = [float(key) for key in keys[f"{run.config.algorithm}, seed {run.config.seed}"] if key]
        for metric in ("gap", "cosine", "solved_sampled", "reward", "monitor_gap"):
            assert run.last(metric) in cells
    for label in ("fpo", "spg+dipod"):
        assert all(float(key) == float(key) for key in keys[label] if key)


def test_missing_metrics_leave_no_empty_figure_and_no_empty_column() -> None:
    run = build_run()
    html = page([run])
    assert html.count('<figure class="chart">') == len(re.findall(r'class="middle"[^>]* d="M', html)) == 4
    assert "in the loop" not in html
    bare = page([replace(run, metrics=run.metrics[:1])])
    assert "<figure" not in bare
    assert "Nothing has been measured twice yet" in bare


def test_cosines_are_explained_once_where_there_are_any(twenty: list[Run]) -> None:
    html = page(twenty)
    assert html.count("Cosines on this page compare") == 1
    (count,) = {run.config.trainer.cosine_rollouts for run in twenty}  # type: ignore[union-attr]
    assert f"At evaluations they are taken on {count} rollouts of a step. In the loop the monitor takes them" in html
    assert "Cosines" not in page([replace(run := build_run(), metrics=run.metrics[:1])])


def test_nothing_asks_for_a_click_where_no_script_runs(twenty: list[Run]) -> None:
    html = page(twenty).replace(SCRIPT, "")
    for word in ("click", "Point at"):
        assert word not in re.sub(r'<span class="needs-script">.*?</span>', "", html)


def test_hostile_text_stays_text() -> None:
    evil = "</script><script>alert(1)</script><img src=x onerror=alert(1)>"
    sample = {"prompt": evil, "reference": evil, "sampled": evil, "greedy": evil}
    metrics = [*build_run().metrics, {"step": 10, "warning": evil}]
    config = build_run("fpo", 0, train_csv=evil).config
    html = page([Run(Path("x"), config, metrics, {"before": [sample], "after": [sample]}), build_run("fpo", 1)])
    assert "<img" not in html
    assert html.count("<script>") == 1
    assert "alert(1)" in unescape(html)
    assert Reader(html).depth == []


def test_every_figure_has_words_for_those_who_do_not_see_it() -> None:
    html = page([build_run("fpo", 0, 0.5, 3.25)])
    tags = Reader(html).tags
    named = [a["aria-labelledby"] for tag, a in tags if tag == "svg" and a.get("role") == "img"]
    identities = [a["id"] for _, a in tags if "id" in a]
    assert len(identities) == len(set(identities))
    assert all(part in identities for name in named if name for part in name.split())
    assert re.search(r"<desc[^>]*>Gap, log π − ELBO. fpo: 0.01 at update 0, 3.25 at update 9.</desc>", html)


def test_values_beside_a_figure_are_the_medians() -> None:
    html = page([build_run("fpo", seed, 0.5, gap) for seed, gap in enumerate((1.0, 2.0, 4.0))])
    values = [
        json.loads(text) for text in re.findall(r'<script type="application/json" class="values">(.*?)</script>', html)
    ]
    gap = next(v for v in values if v["log"])
    assert gap["series"][0] == {
        "name": "c0",
        "label": "fpo",
        "x": [0, 9],
        "y": [0.01, 2],
        "low": [0.01, 1],
        "high": [0.01, 4],
    }


def test_a_real_comparison_shows_boards_settings_and_figures(tmp_path: Path) -> None:
    for seed in (0, 1):
        create(tmp_path / "C" / "fpo" / f"seed-{seed}", tiny(algorithm="fpo", seed=seed))
        train(tmp_path / "C" / "fpo" / f"seed-{seed}", Silent())
    html = write_report([tmp_path / "C"], tmp_path / "out").read_text()
    assert html.count('<table class="board">') == 16
    assert "algorithm: fpo" in html
    assert "first drift" in html
    assert {"overview.png", "gap.png"} <= {path.name for path in (tmp_path / "out" / "figures").iterdir()}


def test_a_run_that_goes_on_has_a_page_that_looks_again(tmp_path: Path) -> None:
    create(tmp_path, tiny(algorithm="fpo"))
    pages: list[str] = []

    class Watcher(Silent):
        def trained(self, metrics: object, steps: int) -> None:
            del metrics, steps
            path = tmp_path / "report.html"
            pages.append(path.read_text() if path.exists() else "")

    train(tmp_path, Live(tmp_path, Watcher()))
    assert pages[0] == ""
    assert "0 of 6" in pages[1]
    assert 'data-refresh="' in pages[1]
    assert "3 of 6" in pages[4]
    assert "Not finished" not in write_live(tmp_path).read_text()
    assert "data-refresh" not in write_report([tmp_path], tmp_path).read_text().replace(SCRIPT, "")

"""Tables, sentence and figure, from measurements that are written down."""

from __future__ import annotations

import json
from pathlib import Path

from dipod.decoders import How
from dipod.flexibility import Flexibility, Row
from dipod.report.flexibility import as_json, heat_map, sentence, table, text, write

NOTHING: dict[How, float] = {"sampled": 0.0, "greedy": 0.0}


def one(policy: str, seed: int, trained: str = "random", **sampled: float) -> Flexibility:
    rows = []
    for name, share in sampled.items():
        solved: dict[How, float] = {"sampled": share, "greedy": 1.0}
        rows.append(Row(name.replace("_2", "/tokens2"), name, solved, NOTHING))
    return Flexibility(policy, seed, 10, f"{policy}/{seed}", 0.25 if seed else None, trained, tuple(rows))


FOUND = [
    one("before RL", 0, random=0.1, margin=0.1, random_2=0.05),
    one("fpo", 0, random=0.5, margin=0.75, random_2=0.25),
    one("fpo", 1, random=0.25, margin=0.5, random_2=0.0),
    one("fpo", 2, random=0.75, margin=0.5, random_2=0.5),
    one("spg", 0, trained="margin", margin=0.875),
]


def test_medians_are_over_seeds_and_losses_are_paired() -> None:
    found = as_json(FOUND)
    assert len(found["measurements"]) == len(FOUND)
    assert found["medians"]["fpo"]["margin"]["solved_sampled"] == 0.5
    assert found["medians"]["fpo"]["margin"]["loss_sampled"] == -0.25, "of -1/4, -1/4 and 1/4"
    assert found["medians"]["fpo"]["random/tokens2"]["loss_sampled"] == 0.25
    assert found["medians"]["fpo"]["random"]["loss_greedy"] == 0
    assert set(found["medians"]["spg"]) == {"margin"}


def test_a_table_has_every_seed_and_the_median() -> None:
    assert table(FOUND, "sampled") == [
        ["decoder", "before RL", "fpo", "spg"],
        ["random", "10.0", "50.0 25.0 75.0 | 50.0", ""],
        ["margin", "10.0", "75.0 50.0 50.0 | 50.0", "87.5"],
        ["random_2", "5.0", "25.0 0.0 50.0 | 25.0", ""],
    ]
    first, second = text(FOUND).split("\n\n")
    assert first.startswith("solved, %, temperature 1")
    assert second.startswith("solved, %, temperature 0")
    assert all(len(line) <= len(first.splitlines()[0]) for line in first.splitlines())


def test_the_sentence_says_what_was_measured() -> None:
    assert sentence(FOUND) == (
        "before RL solves 10.0 % as trained, 10.0 % in other orders or blocks, 5.0 % with several "
        "tokens a step; fpo solves 50.0 % as trained, 50.0 % in other orders or blocks, 25.0 % with "
        "several tokens a step; spg solves 87.5 % as trained."
    )


def test_the_figure_has_a_cell_for_everything_measured(tmp_path: Path) -> None:
    figure = heat_map(FOUND)
    assert [len(axes.texts) for axes in figure.axes] == [7, 7, 7, 7]
    assert [label.get_text() for label in figure.axes[2].get_xticklabels()] == ["before RL", "fpo", "spg"]
    paths = write(FOUND, {"recipe": "<none>", "problems": 8}, tmp_path / "new")
    assert [path.name for path in paths] == ["flexibility.json", "flexibility.png", "flexibility.html"]
    assert json.loads(paths[0].read_text())["problems"] == 8
    page = paths[2].read_text()
    assert "&lt;none&gt;" in page
    assert "http" not in page
    assert page.count("<table>") == 3

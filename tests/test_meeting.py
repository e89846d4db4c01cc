"""Processes meet in time or say who is missing, and all end when one does; here they are threads with a store."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

from dipod import meeting, partners
from dipod.errors import Note, UserError
from dipod.launch import START, WAIT, Launch, minutes, said_count, separate_tasks
from dipod.meeting import Meeting, connect, meet
from dipod.parallel import start

LONG, SHORT = 30.0, 0.5
ALL = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "node-a", "MASTER_PORT": "29500"}


@pytest.fixture(autouse=True)
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ANSWER_SECONDS", "LINGER_SECONDS"):
        monkeypatch.setattr(meeting, name, SHORT)
    monkeypatch.setattr(meeting, "FIRST_SECONDS", 0.0)
    monkeypatch.setattr(meeting, "LOOK_SECONDS", 0.02)


@pytest.fixture
def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture
def agent() -> TCPStore:
    """A launcher's store, which stays when its processes are started anew."""
    return TCPStore("127.0.0.1", 0, None, True, wait_for_workers=False)


def outcome(work: Callable[[], Any]) -> Any:
    try:
        return work()
    except (UserError, SystemExit) as end:
        return end


def together(launches: list[Launch], seconds: float = LONG) -> list[Any]:
    """What `meet` comes to on each."""
    with ThreadPoolExecutor(len(launches)) as pool:
        return list(pool.map(lambda launch: outcome(lambda: meet(launch, seconds)), launches))


def of_three(port: int, *ranks: int, hosted: bool = False) -> list[Launch]:
    return [Launch(rank, 3, "127.0.0.1", port, hosted) for rank in ranks]


def only_error(outcomes: list[Any]) -> str:
    """The one mistake of several processes, of which the others end without a word."""
    errors = [end for end in outcomes if isinstance(end, UserError)]
    silent = [end.code for end in outcomes if isinstance(end, SystemExit)]
    assert len(errors) == 1, outcomes
    assert silent == [2] * (len(outcomes) - 1)
    return str(errors[0])


def test_processes_meet_and_rank_0_answers_for_all(port: int) -> None:
    met: list[Meeting] = together(of_three(port, 2, 0, 1))
    with ThreadPoolExecutor(3) as pool:
        asked = list(pool.map(lambda m: [m.by_first(lambda: m.launch.rank), m.by_first(lambda: "x")], met))
    assert asked == [[0, "x"]] * 3

    def refuse() -> None:
        raise UserError("out", "run", "another process works there")

    with ThreadPoolExecutor(3) as pool:
        refused = list(pool.map(lambda m: outcome(lambda: m.by_first(refuse)), met))
    assert [str(error) for error in refused] == ["out = 'run': another process works there"] * 3
    assert met[0].names([1]) == f"rank 1 ({socket.gethostname()}, process {os.getpid()})"


def test_who_does_not_come_is_named_once_and_all_end(port: int) -> None:
    said = only_error(together(of_three(port, 0, 1), seconds=1.0))
    assert said.startswith(
        f"WORLD_SIZE = 3: rank 2 did not come to 127.0.0.1:{port} within 0.0166667 minutes; start it"
    )
    assert START in said


@pytest.mark.parametrize("hosted", [False, True])
def test_rank_0_that_does_not_come_is_named(port: int, agent: TCPStore, hosted: bool) -> None:
    launch = Launch(1, 2, "127.0.0.1", agent.port if hosted else port, hosted)
    with pytest.raises(
        UserError,
        match=r"MASTER_ADDR = '127\.0\.0\.1:\d+': rank 0 (did not answer|of this run did not come) there within",
    ):
        meet(launch, SHORT)


def test_another_world_size_is_named(port: int) -> None:
    launches = [Launch(0, 2, "127.0.0.1", port), Launch(1, 3, "127.0.0.1", port)]
    assert only_error(together(launches)) == "WORLD_SIZE = 3: it is 2 on rank 0 and 3 on rank 1; give all the same"


def test_a_rank_given_twice_is_named(port: int) -> None:
    assert only_error(together(of_three(port, 0, 1, 1))) == "RANK = 1: two processes have it; give each its own"


def test_a_port_that_another_program_has_is_named(port: int) -> None:
    with socket.socket() as taken:
        taken.bind(("", port))
        taken.listen()
        with pytest.raises(UserError, match=f"MASTER_PORT = {port}: choose another, .*another program has it"):
            connect(Launch(0, 2, "127.0.0.1", port), SHORT)


def test_what_the_dead_left_in_the_launcher_s_store_disturbs_nobody(agent: TCPStore) -> None:
    launches = of_three(agent.port, 0, 1, 2, hosted=True)
    only_error(together(launches[:2], seconds=SHORT))  # the first start fails, and says so in the store
    first, second = together(launches), together(launches)
    assert {m.name for m in first}.isdisjoint({m.name for m in second})
    assert first[2].fail(2) == [0, 1]
    assert not second[0].store.check(["failed"])


def test_a_late_comer_ends_alone(agent: TCPStore) -> None:
    launches = of_three(agent.port, 0, 1, 2, hosted=True)
    met = together(launches)
    with pytest.raises(UserError, match=r"met there without this one|did not come there"):
        meet(launches[1], SHORT)
    assert not met[0].store.check(["failed"])


def test_one_fails_and_all_end_with_its_status_but_one_alone_says_it(
    agent: TCPStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    met: list[Meeting] = together(of_three(agent.port, 0, 1, 2, hosted=True))
    ended: dict[str, int] = {}
    monkeypatch.setattr(os, "_exit", lambda status: ended.update({threading.current_thread().name: status}))
    stores = [PrefixStore(m.name, connect(m.launch, LONG)) for m in met]
    watching = [
        threading.Thread(target=m.watch, args=(store,), name=str(m.launch.rank))
        for m, store in zip(met, stores, strict=True)
        if m.launch.rank != 2  # it is dead
    ]
    for thread in watching:
        thread.start()
    assert met[1].fail(7) == [2]
    for thread in watching:
        thread.join(LONG)
    assert ended == {"0": 7}
    assert met[0].fail(2) is None


def test_the_end_of_the_store_ends_who_still_runs(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[int] = []
    monkeypatch.setattr(os, "_exit", ended.append)
    store = TCPStore("127.0.0.1", port, None, True, timedelta(seconds=30), wait_for_workers=False)
    launch = Launch(1, 2, "127.0.0.1", port)
    running, done = (Meeting(launch, "m", PrefixStore("m", connect(launch, LONG))) for _ in range(2))
    threads = [
        threading.Thread(target=m.watch, args=(PrefixStore("m", connect(launch, LONG)),)) for m in (running, done)
    ]
    for thread in threads:
        thread.start()
    done.part()
    del store
    for thread in threads:
        thread.join(LONG)
    assert ended == [1]


def test_the_environment_says_who_a_process_is(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ALL:
        monkeypatch.delenv(name, raising=False)
    assert Launch.found() is None
    for name, value in ALL.items():
        monkeypatch.setenv(name, value)
    assert Launch.found() == Launch(1, 2, "node-a", 29500)
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    assert Launch.found() == Launch(1, 2, "node-a", 29500, hosted=True)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"WORLD_SIZE": ""}, "WORLD_SIZE = None: RANK=1, .* is set without it; start with torchrun"),
        ({"RANK": ""}, "RANK = None: WORLD_SIZE=2, .* is set without it"),
        ({"MASTER_ADDR": ""}, "MASTER_ADDR = None: .* is set without it"),
        ({"MASTER_PORT": "high"}, "MASTER_PORT = 'high': give a whole number"),
        ({"RANK": "2"}, r"RANK = 2: give one from 0 to WORLD_SIZE - 1 \(1\)"),
        ({"RANK": "", "WORLD_SIZE": "", "PMI_SIZE": "4"}, "PMI_SIZE = '4': RANK and WORLD_SIZE are not set"),
    ],
)
def test_half_an_environment_is_refused(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, str], complaint: str
) -> None:
    for name, value in {**ALL, **changes}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=complaint):
        Launch.found()


def test_time_limits_are_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (minutes(START), minutes(WAIT)) == (10, 30)
    monkeypatch.setenv(WAIT, "0.5")
    assert minutes(WAIT) == 0.5
    for bad in ("0", "soon", "nan", "inf"):
        monkeypatch.setenv(WAIT, bad)
        with pytest.raises(UserError, match=f"{WAIT} = '{bad}': give a positive number"):
            minutes(WAIT)


def test_tasks_of_srun_that_do_not_know_each_other_are_counted_on_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    assert separate_tasks() == 0
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    monkeypatch.setenv("SLURM_PROCID", "0")
    assert separate_tasks() == 4
    monkeypatch.setenv("SLURM_PROCID", "1")
    assert separate_tasks() == 0
    monkeypatch.setenv("SLURM_PROCID", "0")
    monkeypatch.setenv("RANK", "0")
    assert separate_tasks() == 0


def test_the_python_interface_says_that_copies_are_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the terminal how many processes run, where a launcher was used."""
    for name in (name for name in os.environ if name.startswith(("ACCELERATE_", "SLURM_"))):
        monkeypatch.delenv(name)
    assert said_count() == ""
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    assert said_count() == ", 1 process"
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    monkeypatch.setenv("SLURM_PROCID", "0")
    with pytest.warns(Note, match="srun started 4 processes that do not know each other"):
        start()
    for name, value in {"RANK": "1", "WORLD_SIZE": "3", "MASTER_ADDR": "here", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    assert said_count() == ", 3 processes"


CLOSED = RuntimeError(
    "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer [10.0.0.2]:5033"
)
LATE = RuntimeError(
    "[/pytorch/third_party/gloo/gloo/transport/tcp/unbound_buffer.cc:78] Timed out waiting 6000ms for recv"
)


def test_a_lost_partner_is_one_line_with_its_place(agent: TCPStore, monkeypatch: pytest.MonkeyPatch) -> None:
    assert partners.broke(CLOSED)
    assert not partners.broke(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    met: list[Meeting] = together(of_three(agent.port, 0, 1, 2, hosted=True))
    monkeypatch.setattr(partners, "_met", {met[0].launch: met[0]})
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "3")
    where = f"rank 1 ({socket.gethostname()}, process {os.getpid()})"
    assert partners.loss(CLOSED, [1]).startswith(
        f"rank 0 of 3 lost {where}, and all stop; the same command with --resume"
    )
    assert partners.loss(CLOSED, []).startswith("rank 0 of 3 lost another process, and all stop")
    assert partners.loss(LATE, [1]) == f"rank 0 of 3 waited 30 minutes for the others in vain; {where} does not answer"
    assert "all answer, so one is slow: raise DIPOD_WAIT_MINUTES" in partners.loss(LATE, [])


def test_a_mistake_before_the_processes_have_met_is_said_by_one(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two that fail meet first; a process of its own always speaks."""
    assert partners.fail(2) == []
    monkeypatch.setattr(meeting, "ANSWER_SECONDS", LONG)
    launches = [Launch(rank, 2, "127.0.0.1", port) for rank in range(2)]
    here = threading.local()
    monkeypatch.setattr(Launch, "found", lambda: here.launch)
    monkeypatch.setattr(partners, "_met", {})

    def fails(launch: Launch) -> list[int] | None:
        here.launch = launch
        return partners.fail(2)

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(fails, launches), key=str) == [None, []]

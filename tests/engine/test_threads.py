"""Threads are as many as the CPUs that this process may use, and sleep when idle."""

from __future__ import annotations

import os

import pytest

from tokenwire_engine import threads


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMP_NUM_THREADS", "GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.setenv(name, "")  # so that it is restored afterwards
        monkeypatch.delenv(name)


def test_one_thread_for_each_cpu_that_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 3, 5})
    monkeypatch.setattr(threads, "_cgroup_quota", lambda: None)
    assert threads.configure() == 3
    assert os.environ["OMP_NUM_THREADS"] == "3"
    assert int(os.environ["GOMP_SPINCOUNT"]) == threads.SPIN_COUNT


def test_a_quota_is_rounded_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    monkeypatch.setattr(threads, "_cgroup_quota", lambda: 2.5)
    assert threads.available_cpus() == 3
    monkeypatch.setattr(threads, "_cgroup_quota", lambda: 0.1)
    assert threads.available_cpus() == 1


def test_what_the_environment_says_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    assert threads.configure() == 7
    assert "GOMP_SPINCOUNT" not in os.environ


def test_fewer_cpus_than_the_machine_has_are_said_with_both_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    said = "computing on 2 of this machine's 64 CPUs, which is what the process may use"
    assert threads.shortage(2) == said
    assert threads.shortage(64) is None

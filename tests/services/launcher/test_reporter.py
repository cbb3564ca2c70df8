"""What `serve` shows, on a terminal and elsewhere."""

import errno
import io
import os

import pytest
from rich.console import Console

from tokenwire_services.launcher.process import Progress
from tokenwire_services.launcher.reporter import PlainReporter, TerminalReporter


def test_every_line_says_where_it_comes_from():
    stream = io.StringIO()
    reporter = PlainReporter(stream, ["engine", "tokenizer"])
    reporter.line("engine", "hello")
    reporter.notice("all is well")

    assert stream.getvalue() == "engine    | hello\ntokenwire | all is well\n"


def test_each_phase_of_a_start_is_one_line():
    stream = io.StringIO()
    reporter = PlainReporter(stream, ["engine"])
    for fraction in (0.0, 0.5, 1.0):
        reporter.progress("engine", Progress("loading weights", fraction))
    reporter.progress("engine", Progress("ready"))

    assert stream.getvalue() == "engine    | loading weights\nengine    | ready\n"


class Broken(io.StringIO):
    """Takes nothing."""

    def __init__(self, number):
        super().__init__()
        self.number = number

    def write(self, text):
        raise OSError(self.number, os.strerror(self.number))


@pytest.mark.parametrize("number", [errno.EPIPE, errno.ENOSPC])
def test_a_reader_that_went_away_or_a_disk_that_is_full_stops_nothing(number):
    PlainReporter(Broken(number), ["engine"]).line("engine", "hello")


def test_a_terminal_that_went_away_stops_nothing():
    reporter = TerminalReporter(Console(file=Broken(errno.EIO), force_terminal=True), ["engine"])
    reporter.line("engine", "hello")
    reporter.close()


def test_a_terminal_shows_bars_until_all_is_ready_and_leaves_only_the_lines():
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=80, color_system="standard")
    reporter = TerminalReporter(console, ["engine", "gateway"])
    reporter.progress("engine", Progress("loading weights", 0.5))
    reporter.line("engine", "[not markup]")
    for process in ("engine", "gateway"):
        reporter.progress(process, Progress("ready"))
    reporter.notice("done")
    reporter.progress("engine", Progress("loading weights", 0.1))  # a restart shows no bar
    reporter.close()

    shown = stream.getvalue()
    assert "starting" in shown
    assert "[not markup]" in shown
    assert shown.rstrip().endswith("done")

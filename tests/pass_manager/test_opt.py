import io
import re
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from codesign.errors import InputError
from codesign.ir.annotation import find
from codesign.ir.annotations import Work
from codesign.ir.printer import print_graph
from codesign.ir.program import Program
from codesign.pass_manager.base import Pass, PassContext
from codesign.pass_manager.instruments import PassTime, TimingReport
from codesign.pass_manager.manager import PassManager
from codesign.pass_manager.opt import run_pipeline
from codesign.pass_manager.pipeline import parse_pipeline
from codesign.testing.programs import small_program


@dataclass
class Recorder:
    events: list[str] = field(default_factory=list)

    def before(self, index: int, pass_: Pass, program: Program) -> None:
        self.events.append(f"before {index} {pass_}")

    def after(self, index: int, pass_: Pass, program: Program, seconds: float) -> None:
        assert seconds >= 0
        self.events.append(f"after {index} {pass_}")


def test_instruments_see_every_pass_in_order() -> None:
    recorder = Recorder()
    PassManager(parse_pipeline("infer-shapes,count-work"), [recorder]).run(small_program(), PassContext())
    expected = ["before 0 infer-shapes", "after 0 infer-shapes", "before 1 count-work", "after 1 count-work"]
    assert recorder.events == expected


def test_print_after_all_writes_the_graph_after_every_pass(capsys: pytest.CaptureFixture[str]) -> None:
    program, stream = small_program(), io.StringIO()
    report = run_pipeline(program, "infer-shapes,count-work", PassContext(), print_after_all=stream)
    sections = re.split(r"// ----- (\d+: after [\w-]+) -----\n", stream.getvalue())
    assert sections[1::2] == ["001: after infer-shapes", "002: after count-work"]
    assert "#work" not in sections[2]
    assert sections[4] == print_graph(program.graph)
    assert [row.text for row in report.passes] == ["infer-shapes", "count-work"]
    assert capsys.readouterr() == ("", "")


def test_dumps_are_numbered(tmp_path: Path) -> None:
    program = small_program()
    folder = tmp_path / "dumps"
    run_pipeline(program, "infer-shapes,count-work", PassContext(), dump_folder=folder)
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["000_input.txt", "001_infer-shapes.txt", "002_count-work.txt"]
    assert (folder / "002_count-work.txt").read_text() == print_graph(program.graph)


def test_a_mistyped_pipeline_changes_nothing() -> None:
    program = small_program()
    with pytest.raises(InputError, match="did you mean 'count-work'"):
        run_pipeline(program, "infer-shapes,count-werk", PassContext())
    assert all(find(node, Work) is None for node in program.graph.graph)


def test_the_timing_table_adds_up() -> None:
    report = TimingReport((PassTime("count-work", 1.0), PassTime("sensitivity{method=kl}", 3.0)))
    assert report.total_s == 4.0
    assert str(report).splitlines() == [
        "   seconds   share  pass",
        "     1.000   25.0%  count-work",
        "     3.000   75.0%  sensitivity{method=kl}",
        "     4.000          total",
    ]
    assert TimingReport(()).total_s == 0.0

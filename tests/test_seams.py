"""The matrix of the seams: each defect that one of them had, and the relatives that are tried with it.

A test that belongs to a row is marked ``@pytest.mark.seam(row, *relatives)``. ``python -m tests.test_seams`` prints the
matrix; the test makes sure that no row is without tests, and none with the example alone.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

from lazyengine.text import table

TESTS = Path(__file__).resolve().parent
ROWS = {
    1: "the loop owns the pass",
    2: "schedules and what follows a metric without what they need",
    3: "stepped has one meaning",
    4: "one loss, several optimizers",
    5: "an evaluation computes as training does",
    6: "testing within training disturbs nothing",
    7: "the running runner is current",
    8: "training again continues",
    9: "signals during a validation",
    10: "draws of hooks at every point",
    11: "the module is asked",
    12: "one door for weights",
    13: "a bug is not the user's mistake",
    14: "the average follows",
    15: "a closure's NaN",
    16: "modes",
    17: "results are never cut in silence",
    18: "the log shows training",
    19: "the rule of a metric",
    20: "hooks have names and follow the loop",
    21: "another batch size, dataset or accumulation",
}


def marks() -> dict[int, dict[str, set[str]]]:
    """Return for each row the tests that are marked for it, each with its relatives."""
    found: dict[int, dict[str, set[str]]] = defaultdict(dict)
    for path in sorted(TESTS.rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            for decorator in getattr(node, "decorator_list", []):
                if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "pytest.mark.seam":
                    row, *relatives = (ast.literal_eval(argument) for argument in decorator.args)
                    found[row][f"{path.relative_to(TESTS)}::{node.name}"] = set(relatives)  # type: ignore[attr-defined]
    return found


def test_every_row_has_tests_on_the_example_and_on_relatives():
    found = marks()
    assert set(found) == set(ROWS)
    poor = {row: tests for row, tests in found.items() if len(set().union(*tests.values())) < 3}
    assert not poor


if __name__ == "__main__":
    rows: list[tuple[object, ...]] = [("row", "what", "tests", "relatives")]
    for number, tests in sorted(marks().items()):
        rows.append((number, ROWS[number], len(tests), ", ".join(sorted(set().union(*tests.values())))))
    print(table(rows))
